"""Whose studies are whose in a database that several sweeps use.

Creating a study claims it: study and claim are one transaction, so of two sweeps that want the same study one gets it.
The claim names the run's folder, by an id that is kept there in `.owner`, and the driver that writes to the study, by
an id of its process. Each driver that resumes a sweep enters itself, and one whose id is no longer there when it asks
for a trial or tells how one ended is refused (`sweeps.study.study_storage`). So a study has one writer, also if two
drivers have copies of one folder.

study.db in the run's folder needs no claim: the folder's lock keeps a second driver out, and a copy has its own.
"""

import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import DuplicatedStudyError
from optuna.study import StudyDirection

from lmcore.errors import InputError
from sweeps.rundir.folder import OWNER, RunFolder

if TYPE_CHECKING:
    from sweeps.study.study_storage import StudyStorage


@dataclass(frozen=True)
class Claim:
    """What the database has about the sweep and the driver that a study belongs to.

    Example:
        Claim.of(RunFolder.named("quick"))
    """

    owner: str
    """Id of the run's folder."""
    driver: str
    """Id of the process that writes to the study."""
    folder: str
    """Path of the run's folder on the driver's machine."""
    host: str
    """Name of that machine."""

    @classmethod
    def of(cls, folder: RunFolder) -> "Claim":
        """The claim of this process, which has locked the folder."""
        return cls(folder.owner(), secrets.token_hex(16), str(folder.path), socket.gethostname())

    @classmethod
    def read(cls, kept: Any) -> "Claim | None":
        """The claim that was kept as `as_json`; None for anything else."""
        try:
            return cls(**{name: str(kept[name]) for name in cls.__dataclass_fields__})
        except (TypeError, KeyError):
            return None

    def as_json(self) -> dict[str, str]:
        """The claim as a value for the database."""
        return asdict(self)

    @property
    def place(self) -> str:
        """The folder and its machine, for the user."""
        return f"{self.folder} on {self.host}"


def check_claims(storage: "StudyStorage", names: Sequence[str], resume: bool) -> None:
    """Raise InputError if this sweep may not have one of these studies; changes nothing.

    A new sweep may have none of them, or empty ones that its folder has claimed before the driver was killed. A resumed
    one may have those of its folder, unless the folder is a copy and the original is still there; and those without a
    claim, which an older version created.
    """
    taken = []
    for name in sorted(names):
        try:
            study_id = storage.get_study_id_from_name(name)
        except KeyError:
            continue
        held = storage.read_claim(study_id)
        ours = storage.claim is not None and held is not None and held.owner == storage.claim.owner
        if ours and held is not None:
            _check_place(held, storage.claim)
        if not (ours or (resume and held is None)) or (not resume and storage.get_n_trials(study_id)):
            taken.append((name, held))
    if not taken:
        return
    holder = next((f", for {held.place}" for _, held in taken if held is not None), "")
    names_taken = ", ".join(name for name, _ in taken)
    if resume:
        rule = f"must be those of this folder, but {names_taken} belong to another sweep{holder}"
        raise InputError(f"search.storage: the studies {rule}; resume that one, or start a sweep with another --name")
    rule = f"every sweep needs studies of its own, and the database has {names_taken} already{holder}"
    raise InputError(f"search.storage: {rule}; choose another --name")


def _check_place(held: Claim, ours: Claim | None) -> None:
    """Raise InputError if our folder is a copy of the one that holds the claim. A folder that was moved is none."""
    assert ours is not None
    original = Path(held.folder)
    with suppress(OSError):
        there = (original / OWNER).read_text().strip() == held.owner
        if there and not original.samefile(ours.folder):
            rule = f"one folder has a sweep's studies in a database, and this is a copy of {original}, which has them"
            raise InputError(f"search.storage: {rule}; resume that one, or delete it first")


def claim_studies(storage: "StudyStorage", names: Sequence[str], resume: bool) -> None:
    """Enter this driver as the one that writes to these studies, and create those that are missing.

    Raises InputError, and leaves nothing behind, if another sweep was faster.
    """
    if storage.claim is None:
        return
    # Two sweeps that share some names meet at the same one first, and the one that gets it gets the others as well.
    for name in sorted(names):
        try:
            storage.create_new_study([StudyDirection.MINIMIZE], name)
            storage.created.append(name)
        except DuplicatedStudyError:
            try:
                check_claims(storage, [name], resume)
            except InputError:
                release_claims(storage)
                raise
            storage.write_claim(storage.get_study_id_from_name(name))


def release_claims(storage: "StudyStorage") -> None:
    """Delete the empty studies that this driver created: its sweep did not begin."""
    with suppress(Exception):  # they stay claimed, for the folder
        while storage.created:
            study_id = storage.get_study_id_from_name(storage.created.pop())
            if storage.read_claim(study_id) == storage.claim and not storage.get_n_trials(study_id):
                storage.delete_study(study_id)
