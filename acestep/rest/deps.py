"""The dependencies of routes: the services of the server, the body of a request, the check of the key."""

from __future__ import annotations

import hmac
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Protocol, cast

from fastapi import Depends, FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from acestep.background import BackgroundTasks
from acestep.catalog.adapters import AdapterFolder
from acestep.domain.analysis import TimedLine
from acestep.domain.devices import Placement
from acestep.domain.song import AudioFormat
from acestep.errors import DataFolderError, ServerStoppingError
from acestep.examples import Examples
from acestep.files import AudioStore
from acestep.jobs.model import Once
from acestep.jobs.queue import JobQueue
from acestep.jobs.worker import Cancelled, ModelKeeper, PlannerKeeper, Worker
from acestep.memory.decide import Decision
from acestep.rest.adapters import ServerAdapters
from acestep.rest.idempotency import KEY, RepeatableCall, repeatable
from acestep.rest.middleware import Access, arrives_locally
from acestep.rest.page import Page
from acestep.rest.request.body import BODY_FIELD, Body, BodyReader
from acestep.rest.request.sounds import AudioProbe
from acestep.rest.spelling import AudioLinks

_SCHEME = "bearer "

Convert = Callable[[Path, AudioFormat], Path]


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """What the operator decided about the wire."""

    api_key: str  # "": no key
    strict: bool
    strict_model: bool
    audio_needs_key: bool
    unknown_task_status: int
    body_limit: int  # bytes
    upload_limit: int
    draft_timeout: float  # seconds that a client may wait for the planner
    generation_timeout: float  # and for a song
    audio_roots: tuple[Path, ...]  # folders whose files a request may name
    model_list: str = "wrapped"  # or openai: the shape of /v1/models for callers that do not show which
    audio_links: str = "token"  # or path: what links to songs hold
    root_path: str = ""  # of links, at a proxy
    local_roots: tuple[Path, ...] = ()  # and those that programs of this machine may name absolutely
    access: Access = field(default_factory=Access)
    cancel_on_disconnect: bool = True
    disk_reserve: int = 0  # bytes that must be free for a submission
    hooks_private: bool = False  # whether webhooks may go to this machine and its network
    dcw_on_turbo: bool = False  # whether dcw_enabled is on for turbo models where it is not sent


class Transcriber(Protocol):
    async def transcribe(
        self, path: Path, language: str | None, cancelled: Cancelled
    ) -> tuple[TimedLine, ...]: ...


@dataclass(frozen=True, slots=True)
class HttpServices:
    queue: JobQueue
    worker: Worker
    audio: AudioStore
    probe: AudioProbe
    uploads: Path  # an existing folder
    config: HttpConfig
    examples: Examples = field(default_factory=Examples.load)
    lora: ServerAdapters = field(default_factory=lambda: ServerAdapters(AdapterFolder(None)))
    memory: Decision | None = None
    # None: models and planners cannot be replaced while the server runs.
    keeper: ModelKeeper | None = None
    planners: PlannerKeeper | None = None
    background: BackgroundTasks = field(default_factory=BackgroundTasks)
    placement: Callable[[], Placement] = Placement
    convert: Convert | None = None  # a song into a new file of another format, which the caller deletes
    page: Page | None = None  # None: it is turned off
    transcriber: Transcriber | None = None  # None: its library is not installed
    in_flight: set[str] = field(default_factory=set)  # requests that carry an Idempotency-Key
    call: RepeatableCall | None = None  # the present request, if it does
    once: Once | None = None  # and what it asks for

    @property
    def links(self) -> AudioLinks:
        return AudioLinks(self.audio, self.config.audio_links, self.config.root_path)

    def trouble(self) -> str:
        """What keeps loaded models from making songs, and what to do; "" where nothing does."""
        troubles = (
            str(ServerStoppingError()) if self.queue.is_stopping else "",
            self.worker.trouble(),
            self.queue.trouble(),
            self.background.trouble(),
        )
        return " ".join(filter(None, troubles))


def provide(app: FastAPI, services: HttpServices) -> None:
    """Call this before the first request."""
    app.state.services = services
    app.state.model_list = services.config.model_list  # for errors, which arise outside of the routes, too


async def _services(request: Request) -> AsyncIterator[HttpServices]:
    services = cast(HttpServices, request.app.state.services)
    if services.config.local_roots and not arrives_locally(request.scope):
        # uvicorn's own --host is not among the settings.
        services = replace(services, config=replace(services.config, local_roots=()))
    if KEY in request.headers and request.method == "POST":
        with repeatable(request.scope, services.in_flight) as call:
            yield replace(services, call=call)
    else:
        yield services


Services = Annotated[HttpServices, Depends(_services)]


async def require_key(request: Request, services: Services) -> None:
    check_key(request, services)


def check_key(request: Request, services: HttpServices) -> None:
    """Raise 401 unless a header carries the key."""
    _check_headers(services.config.api_key, request.headers, "Missing Authorization header")


async def _body(request: Request, services: Services) -> AsyncIterator[Body]:
    config = services.config

    def check(token: object) -> None:
        _check_token(config.api_key, request.headers, token)

    body = await _read(request, BodyReader(config.body_limit, config.upload_limit, check))
    try:
        check(body.fields.get(BODY_FIELD))
        yield body
    finally:
        await body.close()


async def _read(request: Request, reader: BodyReader) -> Body:
    folder = Path(tempfile.gettempdir())  # ACESTEP_TMPDIR, where large files wait until the body is read
    try:
        await run_in_threadpool(folder.mkdir, parents=True, exist_ok=True)
        return await reader.read(request)
    except OSError as error:
        raise DataFolderError(f"A request cannot be read by way of {folder}: {error}") from error


# The key was in the body or the headers.
RequestBody = Annotated[Body, Depends(_body)]


def _check_token(key: str, headers: Headers, token: object) -> None:
    if not key or token in (None, ""):
        _check_headers(key, headers, "Missing ai_token or Authorization header")
    elif not _equal(key, str(token).encode("utf-8", "surrogatepass")):
        raise _unauthorized("Invalid ai_token")


def _check_headers(key: str, headers: Headers, missing: str) -> None:
    if not key:
        return
    # Starlette reads header bytes as latin-1. Bytes are compared, so that any key works.
    sent = [
        _bare(headers.get(name, "")).encode("latin-1")
        for name in ("authorization", "x-api-key")
        if headers.get(name)
    ]
    if not sent:
        raise _unauthorized(missing)
    if not any(_equal(key, token) for token in sent):
        raise _unauthorized("Invalid API key")


def _bare(header: str) -> str:
    return header[len(_SCHEME) :].strip() if header.lower().startswith(_SCHEME) else header.strip()


def _equal(key: str, sent: bytes) -> bool:
    return hmac.compare_digest(key.encode("utf-8"), sent)


def _unauthorized(message: str) -> HTTPException:
    return HTTPException(401, message, headers={"WWW-Authenticate": "Bearer"})
