"""From jobs, songs and models to what clients read.

Owns how the shapes in `http.answers` are filled. Knows nothing of where jobs are kept or how songs are made.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from acestep.domain import AdapterUse, ModelInfo, PlannerInfo, Song, SongPlan, SongRequest
from acestep.examples import CustomExample, SimpleExample
from acestep.http.analyses import METADATA_DONE, NO_DIT, analysis
from acestep.http.answers import (
    CustomSample,
    Defaults,
    Health,
    JobCounts,
    Limits,
    LoraItem,
    MemoryState,
    Metas,
    ModelEntry,
    ModelHealth,
    ModelList,
    OpenAiModel,
    OpenAiModels,
    PlannerEntry,
    PlannerState,
    QueryEntry,
    ResultItem,
    SimpleSample,
    Stats,
    StemItem,
)
from acestep.http.fields import UNDECIDED
from acestep.http.findings import found_fields
from acestep.http.recipe import recipe
from acestep.jobs.model import Job, JobState, JobView, QueueStats
from acestep.limits import NAME_PREFIX, default_model

AUDIO_PATH = "/v1/audio"
LABEL_END = "_"  # between the speaking part of an audio link and its token, which has no underscore
MAX_LABEL = 40  # characters
STATUS: dict[JobState, int] = {"queued": 0, "running": 0, "succeeded": 1, "failed": 2, "cancelled": 2}
UNKNOWN_TASK = "unknown task id"
MONTH = 30 * 24 * 3600  # the original says that its models are a month old, whenever it is asked


def unknown_entry(task_id: str, status: int) -> QueryEntry:
    """Return the entry for an id that nobody knows; with status 0 it looks like a job that waits."""
    if status == 0:
        return QueryEntry(task_id=task_id, result="[]", status=0)
    item = ResultItem(status=status, stage="failed", error=UNKNOWN_TASK)
    return QueryEntry(task_id=task_id, result=_dump([item]), status=status, error=UNKNOWN_TASK)


def query_entry(view: JobView, token: Callable[[str], str], average_seconds: float) -> QueryEntry:
    """Return the entry for a job; `token` makes the capability for a file's name."""
    job = view.job
    found = _analysis(job)
    return QueryEntry(
        task_id=job.id,
        result=_dump(result_items(view, token)) if found is None else json.dumps([found], ensure_ascii=False),
        status=STATUS[job.state],
        progress_text=progress_text(view),
        error=error_of(job),
        queue_position=view.position,
        eta_seconds=eta_seconds(view, average_seconds),
    )


def result_items(view: JobView, token: Callable[[str], str]) -> list[ResultItem]:
    """Return one item for each song of a job, or the one that stands for all until there are songs."""
    job = view.job
    if job.state == "succeeded":
        return [_song_item(job, index, token) for index in range(len(job.songs))]
    return [_waiting_item(view)]


def _analysis(job: Job) -> dict[str, Any] | None:
    """What a job says that has ended in a plan, not in a song."""
    if job.state != "succeeded" or not job.songs:
        return None
    plan = job.songs[0].plan
    return analysis(job.request.goal, plan, code_string(plan.audio_codes))


def _dump(items: Sequence[ResultItem]) -> str:
    return json.dumps([item.model_dump() for item in items], ensure_ascii=False)


def error_of(job: Job) -> str | None:
    """Return why a job ended without songs; None for any other."""
    return job.error or "The job was cancelled." if STATUS[job.state] == 2 else None


def _waiting_item(view: JobView) -> ResultItem:
    """A job without songs: queued, running, failed or cancelled."""
    job, request = view.job, view.job.request
    progress = view.progress
    return ResultItem(
        status=STATUS[job.state],
        create_time=int(job.created_at),
        prompt=request.caption,
        lyrics=request.lyrics,
        metas=_metas(request, request.bpm, request.duration, request.key_scale, request.time_signature),
        seed_value=_join(request.seeds),
        dit_model=request.model or "",
        progress=round(progress.fraction, 4) if progress else 0.0,
        stage=progress.stage if progress else job.state,
        error=error_of(job),
        warnings=list(request.warnings),
        lora=_lora(request.adapters),
    )


