"""What routes are given: the services of the server, the body of the request, and proof of the key.

The services lie on `app.state.services`, and nothing else lies there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, FastAPI, Request

from acestep.catalog.adapters import AdapterFolder
from acestep.examples import Examples
from acestep.files import AudioStore
from acestep.jobs.queue import JobQueue
from acestep.jobs.worker import ModelKeeper, PlannerKeeper, Worker
from acestep.memory.decide import Decision
from acestep.rest import auth
from acestep.rest.adapters import ServerAdapters
from acestep.rest.request.body import AudioProbe, Body, BodyReader


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """What the operator decided about the wire. Limits are in bytes; an empty key means no key.

    `draft_timeout` is how many seconds a client may wait for the planner, `generation_timeout` for a song.
    `audio_roots` are the folders whose files a request may name.
    """

    api_key: str = ""
    strict: bool = False
    strict_model: bool = False
    audio_needs_key: bool = False
    unknown_task_status: int = 2
    body_limit: int = 4 * 1024**2
    upload_limit: int = 200 * 1024**2
    cors_origins: tuple[str, ...] = ()
    draft_timeout: float = 120.0
    generation_timeout: float = 600.0
    audio_roots: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpServices:
    """What routes need: `worker` never runs a job here; `uploads` is a folder that exists.

    Without a `keeper` the models stay what they are, without `planners` the planner does.
    """

    queue: JobQueue
    worker: Worker
    audio: AudioStore
    probe: AudioProbe
    uploads: Path
    config: HttpConfig
    examples: Examples = field(default_factory=Examples.load)
    lora: ServerAdapters = field(default_factory=lambda: ServerAdapters(AdapterFolder(None)))
    memory: Decision | None = None
    keeper: ModelKeeper | None = None
    planners: PlannerKeeper | None = None


def provide(app: FastAPI, services: HttpServices) -> None:
    """Give `app` its services; they must be there before the first request."""
    app.state.services = services


async def _services(request: Request) -> HttpServices:
    return cast(HttpServices, request.app.state.services)


Services = Annotated[HttpServices, Depends(_services)]


async def require_key(request: Request, services: Services) -> None:
    """Refuse a request without the key in its headers."""
    auth.check_headers(services.config.api_key, request.headers)


async def _body(request: Request, services: Services) -> AsyncIterator[Body]:
    config = services.config
    body = await BodyReader(config.body_limit, config.upload_limit).read(request)
    try:
        auth.check_body(config.api_key, request.headers, body.fields)
        yield body
    finally:
        await body.close()


RequestBody = Annotated[Body, Depends(_body)]
"""The body of a request that carried the key, in its body or its headers."""
