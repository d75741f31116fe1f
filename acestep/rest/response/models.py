from __future__ import annotations

import time
from collections.abc import Sequence

from acestep.domain.devices import Placement
from acestep.domain.models import NAME_PREFIX, ModelInfo, PlannerInfo, can_serve, default_model
from acestep.jobs.model import QueueStats
from acestep.rest.response.devices import devices
from acestep.rest.response.schemas import (
    Defaults,
    Health,
    JobCounts,
    Limits,
    MemoryState,
    ModelEntry,
    ModelHealth,
    ModelList,
    OpenAiModel,
    OpenAiModels,
    PlannerEntry,
    PlannerState,
    Stats,
)

MONTH = 30 * 24 * 3600  # seconds; `created` is a month ago at any time, as in the original


def stats_of(stats: QueueStats, planner: PlannerInfo, memory: MemoryState | None = None) -> Stats:
    return Stats(
        jobs=JobCounts(
            total=stats.total,
            queued=stats.queued,
            running=stats.running,
            succeeded=stats.succeeded,
            failed=stats.failed,
        ),
        queue_size=stats.queued,
        queue_maxsize=stats.max_waiting,
        avg_job_seconds=stats.average_seconds,
        planner=_planner_state(planner),
        memory=memory,
    )


def model_list(
    models: Sequence[ModelInfo], planners: Sequence[PlannerInfo], placement: Placement
) -> ModelList:
    """The first of `planners` is the configured one."""
    return ModelList(
        **dict(devices(placement, planners[0])),
        models=[_model_entry(model) for model in models],
        default_model=_default_name(models),
        lm_models=[_planner_entry(planner) for planner in planners if planner.name],
        loaded_lm_model=next((planner.name for planner in planners if planner.state == "ready"), None),
        llm_initialized=can_serve(planners[0]),
    )


def _planner_entry(planner: PlannerInfo) -> PlannerEntry:
    return PlannerEntry(**_planner_state(planner).model_dump(), is_loaded=planner.state == "ready")


def _planner_state(planner: PlannerInfo) -> PlannerState:
    return PlannerState(
        name=planner.name, state=planner.state, detail=planner.detail, backend=planner.backend
    )


def openai_models(models: Sequence[ModelInfo]) -> OpenAiModels:
    return OpenAiModels(data=[openai_model(model) for model in models])


def health(
    models: Sequence[ModelInfo], planner: PlannerInfo, placement: Placement, version: str, trouble: str = ""
) -> Health:
    """`trouble`: why the server cannot work although its models are loaded; "" if it can."""
    default = default_model(models) if models else None
    has_failed = default is not None and default.state == "failed"
    ready = default is not None and can_serve(default)
    return Health(
        **dict(devices(placement, planner)),
        status="error" if has_failed or trouble else "ok",
        version=version,
        ready=ready and not trouble,
        models_initialized=ready,
        llm_initialized=can_serve(planner),
        loaded_model=default.name if default and default.state == "ready" else None,
        loaded_lm_model=planner.name if planner.state == "ready" else None,
        models=[ModelHealth(name=model.name, state=model.state, detail=model.detail) for model in models],
        planner=_planner_state(planner),
    )


def _default_name(models: Sequence[ModelInfo]) -> str | None:
    return default_model(models).name if models else None


def _model_entry(model: ModelInfo) -> ModelEntry:
    return ModelEntry(
        name=model.name,
        is_default=model.is_default,
        is_loaded=model.state == "ready",
        state=model.state,
        detail=model.detail,
        notice=model.notice,
        is_turbo=model.is_turbo,
        defaults=Defaults(
            inference_steps=model.steps, guidance_scale=model.guidance_scale, shift=model.shift
        ),
        limits=Limits(
            max_inference_steps=model.max_steps,
            max_audio_duration=model.max_duration,
            max_batch_size=model.max_batch,
        ),
        tasks=list(model.tasks),
        supported_task_types=list(model.tasks),
    )


def openai_model(model: ModelInfo) -> OpenAiModel:
    return OpenAiModel(
        id=f"{NAME_PREFIX}{model.name}",
        name=f"ACE-Step {model.name}",
        created=int(time.time()) - MONTH,
        max_output_length=int(model.max_duration),
        description=model.notice or "AI music generation model",
    )
