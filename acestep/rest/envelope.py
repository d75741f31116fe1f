"""The shape of all answers. `rest.errors` decides the status and text of an error."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from http import HTTPStatus
from typing import Generic, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import Scope

from acestep.errors import AceStepError, DataFolderError
from acestep.rest.callers import fails_like_openai
from acestep.rest.errors import Problem, problem_of
from acestep.rest.spelling import now_ms

log = logging.getLogger(__name__)

T = TypeVar("T")

PROBLEM_TYPE = "application/problem+json"


class Envelope(BaseModel, Generic[T]):
    """An answer; the result is in `data`."""

    data: T
    code: int = Field(200, description="The HTTP status.")
    error: str | None = Field(None, description="The error, as a sentence.")
    timestamp: int = Field(default_factory=now_ms, description="Milliseconds since the epoch.")
    extra: dict[str, object] | None = None


class ErrorDetail(BaseModel):
    """The field that cannot be used."""

    field: str
    value: object = Field(None, description="The value that was sent.")
    allowed: str | None = Field(None, description="The values that can be sent.")


class ErrorEnvelope(BaseModel):
    """An error; `error` and `detail` have the same text."""

    data: None = None
    code: int = Field(description="The HTTP status.")
    error: str = Field(description="The error and its remedy, as a sentence.")
    detail: str = Field(description="The same text, for clients that read this key.")
    timestamp: int = Field(description="Milliseconds since the epoch.")
    extra: ErrorDetail | None = Field(None, description="The field that cannot be used, if there is one.")


class OpenAiErrorDetail(BaseModel):
    message: str = Field(description="The error and its remedy, as a sentence.")
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(None, description="The field that cannot be used, if there is one.")
    code: str | None = Field(None, examples=["model_not_found"])


class OpenAiError(BaseModel):
    """An error in OpenAI's shape."""

    error: OpenAiErrorDetail
    detail: str = Field(description="The same text, for clients that read this key.")


class Json(JSONResponse):
    """JSON in UTF-8; lone surrogates, which UTF-8 cannot hold, stay escaped."""

    def render(self, content: object) -> bytes:
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def failure(problem: Problem, scope: Scope) -> Json:
    if PROBLEM_TYPE in Headers(scope=scope).get("accept", ""):
        return Json(_details(problem), problem.status, dict(problem.headers), PROBLEM_TYPE)
    content: dict[str, object] = {
        "data": None,
        "code": problem.status,
        "error": problem.message,
        "detail": problem.message,
        "timestamp": now_ms(),
        "extra": problem.extra,
    }
    if fails_like_openai(scope):
        content = {"error": problem.like_openai(), "detail": problem.message}
    return Json(content, problem.status, headers=dict(problem.headers))


def _details(problem: Problem) -> dict[str, object]:
    # RFC 9457.
    phrase = HTTPStatus(problem.status).phrase
    core = {"type": "about:blank", "title": phrase, "status": problem.status, "detail": problem.message}
    return {**(problem.extra or {}), **core}


def install(app: FastAPI) -> None:
    for kind in (AceStepError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answer_error)


async def _answer_error(request: Request, error: Exception) -> Json:
    problem = problem_of(error)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR or isinstance(error, DataFolderError):
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    if problem.status == HTTPStatus.METHOD_NOT_ALLOWED:
        problem = replace(problem, headers={**problem.headers, "Allow": ", ".join(_methods(request))})
    return failure(problem, request.scope)


def _methods(request: Request) -> list[str]:
    # Those of all routes with this path; the framework names those of the first.
    scope = request.scope
    found = {
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    }
    return sorted(found)
