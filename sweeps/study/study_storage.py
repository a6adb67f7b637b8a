"""Optuna's storage in a database, with what a sweep adds to it: one writer, and patience with a server that restarts.

*One writer.* A study that is created here belongs to this driver, as its claim says (`sweeps.study.claims`). The claim
is read in the transaction that hands out a trial or ends one, and a driver that has lost it writes nothing more.

*Spaces that change.* A study may have trials of several spaces.

*Excluded trials* are shown as failed ones (`sweeps.study.excluded`).

*Patience.* Every operation is repeated while the server is gone, for `PATIENCE_S`, so a restart costs its time and
nothing else. A server may go after it has written and before it has said so. Most operations may be done twice; the
others look first whether they were done: a new trial carries an id of its request, and a trial that has the state it
was to get has it from here, because nobody else writes.

SQLite is never waited for in this way: its file is there or not, and its driver waits for locks.
"""

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage

# Private, but a study and its claim must be one transaction, which Optuna's public methods cannot do.
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from sweeps.rundir.disk_full import UnwritableError
from sweeps.study.claims import Claim
from sweeps.study.excluded import excluded_in, hidden, is_excluded

T = TypeVar("T")

CLAIM = "lmsweep:claim"
"""System attribute of a study: who writes to it."""
REQUEST = "lmsweep:request"
"""System attribute of a trial: the request that it was created by."""
PATIENCE_S = 90.0
"""How long a server may be gone."""
PAUSE_S = 1.0
# SQLSTATE of PostgreSQL, number of MySQL: deadlocks and serialization, shutting down and starting, no connection left.
TEMPORARY = {"40001", "40P01", "57P01", "57P02", "57P03", "53300", 1040, 1053, 1205, 1213, 1927}


class ClaimLostError(UnwritableError):
    """Another driver writes to this sweep's studies now; the reason is the whole message."""

    resumable = False

    def line(self, folder: Any) -> str:
        """The message for the user, in one line."""
        return str(self.reason)


