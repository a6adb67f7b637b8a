"""The sentences of a report: caveats without which its tables would be misread, and the data and versions behind it."""

import itertools
import json
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.load import EXCLUDED, Run
from analysis.runs.manifest import sizes_of
from analysis.runs.trial_csv import LOSS, D, N
from analysis.tables.formatting import count, decimal, tally
from analysis.tables.trials import BEST_FIRST, TIED, TIED_PATH, TYING, failures, status_counts
from lmcore import columns as col

CHANGES = "changes"
"""Entry of a manifest (`sweeps.provenance.history`)."""
LISTED_MESSAGES = 10  # of failed and diverged trials; the table of failures has all


def summary(trials: pd.DataFrame) -> str:
    """How many trials there are, and how they ended."""
    counts = status_counts(trials).drop(columns=col.SIZE).sum()
    text = f"{counts['total']} trials: " + ", ".join(f"{counts[status]} {status}" for status in BEST_FIRST)
    confirming = int((trials[col.PHASE] == col.CONFIRM).sum())
    return f"{text}; {confirming} of them confirm" if confirming else text


def summary_of_points(points: pd.DataFrame) -> str:
    """The same for trials from a CSV: `12 trials, 3 sizes, 1 token count; 2 diverged`."""
    numbers = {"trial": len(points), "size": points[N].nunique(), "token count": points[D].nunique()}
    text = ", ".join(f"{number} {noun}{'' if number == 1 else 's'}" for noun, number in numbers.items())
    diverged = len(points) - int(np.isfinite(points[LOSS]).sum())
    return f"{text}; {diverged} diverged" if diverged else text


def notes(run: Run, parameters: pd.DataFrame) -> tuple[str, ...]:
    """Sentences about the run and its parameter table."""
    found = (
        _replay_note(run.manifest),
        _change_note(run.manifest),
        _excluded_notes(run.manifest),
        _missing_notes(run, parameters),
        _failure_notes(run.trials),
    )
    return tuple(itertools.chain(*found, _provenance(run.manifest)))


def _replay_note(manifest: dict[str, Any]) -> Iterator[str]:
    """That nothing was trained, if the sweep is a replay."""
    replay = manifest.get(col.REPLAY)
    if not isinstance(replay, dict):
        return
    r2 = replay.get("r2")
    found = {size: value for size, value in r2.items() if isinstance(value, float)} if isinstance(r2, dict) else {}
    quality = ", ".join(f"{size} {value:.3f}" for size, value in found.items())
    yield (
        f"This sweep is a replay, which trained nothing: the losses of {replay.get('recorded_trials')} trials were "
        f"recorded earlier, and those of {replay.get('predicted_trials')} are predictions from recorded runs"
        f"{f' (R2 of final losses, leaving one out: {quality})' if quality else ''}. Source: {replay.get('source')}, "
        f"fingerprint {replay.get('fingerprint')}. Times are virtual. Intervals leave out the errors of predictions."
    )


def _change_note(manifest: dict[str, Any]) -> Iterator[str]:
    """What was changed of the sweep when it was resumed, so that its trials are not all of one search."""
    changes = manifest.get(CHANGES)
    if not isinstance(changes, list) or not changes:
        return
    times: dict[tuple[str, str], list[str]] = {}
    for one in changes:
        trials = one.get("trials") or {}
        start = ", ".join(f"{study} {number}" for study, number in trials.items())
        times.setdefault((str(one.get("when", ""))[:10], start), []).append(
            f"{one.get('path')} from {_shown(one.get('before'))} to {_shown(one.get('after'))}"
        )
    parts = [
        f"{', '.join(what)} ({when}; trials of each study before: {start or 'none'})"
        for (when, start), what in times.items()
    ]
    yield f"The sweep was changed when it was resumed: {'; '.join(parts)}."


def _shown(value: Any) -> str:
    """A value of sweep.yaml as short text."""
    text = value if isinstance(value, str) else "nothing" if value is None else json.dumps(value)
    return textwrap.shorten(text, 100)


