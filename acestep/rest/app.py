from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from acestep import __version__
from acestep.rest import envelope
from acestep.rest.callers import OPENAI_ROOT
from acestep.rest.deps import HttpServices, provide
from acestep.rest.idempotency import REPLAYED
from acestep.rest.middleware import Access, ErrorGuard, HeadAsGet, allow
from acestep.rest.openapi import ERRORS, describe
from acestep.rest.prefer import APPLIED
from acestep.rest.response.schemas import SERVICE
from acestep.rest.routes import (
    chat,
    drafts,
    generations,
    jobs,
    lora,
    models,
    music,
    page,
    status,
    tasks,
    transcribe,
)
from acestep.rest.wait import JOB_HEADERS

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


# Headers of answers that pages of allowed origins may read.
EXPOSED = (
    *("Content-Disposition", "Content-Range", "ETag", "Location", "Retry-After", *JOB_HEADERS),
    *(APPLIED, REPLAYED),
)


def create_app(
    services: HttpServices | None = None,
    lifespan: Lifespan | None = None,
    access: Access | None = None,
    root_path: str = "",
) -> FastAPI:
    """Without `services` the lifespan must call `deps.provide`; the others cannot come later."""
    root_path = services.config.root_path if services is not None else root_path
    app = FastAPIOffline(
        title=SERVICE,
        version=__version__,
        description=f"Every path also works below `{OPENAI_ROOT}`; model lists have OpenAI's shape.",
        lifespan=lifespan,
        responses=ERRORS,
    )
    app.add_middleware(HeadAsGet)
    envelope.install(app)
    app.add_middleware(ErrorGuard)
    if services is not None:
        provide(app, services)
        access = access or services.config.access
    allow(app, access or Access(), EXPOSED)
    if root_path:
        app.add_middleware(RootPath, root_path=root_path)
    for module in (tasks, drafts, transcribe, chat, generations, music, jobs, models, lora, status):
        app.include_router(module.router)
        app.include_router(module.router, prefix=OPENAI_ROOT, include_in_schema=False)
    app.include_router(page.router)
    describe(app)
    return app


class RootPath:
    """Tells the framework the path of the server at its proxy, and puts it before the path in `Location`."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def prefixed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                if headers.get("location", "").startswith("/"):
                    headers["location"] = self._root_path + headers["location"]
            await send(message)

        await self._app({**scope, "root_path": self._root_path}, receive, prefixed)
