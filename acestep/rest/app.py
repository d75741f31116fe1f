from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from acestep import __version__
from acestep.rest import envelope
from acestep.rest.deps import HttpServices, provide
from acestep.rest.openapi import ERRORS, describe
from acestep.rest.routes import chat, drafts, generations, lora, models, music, status, tasks
from acestep.rest.wait import JOB_HEADERS

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

LOCAL = "local"
# Pages of this machine on any port, and pages opened as files, whose origin is "null".
LOCAL_ORIGINS = r"null|https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


def create_app(
    services: HttpServices | None = None,
    lifespan: Lifespan | None = None,
    cors_origins: Sequence[str] | None = None,
) -> FastAPI:
    """Without `services` the lifespan must call `deps.provide`; `cors_origins` cannot come later."""
    app = FastAPI(
        title="ACE-Step API",
        version=__version__,
        description=f"Every path also works below `{models.OPENAI_ROOT}`; model lists have OpenAI's shape.",
        lifespan=lifespan,
        responses=ERRORS,
    )
    envelope.install(app)
    if services is not None:
        provide(app, services)
        cors_origins = services.config.cors_origins if cors_origins is None else cors_origins
    _allow_origins(app, cors_origins or ())
    for module in (tasks, drafts, chat, generations, music, models, lora, status):
        app.include_router(module.router)
        app.include_router(module.router, prefix=models.OPENAI_ROOT, include_in_schema=False)
    describe(app)
    return app


def _allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin for origin in origins if origin != LOCAL],
            allow_origin_regex=LOCAL_ORIGINS if LOCAL in origins else None,
            allow_methods=["GET", "HEAD", "POST", "OPTIONS"],
            allow_headers=["Content-Type", "Authorization", "X-API-Key", "Range", "Prefer"],
            expose_headers=["Content-Disposition", "Content-Range", "Location", "Retry-After", *JOB_HEADERS],
        )
