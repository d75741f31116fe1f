"""The HTTP status of each error, and the text that clients may read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from acestep.errors import (
    AceStepError,
    DataFolderError,
    InvalidFieldError,
    JobCancelledError,
    JobDatabaseError,
    ModelUnavailableError,
    NoRoomError,
    NotEnoughMemoryError,
    NotInstalledError,
    PlannerError,
    PlannerUnavailableError,
    QueueFullError,
    ServerStoppingError,
    StageStuckError,
    UnknownModelError,
    UnusableAudioError,
)

STATUS: Mapping[type[AceStepError], int] = {
    InvalidFieldError: 422,
    UnusableAudioError: 415,
    UnknownModelError: 404,
    QueueFullError: 429,
    ServerStoppingError: 503,
    ModelUnavailableError: 503,
    PlannerUnavailableError: 503,
    PlannerError: 500,
    JobCancelledError: 503,
    NotInstalledError: 501,
    DataFolderError: 503,
    NotEnoughMemoryError: 503,
    NoRoomError: 507,
    StageStuckError: 503,
}
_OPENAI_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
INTERNAL = "Internal server error"
# The error names a folder of the server, so only the log has it.
STORAGE = "The server cannot use its storage at the moment; nothing was accepted. Its log has the reason."


MAX_REASONS = 10  # that an answer tells


class InvalidFieldsError(InvalidFieldError):
    """Several fields cannot be used; `field` is the first, the text names ten."""

    def __init__(self, errors: Sequence[InvalidFieldError]) -> None:
        first = errors[0]
        super().__init__(first.field, first.value, first.allowed)
        told = [str(error) for error in errors[:MAX_REASONS]]
        more = len(errors) - len(told)
        self.args = ("; ".join([*told, f"{more} more values cannot be used"] if more else told),)


class StrictError(InvalidFieldError):
    """Raised instead of warnings on a strict server."""

    def __init__(self, warnings: Sequence[str]) -> None:
        super().__init__(warnings[0].partition(":")[0].strip("'\""), None, "")
        self.args = (f"This server refuses what it would have to change: {'; '.join(warnings)}",)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as clients read it."""

    status: int
    message: str
    extra: dict[str, object] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def like_openai(self) -> dict[str, object]:
        """Return the `error` object that OpenAI's libraries read."""
        param = (self.extra or {}).get("field")
        code = _OPENAI_CODES.get(self.status)
        if self.status == HTTPStatus.NOT_FOUND and param == "model":
            code = "model_not_found"
        kind = "server_error" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        kind = "rate_limit_error" if self.status == HTTPStatus.TOO_MANY_REQUESTS else kind
        return {"message": self.message, "type": kind, "param": param, "code": code}


def problem_of(error: Exception) -> Problem:
    """Errors that are not meant for clients become a 500 without details."""
    if isinstance(error, HTTPException):
        return Problem(error.status_code, error.detail, headers=error.headers or {})
    if isinstance(error, RequestValidationError):
        return _invalid_parameter(error)
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), None)
    if status is None:
        return Problem(500, INTERNAL)
    if isinstance(error, JobDatabaseError):
        return Problem(status, error.public)
    if isinstance(error, DataFolderError):
        return Problem(status, STORAGE)
    waits = isinstance(error, QueueFullError | ServerStoppingError)
    headers = {"Retry-After": str(getattr(error, "retry_after", ""))} if waits else {}
    return Problem(status, str(error), _extra(error), headers)


def _extra(error: Exception) -> dict[str, object] | None:
    if isinstance(error, InvalidFieldError):
        value = error.value
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)  # JSON has no such number
        return {"field": error.field, "value": value, "allowed": error.allowed or None}
    if isinstance(error, UnknownModelError):
        return {"field": "model", "value": error.name, "allowed": ", ".join(error.loaded)}
    return None


def _invalid_parameter(error: RequestValidationError) -> Problem:
    # The framework validates query parameters alone.
    first = error.errors()[0]
    name = str(first["loc"][:2][-1])  # after "query" or "path"; the rest is the place in a list
    if first["type"] == "missing":
        return Problem(422, f"{name}: {first['msg']}", {"field": name, "value": None, "allowed": None})
    value, allowed = str(first["input"])[:80], first["msg"].removeprefix("Input should be ")
    text = f"{name}: {value!r} cannot be used; allowed: {allowed}"
    return Problem(422, text, {"field": name, "value": value, "allowed": allowed})
