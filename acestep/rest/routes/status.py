from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from acestep import __version__
from acestep.domain.models import default_model
from acestep.rest.deps import Services, require_key
from acestep.rest.envelope import Envelope
from acestep.rest.page import wants_page
from acestep.rest.response.memory import memory_of
from acestep.rest.response.models import health, stats_of
from acestep.rest.response.schemas import Alive, Health, Start, Stats

router = APIRouter(tags=["server"])


@router.get("/", response_model=Envelope[Start])
async def start(request: Request, services: Services) -> Envelope[Start] | HTMLResponse:
    """Say where the documentation and the API are; browsers get the page. The key is not needed."""
    if services.page and wants_page(request.headers.get("accept", "")):
        document, headers = services.page.start()
        return HTMLResponse(document, headers=headers)
    root = request.scope.get("root_path", "")
    return Envelope(
        data=Start(
            version=__version__,
            docs=f"{root}/docs",
            redoc=f"{root}/redoc",
            openapi=f"{root}/openapi.json",
            health=f"{root}/health",
            models=f"{root}/v1/models",
            generate=f"{root}/release_task",
        )
    )


@router.get("/v1/stats", dependencies=[Depends(require_key)])
async def stats(services: Services) -> Envelope[Stats]:
    """Return job counts, the planner's state and the memory plan."""
    counts, memory = await services.queue.stats(), memory_of(services.memory)
    return Envelope(data=stats_of(counts, services.worker.planner(), memory))


@router.get("/health/live")
async def live() -> Envelope[Alive]:
    """Say that the server answers. The key is not needed."""
    return Envelope(data=Alive())


@router.get(
    "/health/ready", responses={503: {"model": Envelope[Alive], "description": "No songs can be made yet"}}
)
async def ready(response: Response, services: Services) -> Envelope[Alive]:
    """Say whether songs can be made now; 503 while the default model loads, or the server cannot work."""
    models, trouble = services.worker.models(), services.trouble()
    found = health(models, services.worker.planner(), services.placement(), __version__, trouble)
    if found.status == "ok" and found.ready:
        return Envelope(data=Alive())
    response.status_code = 503
    why = trouble or default_model(models).detail or "The default model is not loaded yet"
    return Envelope(data=Alive(status="waiting"), code=503, error=why)


@router.get("/metrics", dependencies=[Depends(require_key)], response_class=PlainTextResponse)
async def get_metrics(services: Services) -> Response:
    """Return numbers of the queue, the songs and the process, as Prometheus reads them."""
    from acestep.rest.metrics import TEXT, metrics  # most servers are not asked

    return Response(await metrics(services), media_type=TEXT)


@router.get(
    "/health",
    responses={
        503: {
            "model": Envelope[Health],
            "description": "The default model could not be loaded, or the server cannot work",
        }
    },
)
async def get_health(response: Response, services: Services) -> Envelope[Health]:
    """Say whether songs can be made; 503 where the default model failed or the server cannot work."""
    models, trouble = services.worker.models(), services.trouble()
    found = health(models, services.worker.planner(), services.placement(), __version__, trouble)
    if found.status == "ok":
        return Envelope(data=found)
    response.status_code = 503
    return Envelope(data=found, code=503, error=trouble or default_model(models).detail)
