"""Ends open requests when the server stops."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from acestep.rest.envelope import failure
from acestep.rest.errors import Problem

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
