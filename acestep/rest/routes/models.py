from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from acestep.domain.models import NAME_PREFIX, ModelInfo, PlannerInfo, default_model
from acestep.errors import ModelUnavailableError, UnknownModelError
from acestep.jobs.worker import ModelKeeper, PlannerKeeper
from acestep.rest.callers import MODELS_PATH, lists_like_openai
from acestep.rest.deps import HttpServices, RequestBody, Services, require_key
from acestep.rest.envelope import Envelope, ErrorEnvelope, OpenAiError
from acestep.rest.openapi import OPENAI_ERRORS, body_of, errors
from acestep.rest.request.fields_models import InitModel
from acestep.rest.request.schemas import read_plain
from acestep.rest.response.models import model_list, openai_model, openai_models
from acestep.rest.response.schemas import ModelInit, ModelList, OpenAiModel, OpenAiModels, Reinitialized

router = APIRouter(tags=["models"])
KEY = [Depends(require_key)]


# `openapi.json` cannot say that the callers of OpenAI's list get its errors.
_LIST_ERRORS = errors(ErrorEnvelope, OpenAiError)


@router.get(
    MODELS_PATH,
    response_model=Envelope[ModelList] | OpenAiModels,
    responses=_LIST_ERRORS,
    dependencies=KEY,
)
async def models(
    request: Request,
    services: Services,
    format: Annotated[str, Query(examples=["openai", "wrapped"])] = "",  # noqa: A002
) -> Envelope[ModelList] | OpenAiModels:
    """List the models; in OpenAI's shape with `format=openai`, for OpenAI's libraries, or at /api/v1/models.

    For other callers ACESTEP_MODEL_LIST decides; `format=wrapped` asks for the list with an envelope.
    """
    found = services.worker.models()
    if lists_like_openai(request.scope):
        return openai_models(found)
    return Envelope(data=model_list(found, await _known_planners(services), services.placement()))


@router.get(MODELS_PATH + "/{name:path}", responses=OPENAI_ERRORS, dependencies=KEY)
async def one_model(name: str, services: Services) -> OpenAiModel:
    """Return one model in OpenAI's shape; the name may begin with `acestep/`."""
    found = services.worker.models()
    bare = name.removeprefix(NAME_PREFIX)
    for model in found:
        if model.name == bare:
            return openai_model(model)
    raise UnknownModelError(name, tuple(model.name for model in found))


@router.get("/v1/model_inventory", dependencies=KEY)
async def model_inventory(services: Services) -> Envelope[ModelList]:
    """List the models of /v1/models, and those on disk that are not loaded."""
    found = services.keeper.inventory() if services.keeper else services.worker.models()
    return Envelope(data=model_list(found, await _known_planners(services), services.placement()))


@router.post("/v1/init", openapi_extra=body_of(InitModel))
async def init(body: RequestBody, services: Services) -> Envelope[ModelInit]:
    """Load a model into a slot, or a planner, while the server runs; the answer comes when it is loaded.

    The model in the slot is evicted once its songs are finished, or before loading where both do not fit.
    Queued songs run on the model that they name, or on the default one with a warning. A planner replaces
    the loaded one once its texts are finished; songs that need a planner wait. With only a planner in the
    request, models stay as they are.
    """
    asked = read_plain(InitModel, body.fields)
    wants_planner = asked.init_llm or bool(asked.lm_model_path)
    planner = asked.lm_model_path or None
    if wants_planner:
        await _planners(services).check(planner)
    loaded = default_model(services.worker.models())
    if asked.model or not wants_planner or "slot" in asked.model_fields_set:
        name = asked.model.removeprefix(NAME_PREFIX) if asked.model else None
        loaded = await _keeper(services).put(asked.slot, name)
    if wants_planner:
        await _planners(services).put(planner)
    models = model_list(services.worker.models(), await _known_planners(services), services.placement())
    changed = ModelInit(
        message="Model initialization completed",
        slot=asked.slot,
        loaded_model=loaded.name,
        **dict(models),
    )
    return Envelope(data=changed)


@router.post("/v1/reinitialize", dependencies=KEY)
async def reinitialize(services: Services) -> Envelope[Reinitialized]:
    """Load failed models again. The body is not read."""
    reloaded = await _keeper(services).reload()
    if services.planners is not None:
        reloaded = (*reloaded, *await services.planners.reload())
    infos: list[ModelInfo | PlannerInfo] = [*services.worker.models(), *await _known_planners(services)]
    failed = [info.name for info in infos if info.state == "failed"]
    message = (
        f"Still not loaded: {', '.join(failed)}; GET /v1/models has the reason" if failed else "All is loaded"
    )
    return Envelope(data=Reinitialized(message=message, reloaded=list(reloaded)))


async def _known_planners(services: HttpServices) -> tuple[PlannerInfo, ...]:
    # It may search for room for each planner on disk, which takes tens of milliseconds.
    return await asyncio.to_thread(services.worker.planners)


def _keeper(services: HttpServices) -> ModelKeeper:
    if services.keeper is None:
        raise ModelUnavailableError("The models of this server cannot be changed while it runs.")
    return services.keeper


def _planners(services: HttpServices) -> PlannerKeeper:
    if services.planners is None:
        raise ModelUnavailableError("The planner of this server cannot be changed while it runs.")
    return services.planners
