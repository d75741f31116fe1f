"""Which models there are."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from acestep.errors import UnknownModelError
from acestep.http.answers import ModelList, OpenAiModel, OpenAiModels
from acestep.http.deps import Services, require_key
from acestep.http.envelope import Envelope
from acestep.http.wire import model_list, openai_model, openai_models
from acestep.limits import NAME_PREFIX

router = APIRouter(tags=["models"], dependencies=[Depends(require_key)])

OPENAI_MEDIA_TYPE = "application/vnd.openai+json"
OPENAI_ROOT = "/api"  # every route is there as well, so that a client needs one base address alone


@router.get("/v1/models", response_model=Envelope[ModelList] | OpenAiModels)
async def models(
    request: Request,
    services: Services,
    format: Annotated[str, Query(examples=["openai"])] = "",  # noqa: A002
) -> Envelope[ModelList] | OpenAiModels:
    """List the models; in OpenAI's shape with `format=openai`, if that is accepted, and at /api/v1/models."""
    found = services.worker.models()
    accepted = OPENAI_MEDIA_TYPE in request.headers.get("accept", "")
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    if format == "openai" or accepted or path.startswith(OPENAI_ROOT):
        return openai_models(found)
    return Envelope(data=model_list(found, services.worker.planner()))


@router.get("/v1/models/{name:path}")
async def one_model(name: str, services: Services) -> OpenAiModel:
    """Describe one model in OpenAI's shape; its name may begin with `acestep/`."""
    found = services.worker.models()
    bare = name.removeprefix(NAME_PREFIX)
    for model in found:
        if model.name == bare:
            return openai_model(model)
    raise UnknownModelError(name, tuple(model.name for model in found))


@router.get("/v1/model_inventory")
async def model_inventory(services: Services) -> Envelope[ModelList]:
    """List the models; the same as /v1/models."""
    return Envelope(data=model_list(services.worker.models(), services.worker.planner()))