class StudyStorage(RDBStorage):
    """The storage at a URL.

    Used by one thread at a time.

    Args:
        claim: who creates studies and writes to them; None for a database that nobody else can reach.
        say: called with a line when the server is waited for.
        check: called before each write; it may raise to prevent it.

    Example:
        storage = StudyStorage("sqlite:///study.db", {}, claim=None, say=print, check=in_place.check)
    """

    def __init__(
        self,
        url: str,
        engine_options: dict[str, Any],
        claim: Claim | None,
        say: Callable[[str], None],
        check: Callable[[], None],
    ) -> None:
        self.claim = claim
        self.created: list[str] = []
        """Names of the studies that this driver created."""
        self.patience_s = 0.0 if url.startswith("sqlite") else PATIENCE_S
        self._say = say
        self._check = check
        self._request: str | None = None
        self._excluded: dict[int, dict[str, str]] = {}
        super().__init__(url, engine_options)

    @staticmethod
    def _fill_storage_url_template(template: str) -> str:
        # Optuna formats the whole URL, and would take braces in a password for fields.
        return template.replace("{SCHEMA_VERSION}", str(models.SCHEMA_VERSION))

    def read_claim(self, study_id: int) -> Claim | None:
        """Who writes to a study; None if nobody has claimed it."""
        return Claim.read(self.get_study_system_attrs(study_id).get(CLAIM))

    def write_claim(self, study_id: int) -> None:
        """Enter this driver as the study's writer. A driver that was entered before can write no more."""
        assert self.claim is not None
        self.set_study_system_attr(study_id, CLAIM, self.claim.as_json())

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Create a study that belongs to this driver. Raises DuplicatedStudyError if there is one of that name."""
        if self.claim is None or study_name is None:
            return self.persist(super().create_new_study, directions, study_name)
        claim = models.StudySystemAttributeModel(key=CLAIM, value_json=json.dumps(self.claim.as_json()))

        def create() -> None:
            with Session(self.engine) as session, session.begin():
                listed = [models.StudyDirectionModel(objective=n, direction=d) for n, d in enumerate(directions)]
                study = models.StudyModel(study_name=study_name, directions=listed)
                session.add(study)
                session.flush()
                attribute = {"study_id": study.study_id, "key": CLAIM, "value_json": claim.value_json}
                session.add(models.StudySystemAttributeModel(**attribute))

        try:
            self.persist(create)
        except IntegrityError:
            # It is ours if the server went away after it had created it.
            if self.read_claim(self.get_study_id_from_name(study_name)) != self.claim:
                raise DuplicatedStudyError(study_name) from None
        return self.get_study_id_from_name(study_name)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        self._check()
        self._request = None
        create = super()._create_new_trial
        return self.persist(create, study_id, template_trial)

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> models.TrialModel:
        # Called in the transaction that creates the trial; Optuna itself repeats that as well.
        self._check_claim(session, models.StudySystemAttributeModel.study_id == study_id)
        if self._request is not None and (made := self._made_by_request(session, study_id)) is not None:
            return made
        self._request = secrets.token_hex(16)
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        attribute = {"trial_id": trial.trial_id, "key": REQUEST, "value_json": json.dumps(self._request)}
        session.add(models.TrialSystemAttributeModel(**attribute))
        return trial

    def _set_trial_param_without_commit(
        self,
        session: Session,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None = None,
    ) -> None:
        # Optuna refuses other choices than those of earlier trials, for its samplers' sake. Ours see earlier trials
        # through `sweeps.study.space_view`, so a study whose space has changed goes on.
        super()._set_trial_param_without_commit(
            session, trial_id, param_name, param_value_internal, distribution, distribution
        )

    def _made_by_request(self, session: Session, study_id: int) -> models.TrialModel | None:
        attribute = models.TrialSystemAttributeModel
        found = select(models.TrialModel).join(attribute, attribute.trial_id == models.TrialModel.trial_id)
        found = found.where(models.TrialModel.study_id == study_id)
        found = found.where(attribute.key == REQUEST, attribute.value_json == json.dumps(self._request))
        return session.execute(found).scalar_one_or_none()

    def _get_trials(self, study_id: int, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        # Optuna's cache and all that reads a study comes through here.
        trials: list[FrozenTrial] = self.persist(super()._get_trials, study_id, *args, **kwargs)
        if study_id not in self._excluded:  # nobody changes it while this driver has the sweep
            self._excluded[study_id] = excluded_in(self.get_study_user_attrs(study_id))
        excluded = self._excluded[study_id]
        return [hidden(trial) if is_excluded(trial, excluded) else trial for trial in trials] if excluded else trials

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Hand out a trial that waits, or end one. False if it does not wait."""
        self._check()
        write, tried = super().set_trial_state_values, False

        def once() -> bool:
            nonlocal tried
            if tried and self.get_trial(trial_id).state is state:
                return True
            tried = True
            # The session is this thread's: Optuna goes on in the transaction that begins here.
            trial = select(models.TrialModel.study_id).where(models.TrialModel.trial_id == trial_id)
            self._check_claim(
                self.scoped_session(), models.StudySystemAttributeModel.study_id == trial.scalar_subquery()
            )
            return write(trial_id, state, values)

        return self.persist(once)

    def set_trial_user_attrs(self, trial_id: int, values: Mapping[str, Any]) -> None:
        """Set several attributes of a trial in one transaction."""

        def write() -> None:
            with Session(self.engine) as session, session.begin():
                for key, value in values.items():
                    self._set_trial_attr_without_commit(session, models.TrialUserAttributeModel, trial_id, key, value)

        self._check()
        self.persist(write)

    def _check_claim(self, session: Session, of_study: Any) -> None:
        """Raise ClaimLostError unless the study has this driver's claim, which it keeps until the session's commit."""
        if self.claim is None:
            return
        attribute = models.StudySystemAttributeModel
        kept = select(attribute.value_json).where(of_study, attribute.key == CLAIM).with_for_update(read=True)
        value = session.execute(kept).scalar_one_or_none()
        held = None if value is None else Claim.read(json.loads(value))
        if held is None or held.driver != self.claim.driver:
            self.scoped_session.remove()
            taken = "they were deleted" if held is None else f"a driver that was started in {held.place} has them now"
            rule = f"one driver at a time writes to a sweep's studies, and {taken}"
            raise ClaimLostError(f"{rule}; this one stops", None)

    def persist(self, operation: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """The result of an operation, which is repeated while the server is gone.

        Raises UnwritableError if the server is gone for longer than `patience_s`.
        """
        gone_since, failures = 0.0, 0
        while True:
            try:
                return operation(*args, **kwargs)
            except Exception as error:
                lost = lost_connection(error) if self.patience_s else None
                if lost is None:
                    raise
                self.scoped_session.remove()
                reason = _reason(lost)
                now = time.monotonic()
                failures += 1
                gone_since = now if failures == 1 else gone_since
                if failures == 2:  # once may be a deadlock
                    self._say(f"waiting for the database ({reason})")
                if now - gone_since > self.patience_s:
                    text = f"the database has not answered for {self.patience_s:.0f} s: {reason}"
                    raise UnwritableError(text, None) from error
            time.sleep(PAUSE_S)


def lost_connection(error: BaseException | None) -> DBAPIError | None:
    """The error of the database that says that an operation may work later, among the errors that led to this one."""
    while error is not None:
        if isinstance(error, DBAPIError):
            code = getattr(error.orig, "sqlstate", None) or next(iter(getattr(error.orig, "args", ())), None)
            # Without a statement it was the connection that could not be made.
            connecting = isinstance(error, OperationalError | InterfaceError) and error.statement is None
            if error.connection_invalidated or connecting or code in TEMPORARY:
                return error
        error = error.__cause__ or error.__context__
    return None


def _reason(error: DBAPIError) -> str:
    """What the database said, in one line. PyMySQL's errors are a number and a text."""
    text = next((str(part) for part in reversed(getattr(error.orig, "args", ())) if str(part).strip()), "")
    return text.strip().splitlines()[0] if text.strip() else type(error.orig).__name__


def _persistent(name: str, writes: bool) -> Callable[..., Any]:
    """Optuna's method of this name, persistent; before one that writes, the folder is checked."""
    method = getattr(RDBStorage, name)

    def call(self: StudyStorage, *args: Any, **kwargs: Any) -> Any:
        if writes:
            self._check()
        return self.persist(method, self, *args, **kwargs)

    call.__name__, call.__doc__ = name, method.__doc__
    return call


# Optuna's cache in front of the storage calls some of its private methods.
for _name in (
    *("get_study_id_from_name", "get_study_name_from_id", "get_study_directions", "get_all_studies"),
    *("get_study_user_attrs", "get_study_system_attrs", "get_trial_user_attrs", "get_trial_system_attrs"),
    *("get_trial", "get_trial_param", "get_trial_id_from_study_id_trial_number", "_get_best_trial_id"),
):
    setattr(StudyStorage, _name, _persistent(_name, writes=False))
for _name in (
    *("set_study_user_attr", "set_study_system_attr", "delete_study"),
    *("set_trial_user_attr", "set_trial_system_attr", "set_trial_intermediate_value", "_set_trial_param"),
):
    setattr(StudyStorage, _name, _persistent(_name, writes=True))
