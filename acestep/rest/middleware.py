"""What each request passes before its route, besides `access`."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from acestep.rest.envelope import failure
from acestep.rest.errors import Problem, problem_of
from acestep.rest.spelling import AUDIO_PATH

log = logging.getLogger(__name__)

GRACE_SECONDS = 0.3  # for requests that end by themselves
UNWIND_SECONDS = 0.5  # for those that are cancelled

_STOPPING = Problem(
    503,
    "The server is stopping. Jobs that it has accepted are kept and go on after its next start; send this "
    "request again then.",
    headers={"Retry-After": "10"},
)


class OpenRequests:
    """The requests that are being answered."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[object]] = set()
        self._are_ending = False

    def are_ending(self) -> bool:
        return self._are_ending

    async def end(self) -> None:
        """Refuse further requests, and cancel those that do not end by themselves."""
        self._are_ending = True
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=GRACE_SECONDS)
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=UNWIND_SECONDS)


class EndRequests:
    """The middleware for `requests`; cancelled ones are answered with 503, if no answer has begun."""

    def __init__(self, app: ASGIApp, requests: OpenRequests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        if scope["type"] != "http" or task is None:
            await self._app(scope, receive, send)
            return
        if self._requests.are_ending():
            await failure(_STOPPING, scope)(scope, receive, send)
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        self._requests.tasks.add(task)
        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            if started or not self._requests.are_ending():
                raise
            task.uncancel()
            await failure(_STOPPING, scope)(scope, receive, send)
        finally:
            self._requests.tasks.discard(task)


class ErrorGuard:
    """Answers unforeseen exceptions, and errors that the framework sends as plain text, in the envelope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = replaced = False

        async def guarded(message: Message) -> None:
            nonlocal started, replaced
            if message["type"] == "http.response.start":
                started = True
                replaced = _is_bare_error(message)
                if replaced:
                    await failure(_bare_problem(message), scope)(scope, receive, send)
            if not replaced:
                await send(message)

        try:
            await self._app(scope, receive, guarded)
        except Exception as error:
            if started:
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            await failure(problem_of(error), scope)(scope, receive, send)


def _is_bare_error(message: Message) -> bool:
    content_type = Headers(raw=message["headers"]).get("content-type", "")
    return int(message["status"]) >= HTTPStatus.BAD_REQUEST and content_type.startswith("text/plain")


def _bare_problem(message: Message) -> Problem:
    kept = {
        name: value
        for name, value in Headers(raw=message["headers"]).items()
        if name not in ("content-length", "content-type")
    }
    return Problem(message["status"], HTTPStatus(message["status"]).phrase, headers=kept)


class HeadAsGet:
    """Answers HEAD wherever GET is, with the same headers. Files do so themselves, without being read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"].endswith(AUDIO_PATH):
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, without_body)
