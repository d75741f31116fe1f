"""Domain errors: one sentence for the user that says what to do."""

from __future__ import annotations

from pathlib import Path
from reprlib import Repr


class AceStepError(Exception):
    """Base of all domain errors."""


class InvalidFieldError(AceStepError):
    """`field` is the canonical wire name; `scope` limits the refusal ("with model X")."""

    def __init__(self, field: str, value: object, allowed: str, remedy: str = "", scope: str = "") -> None:
        self.field = field
        self.value = _short(value)
        self.allowed = allowed
        scope = f" {scope}" if scope else ""
        said = "nothing was sent" if value is None else f"{self.value!r} cannot be used"
        text = f"{field}: {said}{scope}; {'send' if value is None else 'allowed:'} {allowed}"
        super().__init__(f"{text}. {remedy}" if remedy else text)


class UnusableAudioError(AceStepError):
    """The bytes are no audio, or exceed a limit."""


class QueueFullError(AceStepError):
    """`retry_after` is in whole seconds."""

    def __init__(self, limit: int, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(
            f"Server busy: the queue is full ({limit} jobs waiting). Try again in {retry_after} s."
        )


class ServerStoppingError(AceStepError):
    """The server ends, and takes no further jobs."""

    retry_after = 30  # seconds

    def __init__(self) -> None:
        super().__init__(
            "The server is stopping and takes no new jobs; those that it has accepted are kept. Send this "
            f"request again in {self.retry_after} s."
        )


class ModelUnavailableError(AceStepError):
    """The model that a request needs cannot run here."""


class UnknownModelError(AceStepError):
    def __init__(self, name: str, loaded: tuple[str, ...]) -> None:
        self.name = _short(name)
        self.loaded = loaded
        super().__init__(f"model: {self.name!r} is not loaded here; loaded: {', '.join(loaded)}")


class CheckpointError(AceStepError):
    """A checkpoint folder is missing, incomplete, or does not fit the model classes."""


class SettingError(AceStepError):
    def __init__(self, variable: str, value: object, allowed: str) -> None:
        self.variable = variable
        self.value = value
        self.allowed = allowed
        super().__init__(f"{variable}={_short(value)!r} cannot be used; allowed: {allowed}")


class UntimedLyricsError(AceStepError):
    """The lyrics of a song cannot be aligned."""


class DataFolderError(AceStepError):
    """The data folder cannot be read or written."""

    # The text for clients, without the folder's path.
    public = "The server cannot use its storage at the moment. Its log says why."


class NoRoomError(AceStepError):
    def __init__(self, free: int, reserve: int) -> None:
        super().__init__(
            f"The server's disk is full: {free / 1e9:.2f} GB are free, less than its reserve of "
            f"{reserve / 1e9:g} GB (ACESTEP_RESERVE_GB), so nothing was accepted. Delete songs, or lower "
            "ACESTEP_KEEP_GB."
        )


class JobDatabaseError(DataFolderError):
    """The job database cannot be read or written."""

    def __init__(self, path: Path, problem: str, is_lasting: bool = False) -> None:
        # Whether only a restart can end it.
        self.is_lasting = is_lasting
        self.public = f"The job database {path.name} {problem}"
        super().__init__(f"The job database {path} {problem}")


class DataFolderInUseError(DataFolderError):
    """Another server process owns the data folder."""


class JobCancelledError(AceStepError):
    """The job was cancelled."""


def _short(value: object, limit: int = 80) -> object:
    # Recognisable, without echoing megabytes, or walking through them.
    if isinstance(value, str) and len(value) > limit:
        return f"{value[:limit]}… ({len(value)} characters)"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple, dict)) and len(value) > _MAX_SHOWN:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)} values"
    return _short(_BOUNDED.repr(value), limit)


_MAX_SHOWN = 20  # values of a list that an error may show, nested two deep
_BOUNDED = Repr()
_BOUNDED.maxlevel, _BOUNDED.maxstring = 3, 100
_BOUNDED.maxlist = _BOUNDED.maxtuple = _BOUNDED.maxdict = _MAX_SHOWN


class PlannerError(AceStepError):
    """The planner cannot do what was asked."""


class PlannerUnavailableError(AceStepError):
    """A request needs the planner, and this server runs without one."""


class NotEnoughMemoryError(AceStepError):
    """`what` says what was too large, and what would fit."""

    def __init__(self, stage: str, what: str) -> None:
        self.stage = stage
        super().__init__(f"Out of memory at stage {stage}: {what}.")


class NotInstalledError(AceStepError):
    """What a request asks for takes a library that is not installed."""


class StageStuckError(AceStepError):
    def __init__(self, stage: str, seconds: float) -> None:
        self.stage = stage
        super().__init__(
            f"Stage {stage} made no progress for {seconds:g} s, the limit of this server "
            "(ACESTEP_STAGE_TIMEOUT): its thread is stuck. Send the request again once GET /health is ok; "
            "if it does not recover, restart the server."
        )