def _missing_notes(run: Run, parameters: pd.DataFrame) -> Iterator[str]:
    """Which rows of the parameter table are not final, and which arms and sizes have none."""
    arm_columns = [name for name in (col.SIZE, col.EXPERIMENT, col.ARM, TIED) if name in parameters]
    if col.ARM in arm_columns and parameters[col.ARM].notna().all():
        arm_columns.remove(TIED)
    shown = {_arm(row, arm_columns): row for row in parameters.to_dict("records")}
    for arm, row in shown.items():
        if row[col.STATUS] != col.COMPLETE:
            reached = f"{row[col.STATUS]} at step {row[col.STEP]}"
            yield f"{arm}: no trial is complete; the row is {row[col.TRIAL]}, {reached}."
    trials = run.trials.rename(columns={TIED_PATH: TIED})
    for _, group in trials[trials[TIED].notna()].groupby(arm_columns, sort=False, dropna=False):
        arm = _arm(group.iloc[0], arm_columns)
        confirmation = group.loc[group[col.PHASE] == col.CONFIRM, col.STATUS]
        if arm not in shown and len(confirmation):
            yield f"{arm}: no row, because no confirmation run ran to its end ({tally(confirmation)})."
        elif arm not in shown:
            yield f"{arm}: no row, because no trial has a validation loss ({tally(group[col.STATUS])})."
    begun = set(trials[col.SIZE])
    for size in sizes_of(run.manifest):
        if size not in begun:
            yield f"{size}: no trial has begun."


def _arm(row: Any, columns: list[str]) -> str:
    """Size, experiment and arm, or else tying: `xs untied`."""
    names = [str(row[name]) for name in columns if name != TIED and pd.notna(row[name])]
    return " ".join([*names, *([TYING[bool(row[TIED])]] if TIED in columns else [])])


def _excluded_notes(manifest: dict[str, Any]) -> Iterator[str]:
    """Which trials the user has excluded, and why, by reason."""
    trials: dict[str, list[str]] = {}
    for trial, why in manifest.get(EXCLUDED, {}).items():
        trials.setdefault(why, []).append(trial)
    for why, names in trials.items():
        yield f"Excluded, and in no table: {', '.join(names)}{f' ({textwrap.shorten(why, 200)})' if why else ''}."


def _failure_notes(trials: pd.DataFrame) -> Iterator[str]:
    """Why trials failed or diverged: each message once, the most frequent first."""
    table = failures(trials)
    for row in table.head(LISTED_MESSAGES).itertuples():
        more = f" and {row.number - 3} more" if row.number > 3 else ""
        yield f"{', '.join(row.trials[:3])}{more} {row.status}: {textwrap.shorten(row.message, 200)}"
    if len(table) > LISTED_MESSAGES:
        yield f"{len(table) - LISTED_MESSAGES} more messages of failed and diverged trials are in trials.csv."


def _provenance(manifest: dict[str, Any]) -> Iterator[str]:
    data = manifest.get("data", {})
    if not data and col.REPLAY in manifest:
        yield from _versions(manifest)
        return
    source, fingerprint, vocabulary = (data.get(key, "unknown") for key in ("source", "fingerprint", "vocab_size"))
    yield (
        f"Data: {source}, fingerprint {fingerprint}; vocabulary {vocabulary}, {count(data.get('train_tokens'))} "
        f"training and {count(data.get('val_tokens'))} validation tokens, bytes per token "
        f"{decimal(data.get('bytes_per_token'))}, unigram entropy {decimal(data.get('val_entropy_unigram'))} nats per "
        "token."
    )
    yield from _versions(manifest)


def _versions(manifest: dict[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{package} {version}" for package, version in manifest.get("versions", {}).items())
    yield f"Versions: {versions or 'unknown'}; commit {manifest.get('commit') or 'unknown'}."
