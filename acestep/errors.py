"""The errors that people get to read. Each carries one sentence that says what to do."""

from __future__ import annotations


class AceStepError(Exception):
    """Base of everything that this program raises on purpose; `str(error)` is fit for a user."""


class InvalidFieldError(AceStepError):
    """A request field cannot be used.

    `field` is the field's canonical wire name, `value` what was sent, `allowed` what would do,
    `scope` what it cannot be used with ("with model X"), when that decides.
    """

    def __init__(self, field: str, value: object, allowed: str, remedy: str = "", scope: str = "") -> None:
        self.field = field
        self.value = _short(value)
        self.allowed = allowed
        text = f"{field}: {self.value!r} cannot be used{' ' + scope if scope else ''}; allowed: {allowed}"
        super().__init__(f"{text}. {remedy}" if remedy else text)


class UnusableAudioError(AceStepError):
    """Bytes that were sent as audio cannot be decoded as audio, or exceed a limit."""


class QueueFullError(AceStepError):
    """The queue holds as many jobs as it may; `retry_after` is in whole seconds."""

    def __init__(self, limit: int, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(
            f"Server busy: the queue is full ({limit} jobs waiting). Try again in {retry_after} s."
        )


class ModelUnavailableError(AceStepError):
    """A model that the request needs cannot run here; the text says what to set."""


class UnknownModelError(AceStepError):
    """A model was asked for by a name that is not loaded here; `loaded` are the names that are."""

    def __init__(self, name: str, loaded: tuple[str, ...]) -> None:
        self.name = _short(name)
        self.loaded = loaded
        super().__init__(f"model: {self.name!r} is not loaded here; loaded: {', '.join(loaded)}")


class CheckpointError(AceStepError):
    """A checkpoint folder is missing, incomplete, or does not fit the model classes."""


class SettingError(AceStepError):
    """A setting cannot be used: `variable`, `value`, and what is allowed."""

    def __init__(self, variable: str, value: object, allowed: str) -> None:
        self.variable = variable
        self.value = value
        self.allowed = allowed
        super().__init__(f"{variable}={_short(value)!r} cannot be used; allowed: {allowed}")


class UntimedLyricsError(AceStepError):
    """It cannot be told when the lyrics of a song are sung; the text says why."""


class DataFolderError(AceStepError):
    """The data folder cannot be read or written; the text says what is wrong and what to do."""


class DataFolderInUseError(DataFolderError):
    """Another server process owns the data folder."""


class JobCancelledError(AceStepError):
    """The job was asked to stop and did."""


def _short(value: object, limit: int = 80) -> object:
    """Keep what the user sent recognisable without echoing megabytes back."""
    if isinstance(value, str) and len(value) > limit:
        return f"{value[:limit]}… ({len(value)} characters)"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return _short(repr(value), limit)


class PlannerError(AceStepError):
    """The planner's language model cannot do what was asked of it."""


class PlannerUnavailableError(AceStepError):
    """A request needs the planner, and this server runs without one."""


class NotEnoughMemoryError(AceStepError):
    """Memory ran out at `stage`; `what` says what was too large, and what would fit."""

    def __init__(self, stage: str, what: str) -> None:
        self.stage = stage
        super().__init__(f"Out of memory at stage {stage}: {what}.")


class StageStuckError(AceStepError):
    """`stage` made no progress for `seconds`, which is as long as it may be silent."""

    def __init__(self, stage: str, seconds: float) -> None:
        self.stage = stage
        super().__init__(
            f"Stage {stage} made no progress for {seconds:g} s, the limit of this server "
            "(ACESTEP_STAGE_TIMEOUT): its thread is stuck. Send the request again once GET /health is well; "
            "if that does not come by itself, restart the server."
        )
