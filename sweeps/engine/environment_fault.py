"""Errors of an engine's surroundings, which are never a trial's own: its disk, its imports, its device."""

MAX_FAULTS = 3
"""An engine is retired that gives back so many trials in a row. A trial fails that was given back so often by engines
that are well."""


class EnvironmentFaultError(Exception):
    """Raised to a trial's proxy, which submits the trial to another engine.

    >>> EnvironmentFaultError("xs-0003: OSError: [Errno 5] Input/output error", engine_is_well=False).engine_is_well
    False
    """

    def __init__(self, reason: str, engine_is_well: bool) -> None:
        super().__init__(reason, engine_is_well)
        self.engine_is_well = engine_is_well
        """Whether the engine has proved itself again since. If so, the trial may be at fault after all."""

    def __str__(self) -> str:
        return str(self.args[0])


def is_environment_error(error: BaseException) -> bool:
    """Whether the error may come from the machine rather than from the trial: reading, writing or importing failed."""
    return isinstance(error, OSError | ImportError)


def is_device_error(error: BaseException) -> bool:
    """Whether the process can no longer use its GPU: after such an error every call fails."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)
