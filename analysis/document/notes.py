"""The sentences of a report: what keeps its tables from being misread, and what the numbers rest on."""

import textwrap
from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.runs.load import Run
from analysis.tables.formatting import count, decimal
from analysis.tables.trials import BEST_FIRST, SEPARABLE_SE, TIED, TIED_PATH, status_counts, winner_margins
from lmcore import columns as col

LISTED_REASONS = 10  # different messages of failed and diverged trials; the table of failures has all


def summary(trials: pd.DataFrame) -> str:
    """How many trials there are, and how they ended."""
    counts = status_counts(trials).drop(columns=col.SIZE).sum()
    return f"{counts['total']} trials: " + ", ".join(f"{counts[status]} {status}" for status in BEST_FIRST)


def notes(run: Run, parameters: pd.DataFrame) -> tuple[str, ...]:
    """Sentences about the run and its parameter table."""
    return (
        *_winner_notes(run.trials),
        *_gap_notes(run, parameters),
        *_reason_notes(run.trials),
        *_provenance(run.manifest),
    )


def _winner_notes(trials: pd.DataFrame) -> Iterator[str]:
    """For each size, whether its best trial can be told from the next."""
    leads = {lead.size: lead for lead in winner_margins(trials).itertuples()}
    for size in trials[col.SIZE].unique():
        if size not in leads:
            yield f"{size}: fewer than two complete trials, so nothing to compare the best with."
            continue
        lead = leads[size]
        margin = f"{lead.best} leads {lead.runner_up} by {lead.difference:.3f}"
        if pd.isna(lead.difference_se):
            yield f"{size}: {margin}; not separable, because the standard errors are unknown."
        elif lead.separable:
            yield (
                f"{size}: {margin}, more than {SEPARABLE_SE:g} combined standard errors "
                f"({SEPARABLE_SE * lead.difference_se:.3f}); the spread between seeds is not in them."
            )
        else:
            yield (
                f"{size}: {margin}, not more than {SEPARABLE_SE:g} combined standard errors "
                f"({SEPARABLE_SE * lead.difference_se:.3f}): not separable, the winner is inside the evaluation noise."
            )


def _gap_notes(run: Run, parameters: pd.DataFrame) -> Iterator[str]:
    """What the parameter table lacks, and which of its rows are not final."""
    kind = [name for name in (col.SIZE, col.EXPERIMENT, TIED) if name in parameters]
    for row in parameters[parameters[col.STATUS] != col.COMPLETE].to_dict("records"):
        reached = f"{row[col.STATUS]} at step {row[col.STEP]}"
        yield f"{_kind(row, kind)}: no trial is complete; the row is {row[col.TRIAL]}, {reached}."
    trials = run.trials.rename(columns={TIED_PATH: TIED})
    shown = {_kind(row, kind) for row in parameters.to_dict("records")}
    for values, group in trials[trials[TIED].notna()].groupby(kind, sort=False, dropna=False):
        name = _kind(dict(zip(kind, values, strict=True)), kind)
        if name not in shown:
            ended = ", ".join(f"{number} {status}" for status, number in group[col.STATUS].value_counts().items())
            yield f"{name}: no row, because no trial has a validation loss ({ended})."
    for size in run.manifest["studies"]:
        if size not in set(trials[col.SIZE]):
            yield f"{size}: no trial has begun."


def _kind(row: dict[str, Any], kind: list[str]) -> str:
    return " ".join(("tied" if row[name] else "untied") if name == TIED else str(row[name]) for name in kind)


def _reason_notes(trials: pd.DataFrame) -> Iterator[str]:
    """Why trials failed or diverged, each different message once."""
    ended = trials[trials[col.STATUS].isin((col.DIVERGED, col.FAILED))]
    reasons = list(ended.fillna({col.MESSAGE: "no message"}).groupby([col.STATUS, col.MESSAGE], sort=False)[col.TRIAL])
    for (status, message), names in reasons[:LISTED_REASONS]:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"{', '.join(names[:3])}{more} {status}: {textwrap.shorten(message, 200)}"
    if len(reasons) > LISTED_REASONS:
        yield f"{len(reasons) - LISTED_REASONS} more messages of failed and diverged trials are in trials.csv."


def _provenance(manifest: dict[str, Any]) -> Iterator[str]:
    data = manifest.get("data", {})
    yield (
        f"Data: {data.get('source', 'unknown')}, fingerprint {data.get('fingerprint', 'unknown')}; "
        f"vocabulary {data.get('vocab_size', 'unknown')}, "
        f"{count(data.get('train_tokens'))} training and {count(data.get('val_tokens'))} validation tokens, "
        f"bytes per token {decimal(data.get('bytes_per_token'), 3)}, "
        f"unigram entropy {decimal(data.get('val_entropy_unigram'), 3)} nats per token."
    )
    versions = ", ".join(f"{package} {version}" for package, version in manifest.get("versions", {}).items())
    yield f"Versions: {versions or 'unknown'}; commit {manifest.get('commit') or 'unknown'}."