def _song_item(job: Job, index: int, token: Callable[[str], str]) -> ResultItem:
    song, request = job.songs[index], job.request
    plan = song.plan
    return ResultItem(
        file=audio_link(plan.caption, token(song.file)) if song.file else "",
        status=STATUS[job.state],
        create_time=int(job.created_at),
        prompt=plan.caption,
        lyrics=plan.lyrics,
        metas=_metas(request, plan.bpm, plan.duration, plan.key_scale, plan.time_signature),
        generation_info=_generation_info(job, song) if song.file else METADATA_DONE,
        seed_value=_join(tuple(other.plan.seed for other in job.songs)),
        seed=plan.seed,
        lm_model=song.lm_model,
        dit_model=song.dit_model if song.file else NO_DIT,
        progress=1.0,
        stage=job.state,
        warnings=list(dict.fromkeys((*request.warnings, *song.warnings))),
        timings=song.timings,
        lora=_lora(plan.adapters),
        audio_codes=code_string(plan.audio_codes),
        recipe=recipe(song, request),
        stems=[
            StemItem(track=stem.track, file=audio_link(f"{stem.track} {plan.caption}", token(stem.file)))
            for stem in song.findings.stems
        ],
        **found_fields(song.findings),
    )


def _metas(
    request: SongRequest, bpm: int | None, duration: float | None, key: str | None, time_signature: str | None
) -> Metas:
    return Metas(
        bpm=bpm or UNDECIDED,
        duration=duration or UNDECIDED,
        keyscale=key or UNDECIDED,
        timesignature=time_signature or UNDECIDED,
        prompt=request.caption,
        lyrics=request.lyrics,
    )


def _lora(uses: Sequence[AdapterUse]) -> list[LoraItem]:
    return [LoraItem(name=use.name, scale=use.scale) for use in uses]


def code_string(codes: Sequence[int]) -> str:
    """Return audio codes as the text of tokens that clients know."""
    return "".join(f"<|audio_code_{code}|>" for code in codes)


def _join(seeds: Sequence[int]) -> str:
    return ",".join(str(seed) for seed in seeds)


def _generation_info(job: Job, song: Song) -> str:
    """Markdown for people: how long it took, and with what."""
    sampling = song.plan.sampling
    count = len(job.songs)
    lines = []
    if job.work_seconds is not None:
        lines.append(f"**Average time per song: {job.work_seconds / count:.2f} s** ({count} in this job)")
    lines += [
        f"- model: {song.dit_model}",
        f"- steps: {sampling.steps}, guidance: {sampling.guidance_scale:g}, shift: {sampling.shift:g}, "
        f"method: {sampling.infer_method}",
        *([f"- planner: {song.lm_model}"] if song.lm_model else []),
        f"- metadata: {_metadata(song.plan)}",
        *(f"- lora: {use.name} at {use.scale:g}" for use in song.plan.adapters),
        *([f"- audio codes: {len(song.plan.audio_codes)}"] if song.plan.audio_codes else []),
        *(f"- {stage}: {seconds:.2f} s" for stage, seconds in song.timings.items()),
    ]
    return "\n".join(lines)


def _metadata(plan: SongPlan) -> str:
    decided = {
        "bpm": plan.bpm,
        "key": plan.key_scale,
        "time signature": plan.time_signature,
        "duration": f"{plan.duration:g} s",
        "language": plan.language,
    }
    return ", ".join(f"{name}: {value}" for name, value in decided.items() if value is not None)


def progress_text(view: JobView) -> str:
    """Say what is going on, for people."""
    if view.progress:
        return view.progress.text or view.progress.stage
    if view.position:
        return f"Waiting, number {view.position} in the queue"
    return ""


def eta_seconds(view: JobView, average_seconds: float) -> float | None:
    """Guess when a job is done from the average; jobs that run now count as half done."""
    if view.position:
        return round((view.position + 0.5) * average_seconds, 1)
    if view.progress:
        return round((1.0 - view.progress.fraction) * average_seconds, 1)
    return None


def audio_link(caption: str, token: str) -> str:
    """Return the link to a file; in front of the token stands what the file will be called."""
    label = label_of(caption)
    return f"{AUDIO_PATH}?path={quote(f'{label}{LABEL_END}{token}' if label else token, safe='')}"


