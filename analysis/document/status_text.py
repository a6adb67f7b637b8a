"""The status of a sweep as text for a terminal of 80 columns."""

import shlex

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.tables.formatting import FLOP_SUFFIXES, count
from analysis.tables.sweep_status import Cost, Failure, StudyStatus, SweepStatus, TrialStatus
from analysis.tables.trials import BEST_FIRST
from lmcore import columns as col

WIDTH = 80  # characters
ALWAYS = (col.COMPLETE, col.PRUNED, col.RUNNING)
"""Statuses that have a column even if no trial has them."""
LEAST_RUNNING = 4


def status_text(status: SweepStatus, resume: str, lines: int = 50) -> Group:
    """The status as tables; `resume` is the command that resumes a sweep, `lines` is how many fit on the screen.

    >>> Console().print(status_text(sweep_status("runs/quick"), "lmsweep run --resume"))
    """
    studies = _studies(status.studies)
    parts: list[RenderableType] = [*map(Text, _head(status, resume)), studies]
    running = [trial for study in status.studies for trial in study.running]
    if running:
        used = len(parts) + len(status.studies) + len(status.failures) + 11  # headings, rules, and lines that wrap
        parts.append(_running(running, max(LEAST_RUNNING, lines - used), status.driver))
    if status.failures:
        parts.append(Text(" did not finish"))
        parts += [Text(f"  {failure_text(failure)}") for failure in status.failures]
    return Group(*parts)


def _head(status: SweepStatus, resume: str) -> list[str]:
    of = "" if status.planned is None else f" of {status.planned}"
    lines = [f"{status.run}: {status.ended}{of} trials have ended" + _left(status)]
    lines.append(_activity(status, resume))
    if status.driver and status.slots is not None:
        queued = f", {status.queued} queued" if status.queued else ""
        lines.append(f"{status.slots_in_use} of {status.slots} slots in use{queued}")
    if spent := cost_text(status.cost):
        lines.append(spent)
    return lines


def cost_text(cost: Cost) -> str:
    """`cost so far: 0.102 device-hours, 3.62T FLOPs, 23% of peak`; "" if nothing is known."""
    spent = [] if cost.device_hours is None else [f"{_hours(cost.device_hours)} device-hours"]
    spent += [] if cost.flops is None else [f"{count(cost.flops, FLOP_SUFFIXES)} FLOPs"]
    spent += [] if cost.peak_share is None else [f"{cost.peak_share:.0%} of peak"]
    return f"cost so far: {', '.join(spent)}" if spent else ""


def _left(status: SweepStatus) -> str:
    return "" if status.seconds_left is None else f", about {_duration(status.seconds_left)} left"


def _activity(status: SweepStatus, resume: str) -> str:
    place = "" if status.host is None else f" on {status.host}"
    process = "" if status.pid is None else f" (process {status.pid})"
    report = "" if status.report_s is None else f"last report {_duration(status.report_s)} ago"
    if status.driver:
        return ", ".join(filter(None, [f"the sweep is running{place}{process}", report]))
    line = "no process runs the sweep"
    if status.over:
        return line
    if place:  # it left its file behind
        seen = "" if status.seen_s is None else f", last seen {_duration(status.seen_s)} ago"
        line += f": the one{place}{process} was killed{seen}"
    return f"{', '.join(filter(None, [line, report]))}; resume it with {resume} {shlex.quote(status.run)}"


def _studies(studies: list[StudyStatus]) -> Table:
    shown = [status for status in BEST_FIRST if status in ALWAYS or any(study.trials[status] for study in studies)]
    table = _table("study", *shown, "best", col.LOSS)
    # Each confirmation below the search that it confirms, whose id its own begins with.
    for study in sorted(studies, key=lambda one: [each.study for each in studies].index(_search_of(one))):
        name = study.study if study.phase == col.SEARCH else "  confirmed"
        best, loss = ("none", "") if study.leader is None else (study.leader.setting, f"{study.leader.loss:.4f}")
        if study.leader is not None and study.leader.half is not None:
            loss = f"{study.leader.loss:.3f} +- {study.leader.half:.3f}"
        table.add_row(name, *(str(study.trials[status]) for status in shown), best, loss)
    return table


def _search_of(study: StudyStatus) -> str:
    return study.study.removesuffix(f"-{col.CONFIRM}") if study.phase == col.CONFIRM else study.study


def _running(running: list[TrialStatus], most: int, driver: bool) -> Table:
    table = _table("running trial" if driver else "unfinished trial", "step", col.LOSS)
    shown = running if len(running) <= most else running[: most - 1]
    for trial in shown:
        loss = "" if trial.loss is None else f"{trial.loss:.4f}"
        table.add_row(trial.trial, f"{trial.step or 0} of {trial.steps or '?'}", loss)
    if len(shown) < len(running):
        table.add_row(f"and {len(running) - len(shown)} more", "", "")
    return table


def failure_text(failure: Failure) -> str:
    """`2 diverged: loss is nan at step 3 (xs-0003, xs-0007)`."""
    some = failure.trials[:3]
    more = f", and {failure.number - len(some)} more" if failure.number > len(some) else ""
    return f"{failure.number} {failure.status}: {failure.message} ({', '.join(some)}{more})"


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        left = heading in ("study", "best") or heading.endswith("trial")
        table.add_column(heading, overflow="fold", justify="left" if left else "right")
    return table


def _hours(hours: float) -> str:
    return f"{hours:.3f}" if hours < 1 else f"{hours:,.1f}"


def _duration(seconds: float) -> str:
    """The two largest units.

    >>> _duration(12.4), _duration(80), _duration(7400), _duration(200000)
    ('12 s', '1 min 20 s', '2 h 3 min', '2 d 7 h')
    """
    left = round(seconds)
    found: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or found:
            found.append(f"{number} {unit}")
    return " ".join(found[:2]) or "0 s"
