"""What each request passes before its route: is the server stopping, may this page call, errors, HEAD.

A browser sends the requests of any page, also to this machine, and names the page's origin. A page can give
its own name this machine's address (DNS rebinding); then only `Host` shows it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from acestep.rest.envelope import failure
from acestep.rest.errors import Problem, problem_of
from acestep.rest.idempotency import ADDED
from acestep.rest.spelling import AUDIO_PATH

log = logging.getLogger(__name__)

LOCAL, ANY, NONE = "local", "*", "none"  # of ACESTEP_CORS_ORIGINS
LOCAL_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
LOCALHOST = "localhost"
# They change nothing, and pages of other origins cannot read the answers.
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

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


@dataclass(frozen=True, slots=True)
class Access:
    origins: tuple[str, ...] = (LOCAL,)
    hosts: tuple[str, ...] = ()  # names beside those of this machine; "*.example.org" has all below it
    is_local: bool = False  # the server listens on this machine's loopback address alone

    @property
    def named(self) -> tuple[str, ...]:
        return tuple(origin for origin in self.origins if origin not in (LOCAL, NONE))


def allow(app: FastAPI, access: Access, exposed: Sequence[str]) -> None:
    """Answer preflights, and refuse requests of other pages. Pages may read the headers in `exposed`."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=access.named,
        allow_origin_regex=LOCAL_ORIGINS if LOCAL in access.origins else None,
        allow_methods=["GET", "HEAD", "POST", "DELETE", "OPTIONS"],
        allow_headers=["*"],  # clients add headers of their own, such as x-stainless-os
        allow_private_network=True,  # to pages that may call the server anyway
        expose_headers=exposed,
    )
    app.add_middleware(AccessGuard, access=access)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    address = _address(host)
    return host == LOCALHOST if address is None else address.is_loopback


def arrives_locally(scope: Scope) -> bool:
    """Whether a connection came to the loopback address, wherever else the server listens."""
    server = scope.get("server")
    return server is not None and is_loopback(str(server[0]))


class AccessGuard:
    """Refuses (403) hosts that are not this server's, and changes asked for by pages that may not use it."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await failure(problem, scope)(scope, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")  # none in HTTP/1.0, which no browser speaks
        local_only = self._access.is_local and arrives_locally(scope)
        if local_only or self._access.hosts:
            for host in hosts:
                if not self._is_own(host, local_only):
                    return _unknown_host(host)
        if scope["method"] in SAFE_METHODS:
            return None
        origins = headers.getlist("origin")
        for origin in origins:
            if not (self._may_call(origin) or self._is_own_page(origin, hosts)):
                return _foreign_page(origin)
        # Browsers leave the origin out now and then, but say this.
        is_foreign = headers.get("sec-fetch-site") == "cross-site" and ANY not in self._access.origins
        return _foreign_page("of another site") if is_foreign and not origins else None

    def _is_own(self, host: str, local_only: bool) -> bool:
        name = _name(host)
        if is_loopback(name) or self._is_named(name):
            return True
        # A page cannot be at an address that is not the server's.
        return not local_only and _address(name) is not None

    def _is_named(self, name: str) -> bool:
        return any(
            allowed in (ANY, name) or (allowed.startswith("*.") and name.endswith(allowed[1:]))
            for allowed in map(str.lower, self._access.hosts)
        )

    def _may_call(self, origin: str) -> bool:
        named = self._access.named
        if ANY in named or origin in named:
            return True
        return LOCAL in self._access.origins and re.fullmatch(LOCAL_ORIGINS, origin) is not None

    def _is_own_page(self, origin: str, hosts: list[str]) -> bool:
        # A page of this server, such as /docs. A name counts only where it is known: rebinding needs one.
        try:
            netloc = urlsplit(origin).netloc.lower()
        except ValueError:
            return False
        return bool(netloc) and [netloc] == [*map(str.lower, hosts)] and self._is_own(netloc, False)


def _name(host: str) -> str:
    # Take a port away, and the brackets of an IPv6 address.
    bare = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return bare.lower().removesuffix(".")


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


def _unknown_host(host: str) -> Problem:
    name = _name(host)[:80]
    return Problem(
        403,
        f"Host: {name!r} is no name of this server. Call it as localhost or 127.0.0.1, or add the name to "
        "ACESTEP_ALLOWED_HOSTS",
        {"field": "Host", "value": name, "allowed": "localhost, 127.0.0.1, [::1], ACESTEP_ALLOWED_HOSTS"},
    )


def _foreign_page(origin: str) -> Problem:
    origin = origin[:80]
    return Problem(
        403,
        f"Origin: a web page ({origin}) asks for this, and it may not use this server. If you trust it, add "
        "its origin to ACESTEP_CORS_ORIGINS",
        {"field": "Origin", "value": origin, "allowed": "an origin in ACESTEP_CORS_ORIGINS"},
    )


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
                message["headers"] = [*message["headers"], *scope.get(ADDED, ())]
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
