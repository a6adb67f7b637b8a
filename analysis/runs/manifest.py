"""manifest.json: what a sweep recorded about itself, and the studies that it names.

Schema 1 (up to version 0.2) has one study per size. Schema 2 has one per size and arm, and another for the confirmation
of each. `studies_of` gives both as one list; nothing else reads the entry `studies`.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from lmcore import columns as col
from lmcore.printable import printable_values
from lmcore.run_folders import run_hint

MANIFEST_SCHEMAS = (1, 2)
STUDIES = "studies"
A_SWEEP = "runs/<name> of a sweep"


class RunError(ValueError):
    """The input of a report cannot be used. The message is one line: the rule, the offending value and the remedy."""


class StudyEntry(NamedTuple):
    """One Optuna study of a run."""

    id: str  # prefix of its trials' ids: `xs-tied`
    study: str  # its name in Optuna's storage
    size: str
    arm: str | None  # None if the sweep compares no arms
    phase: str  # one of `lmcore.columns.PHASES`


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the run in `folder`, with control characters escaped.

    Raises RunError if it is missing, damaged or of another schema.
    """
    if not folder.is_dir():
        raise RunError(
            f"RUN must be the folder of a run, but {folder} is not a folder; give {run_hint(folder, A_SWEEP)}"
        )
    path = folder / "manifest.json"
    try:
        manifest = printable_values(json.loads(path.read_bytes()))
    except FileNotFoundError:
        rule = f"a run's folder must hold manifest.json, but {folder} has none"
        raise RunError(f"{rule}; give {run_hint(folder, A_SWEEP)}") from None
    except ValueError as error:
        raise RunError(f"manifest.json must be JSON, but {path} is damaged ({error}); restore it from a copy") from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema not in MANIFEST_SCHEMAS:
        rule = f"manifest.json must have schema {' or '.join(map(str, MANIFEST_SCHEMAS))}, but {path} has {schema!r}"
        raise RunError(f"{rule}; read it with the version that wrote it")
    try:
        studies_of(manifest)
    except (KeyError, TypeError, ValueError, AttributeError):
        rule = f"manifest.json must name the study of each size under studies, but {path} has {manifest.get(STUDIES)!r}"
        raise RunError(f"{rule}; restore it from a copy") from None
    return dict(manifest)


def studies_of(manifest: dict[str, Any]) -> list[StudyEntry]:
    """The studies of a run, of either schema: by size, then the searches before the confirmations.

    >>> studies_of({"schema": 1, "studies": {"xs": "quick/xs"}})
    [StudyEntry(id='xs', study='quick/xs', size='xs', arm=None, phase='search')]

    Raises AttributeError, KeyError, TypeError or ValueError if the entry `studies` is not of the manifest's schema.
    """
    named = manifest[STUDIES]
    if manifest["schema"] == 1:
        entries = [StudyEntry(size, study, size, None, col.SEARCH) for size, study in named.items()]
    else:
        entries = [StudyEntry(*(one[name] for name in StudyEntry._fields)) for one in named]
    texts = [text for one in entries for text in (one.id, one.study, one.size, one.arm or "")]
    if not entries or not all(isinstance(text, str) for text in texts):
        raise ValueError("a run has studies, whose names are strings")
    sizes = list(dict.fromkeys(one.size for one in entries))
    return sorted(entries, key=lambda one: (sizes.index(one.size), col.PHASES.index(one.phase)))


def sizes_of(manifest: dict[str, Any]) -> list[str]:
    """The names of the sizes, each once, in the manifest's order."""
    return list(dict.fromkeys(one.size for one in studies_of(manifest)))
