from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from acestep.domain.song import AdapterUse, Song, SongPlan, SongRequest
from acestep.examples import CustomExample, SimpleExample
from acestep.jobs.model import Job, JobState, JobView
from acestep.rest.response.schemas import (
    CustomSample,
    LoraItem,
    Metas,
    QueryEntry,
    ResultItem,
    SimpleSample,
    StemItem,
)
from acestep.rest.response.song import METADATA_DONE, NO_DIT, analysis_fields, plan_item, recipe
from acestep.rest.spelling import UNDECIDED, JsonObject, code_string

_STEM_NAMES = {"keyboard": "piano"}  # what workstations call a track otherwise

STATUS: dict[JobState, int] = {"queued": 0, "running": 0, "succeeded": 1, "failed": 2, "cancelled": 2}

UNKNOWN_TASK = "unknown task id"


def unknown_entry(task_id: str, status: int) -> QueryEntry:
    """With status 0, as the original answers, the entry looks like that of a queued job."""
    if status == 0:
        return QueryEntry(task_id=task_id, result="[]", status=0)
    item = ResultItem(status=status, stage="failed", error=UNKNOWN_TASK)
    return QueryEntry(task_id=task_id, result=_dump([item]), status=status, error=UNKNOWN_TASK)


def query_entry(view: JobView, link: Callable[[str, str], str]) -> QueryEntry:
    """`link` returns the link to a file, given its caption and name."""
    job = view.job
    found = _analysis(job)
    return QueryEntry(
        task_id=job.id,
        result=_dump(result_items(view, link)) if found is None else json.dumps([found], ensure_ascii=False),
        status=STATUS[job.state],
        progress_text=progress_text(view),
        error=error_of(job),
        queue_position=view.position,
        eta_seconds=rounded(view.eta),
    )


def result_items(view: JobView, link: Callable[[str, str], str]) -> list[ResultItem]:
    """Return an item for each song, or one for the job until it has songs."""
    job = view.job
    if job.state == "succeeded":
        return [_song_item(job, index, link) for index in range(len(job.songs))]
    return [_waiting_item(view)]


def _analysis(job: Job) -> JsonObject | None:
    # Return the item of a job that ends in a plan instead of songs.
    if job.state != "succeeded" or not job.songs:
        return None
    plan = job.songs[0].plan
    return plan_item(job.request.goal, plan, code_string(plan.audio_codes))


def _dump(items: Sequence[ResultItem]) -> str:
    return json.dumps([item.model_dump() for item in items], ensure_ascii=False)


def error_of(job: Job) -> str | None:
    return job.error or "The job was cancelled." if STATUS[job.state] == 2 else None


def _waiting_item(view: JobView) -> ResultItem:
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


def _song_item(job: Job, index: int, link: Callable[[str, str], str]) -> ResultItem:
    song, request = job.songs[index], job.request
    plan = song.plan
    return ResultItem(
        file=link(plan.caption, song.file) if song.file else "",
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
        dtype=song.dtype,
        progress=1.0,
        stage=job.state,
        warnings=list(dict.fromkeys((*request.warnings, *song.warnings))),
        timings=song.timings,
        lora=_lora(plan.adapters),
        audio_codes=code_string(plan.audio_codes),
        recipe=recipe(song, request),
        stems=[
            StemItem(
                track=stem.track,
                name=_STEM_NAMES.get(stem.track, stem.track),
                file=link(f"{stem.track} {plan.caption}", stem.file),
            )
            for stem in song.analysis.stems
        ],
        **analysis_fields(song.analysis),
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


def _join(seeds: Sequence[int]) -> str:
    return ",".join(str(seed) for seed in seeds)


def _generation_info(job: Job, song: Song) -> str:
    # Return Markdown: time, model, sampling, metadata.
    sampling = song.plan.sampling
    count = len(job.songs)
    lines = []
    if job.work_seconds is not None:
        lines.append(f"**Average time per song: {job.work_seconds / count:.2f} s** ({count} in this job)")
    lines += [
        f"- model: {song.dit_model}" + (f" in {song.dtype}" if song.dtype else ""),
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
    if view.progress:
        return view.progress.text or view.progress.stage
    if view.position:
        queued = f"Queued, number {view.position}"
        return f"{queued}. {view.note}" if view.note else queued
    return ""


def rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def simple_sample(example: SimpleExample) -> SimpleSample:
    return SimpleSample(
        description=example.description,
        instrumental=example.instrumental,
        vocal_language=example.language,
    )


def custom_sample(example: CustomExample) -> CustomSample:
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
