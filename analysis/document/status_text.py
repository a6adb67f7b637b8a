"""The status of a sweep as text for a terminal of any width and height."""

import shlex

from rich.console import Group, RenderableType
from rich.text import Text

from analysis.tables.formatting import FLOP_SUFFIXES, count
from analysis.tables.sweep_status import Cost, Failure, StudyStatus, SweepStatus, TrialStatus
from analysis.tables.trials import BEST_FIRST
from lmcore import columns as col
from lmcore.terminal.console import PROSE_WIDTH, as_text, wrapped, wrapped_command
from lmcore.terminal.table import Column, FittedTable

ALWAYS = (col.COMPLETE, col.PRUNED, col.RUNNING)
"""Statuses that have a column even if no trial has them."""
RANKS = {
    col.COMPLETE: 1,
    "best": 2,
    col.RUNNING: 3,
    col.DIVERGED: 4,
    col.FAILED: 5,
    col.PAUSED: 6,
    col.PRUNED: 7,
}
"""By heading: of columns that do not fit, the one with the highest rank is left out first."""
JSON = "--json"


def status_text(status: SweepStatus, resume: str, lines: int = 50, width: int = 80) -> Group:
    """The status as tables; `resume` is the command that resumes a sweep, `lines` and `width` are those of the screen.

    Lists that are longer than the screen end in a line that counts the rest: first the running trials, then the
    failures, last the studies. On a very small screen, that line is all there is of the first two.

    >>> Console().print(status_text(sweep_status("runs/quick"), "lmsweep run --resume"))
    """
    running = [trial for study in status.studies for trial in study.running]
    most = {"running": len(running), "failures": len(status.failures), "studies": len(status.studies)}

    def shown() -> Group:
        parts: list[RenderableType] = [*_head(status, resume, width), Text("")]
        parts.append(_studies(status.studies, most["studies"]))
        if most["running"]:
            parts += [Text(""), _running(running, most["running"], status.driver)]
        elif running:
            parts.append(Text(f"{len(running)} {_named(status.driver)}{'s' * (len(running) > 1)}"))
        if most["failures"]:
            parts += [Text(""), *_failures(status.failures, most["failures"], width)]
        elif status.failures:
            parts.append(Text(f"{sum(one.number for one in status.failures)} trials did not finish", "red"))
        return Group(*parts)

    for part in most:
        over = len(as_text(shown(), width).split("\n")) - lines
        if over > 0:
            most[part] = max(part == "studies", most[part] - over - 1)  # a line says how many more there are
    return shown()


def _head(status: SweepStatus, resume: str, width: int) -> list[Text]:
    of = "" if status.planned is None else f" of {status.planned}"
    lines = [f"{status.run}: {status.ended}{of} trials have ended" + _left(status)]
    lines.append(_activity(status))
    if status.driver and status.slots is not None:
        queued = f", {status.queued} queued" if status.queued else ""
        lines.append(f"{status.slots_in_use} of {status.slots} slots in use{queued}")
    if spent := cost_text(status.cost):
        lines.append(spent)
    texts = [_text(wrapped(line, min(width, PROSE_WIDTH), "  ")) for line in lines]
    if not status.driver and not status.over:
        texts.insert(2, _text(wrapped_command(f"{resume} {shlex.quote(status.run)}", width)))
    return texts


def cost_text(cost: Cost) -> str:
    """`cost so far: 0.102 device-hours, 3.62T FLOPs, 23% of peak`; "" if nothing is known."""
    spent = [] if cost.device_hours is None else [f"{_hours(cost.device_hours)} device-hours"]
    spent += [] if cost.flops is None else [f"{count(cost.flops, FLOP_SUFFIXES)} FLOPs"]
    spent += [] if cost.peak_share is None else [f"{cost.peak_share:.0%} of peak"]
    return f"cost so far: {', '.join(spent)}" if spent else ""


def _left(status: SweepStatus) -> str:
    return "" if status.seconds_left is None else f", about {_duration(status.seconds_left)} left"


def _activity(status: SweepStatus) -> str:
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
    return f"{', '.join(filter(None, [line, report]))}; resume it with"


def _studies(studies: list[StudyStatus], most: int) -> FittedTable:
    statuses = [status for status in BEST_FIRST if status in ALWAYS or any(study.trials[status] for study in studies)]
    names = ["study", *statuses, "best", col.LOSS]
    table = FittedTable([Column(name, RANKS.get(name, 0), name not in ("study", "best")) for name in names], JSON)
    # Each confirmation below the search that it confirms, whose id its own begins with.
    ordered = sorted(studies, key=lambda one: [each.study for each in studies].index(_search_of(one)))
    for study in ordered[:most]:
        name = study.study if study.phase == col.SEARCH else "  confirmed"
        best, loss = ("none", "") if study.leader is None else (study.leader.setting, f"{study.leader.loss:.4f}")
        if study.leader is not None and study.leader.half is not None:
            loss = f"{study.leader.loss:.3f} +- {study.leader.half:.3f}"
        table.add(name, *(str(study.trials[one]) for one in statuses), best, loss)
    return _counted(table, len(ordered) - most)


def _search_of(study: StudyStatus) -> str:
    return study.study.removesuffix(f"-{col.CONFIRM}") if study.phase == col.CONFIRM else study.study


def _running(running: list[TrialStatus], most: int, driver: bool) -> FittedTable:
    table = FittedTable([Column(_named(driver)), Column("step", right=True), Column(col.LOSS, right=True)], JSON)
    for trial in running[:most]:
        loss = "" if trial.loss is None else f"{trial.loss:.4f}"
        table.add(trial.trial, f"{trial.step or 0} of {trial.steps or '?'}", loss)
    return _counted(table, len(running) - most)


def _named(driver: bool) -> str:
    return "running trial" if driver else "unfinished trial"


def _failures(failures: list[Failure], most: int, width: int) -> list[Text]:
    texts = [
        _text(wrapped(f"  {failure_text(failure)}", min(width, PROSE_WIDTH), "    "), "red")
        for failure in failures[:most]
    ]
    left = len(failures) - most
    return [Text("did not finish", "bold"), *texts, *([Text(f"  and {left} more")] if left > 0 else [])]


def _counted(table: FittedTable, left: int) -> FittedTable:
    """The table, with a row that says how many more there are."""
    if left > 0:
        table.add(f"and {left} more", *[""] * (len(table.columns) - 1))
    return table


def _text(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ignore")


def failure_text(failure: Failure) -> str:
    """`2 diverged: loss is nan at step 3 (xs-0003, xs-0007)`."""
    some = failure.trials[:3]
    more = f", and {failure.number - len(some)} more" if failure.number > len(some) else ""
    return f"{failure.number} {failure.status}: {failure.message} ({', '.join(some)}{more})"


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