def label_of(caption: str) -> str:
    """Return the speaking part of a file's name, which is safe in any link or header."""
    return "-".join(re.findall(r"[a-z0-9]+", caption.lower()))[:MAX_LABEL].strip("-")


def split_link(path: str) -> tuple[str, str]:
    """Return the speaking part of what an audio link carries (nothing strange in it), and the token."""
    label, _, token = path.rpartition(LABEL_END)
    return "".join(re.findall(r"[a-z0-9-]+", label))[:MAX_LABEL], token


def simple_sample(example: SimpleExample) -> SimpleSample:
    """Return a sentence under the names that clients know."""
    return SimpleSample(
        description=example.description,
        instrumental=example.instrumental,
        vocal_language=example.language,
    )


def custom_sample(example: CustomExample) -> CustomSample:
    """Return a whole song under the names that clients know; every one gains from thinking."""
    return CustomSample(
        think=True,
        caption=example.caption,
        lyrics=example.lyrics,
        bpm=example.bpm,
        duration=example.duration,
        keyscale=example.key_scale,
        language=example.language,
        timesignature=example.time_signature,
    )


def stats_of(stats: QueueStats, planner: PlannerInfo, memory: MemoryState | None = None) -> Stats:
    """Return the counts under the names that clients know."""
    return Stats(
        jobs=JobCounts(
            total=stats.total,
            queued=stats.queued,
            running=stats.running,
            succeeded=stats.succeeded,
            failed=stats.failed,
        ),
        queue_size=stats.waiting,
        queue_maxsize=stats.max_waiting,
        avg_job_seconds=stats.average_seconds,
        planner=_planner_state(planner),
        memory=memory,
    )


def model_list(models: Sequence[ModelInfo], planners: Sequence[PlannerInfo]) -> ModelList:
    """Return the models that can be asked for, and the planners, of which the first is the own one."""
    return ModelList(
        models=[_model_entry(model) for model in models],
        default_model=_default_name(models),
        lm_models=[_planner_entry(planner) for planner in planners if planner.name],
        loaded_lm_model=next((planner.name for planner in planners if planner.state == "ready"), None),
        llm_initialized=_can_be_had(planners[0]),
    )


def _planner_entry(planner: PlannerInfo) -> PlannerEntry:
    return PlannerEntry(**_planner_state(planner).model_dump(), is_loaded=planner.state == "ready")


def _planner_state(planner: PlannerInfo) -> PlannerState:
    return PlannerState(
        name=planner.name, state=planner.state, detail=planner.detail, backend=planner.backend
    )


def openai_models(models: Sequence[ModelInfo]) -> OpenAiModels:
    """Return the model list in the shape that OpenAI-style clients read."""
    return OpenAiModels(data=[openai_model(model) for model in models])


def health(models: Sequence[ModelInfo], planner: PlannerInfo, version: str, trouble: str = "") -> Health:
    """Return how far loading is; `trouble` is what keeps loaded models from working."""
    default = default_model(models) if models else None
    has_failed = default is not None and default.state == "failed"
    ready = default is not None and _can_be_had(default)
    return Health(
        status="error" if has_failed or trouble else "ok",
        version=version,
        ready=ready and not trouble,
        models_initialized=ready,
        llm_initialized=_can_be_had(planner),
        loaded_model=default.name if default and default.state == "ready" else None,
        loaded_lm_model=planner.name if planner.state == "ready" else None,
        models=[ModelHealth(name=model.name, state=model.state, detail=model.detail) for model in models],
        planner=_planner_state(planner),
    )


def _can_be_had(model: ModelInfo | PlannerInfo) -> bool:
    """Whether it works for the next request, which may have to wait for it to be loaded again.

    Who waits for a server to be ready would wait for ever for one that loads at the first request.
    """
    return model.state == "ready" or (model.comes_when_wanted and model.state != "failed")


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
    """Return one model in the shape that OpenAI-style clients read."""
    return OpenAiModel(
        id=f"{NAME_PREFIX}{model.name}",
        name=f"ACE-Step {model.name}",
        created=int(time.time()) - MONTH,
        max_output_length=int(model.max_duration),
        description=model.notice or "AI music generation model",
    )
