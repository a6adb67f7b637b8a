"""The data of a config: whether their files are there, and where a run that wrote the config has kept the tokens.

`runs/x/best/xs.yaml` and `runs/x/trials/<id>/run.yaml` name the files that the run was trained on, and the fingerprint
of the tokens. If the files are gone, the same tokens lie in `runs/x/tokens`.
"""

import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path

from lmcore.config import DataConfig
from lmcore.corpus.text_files import STDLIB
from lmcore.corpus.tokens import Tokens
from lmcore.errors import InputError

FOLDERS = ("best", "trials")
"""Folders of a run in which configs lie."""


def tokens_beside(config: Path) -> Path | None:
    """The tokens of the run in whose folder a config lies; None for any other config.

    >>> tokens_beside(Path("runs/quick/best/xs.yaml"))  # doctest: +SKIP
    PosixPath('/home/ann/runs/quick/tokens')
    """
    parts = config.absolute().parents
    for inside, folder in ((parts[0], parts[1]), (parts[1], parts[2])) if len(parts) > 2 else ():
        if inside.name in FOLDERS and (folder / "tokens" / "meta.json").is_file():
            return folder / "tokens"
    return None


def find_data(data: DataConfig, kept: Path | None = None) -> Path | None:
    """None if the files of `data` are there, else the folder `kept` if it holds their tokens.

    Raises:
        InputError: a file is missing, and `kept` does not hold its tokens.
    """
    paths = {"source": data.source, "val_source": data.val_source, "tokenizer": data.tokenizer}
    for name, path in paths.items():
        if path is None or (path == STDLIB and name != "tokenizer") or _is_there(os.path.expanduser(path)):
            continue
        if kept is not None and data.fingerprint in (None, _fingerprint(kept)):
            return kept
        what = "a tokenizer.json" if name == "tokenizer" else "stdlib, a file or a folder"
        raise InputError(f"data.{name}: must be {what} (got {path!r}, which is not there); check the path")
    return None


def _is_there(path: str) -> bool:
    """Whether there is such a path, or a pattern matches one."""
    return os.path.exists(path) or next(glob.iglob(path, recursive=True), None) is not None


def gone_note(folder: Path) -> str:
    """The note that the tokens in `folder` take the place of files that are gone."""
    where = os.path.relpath(folder)
    shown = str(folder) if where.startswith(os.pardir) else where
    return f"the data's files are not there any more, so the tokens in {shown} are used"


def stay_note(files: Sequence[Path]) -> str:
    """What the user is told about token files that are not copied.

    >>> stay_note([Path("/data/train.bin"), Path("/data/val.bin")]).partition(";")[0]
    'The token files stay where they are (train.bin and val.bin)'
    """
    first, *others = (file.name for file in files)
    rest = others[0] if len(others) == 1 else f"{len(others)} others"
    shown = f"{first} and {rest}" if others else first
    remedy = "keep them there, and at the same path on every node, until the sweep has ended"
    return f"The token files stay where they are ({shown}); {remedy}"


def other_data(data: DataConfig, tokens: Tokens) -> str | None:
    """A note if `tokens` are not those that `data` expects."""
    if data.fingerprint in (None, tokens.fingerprint):
        return None
    return (
        f"the data have the fingerprint {tokens.fingerprint[:12]}, and this config was written for "
        f"{str(data.fingerprint)[:12]}: losses do not compare with those of that run"
    )


def kept_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the tokens in the folder of a run; None if there are none."""
    return _fingerprint(folder) if (folder / "meta.json").is_file() else None


def _fingerprint(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / "meta.json").read_bytes())["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
