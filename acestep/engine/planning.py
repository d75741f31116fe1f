"""Plans songs: from a request to what is rendered, with the planner (the 5 Hz language model) or without."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from acestep.domain.draft import Draft, DraftRequest, Metadata
from acestep.domain.models import ModelInfo
from acestep.domain.song import (
    CODES_A_SECOND,
    HINTED_INSTRUCTION,
    INSTRUMENTAL,
    MIN_DURATION,
    Sampling,
    SongPlan,
    SongRequest,
    instruction,
    is_instrumental,
)
from acestep.engine.planner_host import PlannerHost
from acestep.engine.threads import all_of
from acestep.errors import NotEnoughMemoryError, PlannerError, PlannerUnavailableError
from acestep.jobs.worker import Cancelled
from acestep.limits import (
    SOURCE_TASKS,
    STEM_TASK,
    WINDOW_TASKS,
    needs_planner,
    song_seconds,
    uses_planner,
    window_of,
)
from acestep.planner.planner import Planner, PlannerCallbacks, fixed_facts

log = logging.getLogger(__name__)

OnPhase = Callable[[float, str], None]

# The fraction of the planning at the end of each phase; codes are by far the longest text.
_DRAFTED, _DECIDED = 0.2, 0.3


@dataclass(frozen=True, slots=True)
class PlanningCallbacks:
    """`on_phase` gets a fraction (0..1) and a sentence, from any thread."""

    on_phase: OnPhase
    cancelled: Cancelled


@dataclass(frozen=True, slots=True)
class Planned:
    """One plan a song, the planner's name, the seconds of each phase, and sentences for the client."""

    plans: tuple[SongPlan, ...]
    planner: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


# The share of a job's time that planning takes: with audio codes, with metadata alone, without a planner.
_THINKING_SHARE, _METADATA_SHARE, _PLAIN_SHARE = 0.5, 0.15, 0.05


def planning_share(request: SongRequest) -> float:
    if request.planner.thinking:
        return _THINKING_SHARE
    return _METADATA_SHARE if uses_planner(request) else _PLAIN_SHARE


async def plan_job(
    request: SongRequest, model: ModelInfo, planner_host: PlannerHost, callbacks: PlanningCallbacks
) -> Planned:
    """Plan with the planner where the request needs it, or where it improves the request and can be used.

    Raises as `plan_request` does, and PlannerUnavailableError where the request needs a planner and has none.
    """
    planner, needed = planner_host.known.info(request.planner.model), needs_planner(request)
    may_help = planner.fills_in and planner.state != "downloading" and uses_planner(request)
    warnings: tuple[str, ...] = ()
    if needed or may_help:
        if request.planner.model not in ("", planner.name):
            warnings = (f"lm_model_path: {planner.name} is used; {request.planner.model} is gone",)
        try:
            planned = await _plan_with_retry(request, model, planner_host, callbacks)
            return replace(planned, warnings=(*warnings, *planned.warnings))
        except PlannerUnavailableError as error:
            if needed:
                raise
            warnings = (f"use_cot_caption, use_cot_language: skipped. {error}",)
    started = time.perf_counter()
    plans = plan_songs(request, model)
    return Planned(plans, timings={"plan": time.perf_counter() - started}, warnings=warnings)


async def _plan_with_retry(
    request: SongRequest, model: ModelInfo, planner_host: PlannerHost, callbacks: PlanningCallbacks
) -> Planned:
    # As `plan_request`; where memory runs out, again with one song after another.
    async with planner_host.borrow(request.planner.model) as planner:
        try:
            return await plan_request(request, model, planner, callbacks)
        except NotEnoughMemoryError:
            log.info("Retrying the planning, one song after another")
        await planner_host.free()
        try:
            return await plan_request(request, model, planner, callbacks, one_by_one=True)
        except NotEnoughMemoryError as error:
            raise NotEnoughMemoryError(
                error.stage,
                "the planner has no room for this request, not even with one song after another; ask for a "
                "shorter song (audio_duration) or shorter lyrics, or send thinking=false",
            ) from None


async def plan_request(
    request: SongRequest,
    model: ModelInfo,
    planner: Planner,
    callbacks: PlanningCallbacks,
    one_by_one: bool = False,
) -> Planned:
    """Plan the songs of a request that was fitted to `model`, all at once unless `one_by_one`.

    Raises as `Planner` does, and PlannerError where its audio codes are not those of `model`.
    """
    if request.planner.thinking and model.code_count != planner.code_count:
        raise PlannerError(
            f"thinking: {planner.name} knows {planner.code_count} audio codes, but {model.name} has "
            f"{model.code_count}: they do not belong together. Set ACESTEP_LM_MODEL_PATH to the model's own "
            "planner, or send thinking=false"
        )
    timings: dict[str, float] = {}
    warnings: tuple[str, ...] = ()
    if request.planner.wants_draft:
        started = time.perf_counter()
        request, warnings = await _drafted(
            request, model, planner, _phase(callbacks, 0.0, _DRAFTED, "Writing the song")
        )
        timings["draft"] = time.perf_counter() - started
    elif request.planner.use_cot_caption:
        warnings = planner.doubts(request.caption)
    started = time.perf_counter()
    phase = _phase(callbacks, _DRAFTED, _DECIDED, "Deciding on tempo, key and length")
    decided = await planner.decide(request, model.max_duration, phase)
    plans = plan_songs(_merged(request, decided), model)
    timings["metadata"] = time.perf_counter() - started
    if request.planner.thinking:
        started = time.perf_counter()
        plans = await _think(request, plans, decided, planner, callbacks, one_by_one)
        timings["codes"] = time.perf_counter() - started
    return Planned(plans, planner.name, timings, warnings)


def with_draft(request: SongRequest, draft: Draft) -> SongRequest:
    """The request with the draft's lyrics and caption, and its metadata where the user gave none."""
    return _merged(replace(request, lyrics=draft.lyrics), draft.metadata)


async def _drafted(
    request: SongRequest, model: ModelInfo, planner: Planner, callbacks: PlannerCallbacks
) -> tuple[SongRequest, tuple[str, ...]]:
    asked = request.planner
    samples = asked.wants_sample
    given = request.caption.strip() or None
    draft = await planner.draft(
        DraftRequest(
            kind="sample" if samples else "format",
            caption=request.caption,
            lyrics=request.lyrics,
            query=asked.sample_query,
            instrumental=True if request.lyrics.strip() and is_instrumental(request.lyrics) else None,
            # A sample keeps the user's caption; a format is asked for a better one.
            metadata=replace(fixed_facts(request), caption=given if samples else None),
            options=asked,
            seed=request.seeds[0],
        ),
        model.max_duration,
        callbacks,
    )
    keeps_lyrics = samples and bool(request.lyrics.strip())
    written = replace(request, lyrics=request.lyrics if keeps_lyrics else draft.lyrics)
    # The planner has written the caption: the next phase must not write another one.
    drafted = replace(_merged(written, draft.metadata), planner=replace(asked, use_cot_caption=False))
    return drafted, draft.warnings


async def _think(
    request: SongRequest,
    plans: tuple[SongPlan, ...],
    decided: Metadata,
    planner: Planner,
    callbacks: PlanningCallbacks,
    one_by_one: bool,
) -> tuple[SongPlan, ...]:
    done = [0.0] * len(plans)

    async def think(song: int, plan: SongPlan) -> SongPlan:
        def on_progress(fraction: float) -> None:
            done[song] = fraction
            mean = sum(done) / len(done)
            callbacks.on_phase(_DECIDED + (1.0 - _DECIDED) * mean, "Sketching the song in audio codes")

        phase = PlannerCallbacks(on_progress, callbacks.cancelled)
        codes = await planner.sketch(request, decided, plan.duration, plan.seed, phase)
        return replace(plan, audio_codes=codes, instruction=request.instruction or HINTED_INSTRUCTION)

    if one_by_one:
        return tuple([await think(song, plan) for song, plan in enumerate(plans)])
    return tuple(await all_of(think(song, plan) for song, plan in enumerate(plans)))


def _merged(request: SongRequest, metadata: Metadata) -> SongRequest:
    # The request with the planner's caption, and its metadata where the user gave none.
    duration = request.duration
    if duration is None and metadata.duration is not None:
        duration = float(metadata.duration)
    return replace(
        request,
        caption=metadata.caption or request.caption,
        bpm=metadata.bpm if request.bpm is None else request.bpm,
        key_scale=request.key_scale or metadata.key_scale,
        time_signature=request.time_signature or metadata.time_signature,
        duration=duration,
        language=request.language if request.language_fixed else metadata.language or request.language,
    )


def _phase(callbacks: PlanningCallbacks, start: float, end: float, text: str) -> PlannerCallbacks:
    return PlannerCallbacks(
        lambda fraction: callbacks.on_phase(start + (end - start) * fraction, text), callbacks.cancelled
    )


# For songs whose length neither the user nor a planner gave: an instrumental is a sketch, and a sung line
# takes about two bars of a mid-tempo song.
_INSTRUMENTAL_SECONDS = 30.0
_SECONDS_A_LINE = 4.0
_INTRO_AND_ENDING_SECONDS = 14.0


def plan_songs(request: SongRequest, model: ModelInfo) -> tuple[SongPlan, ...]:
    """The songs of a request that was fitted to `model`, in the order of its seeds."""
    lyrics = INSTRUMENTAL if is_instrumental(request.lyrics) else request.lyrics
    by_codes = len(request.audio_codes) / CODES_A_SECOND
    duration = request.duration or by_codes or guess_duration(lyrics, model.max_duration)
    return tuple(
        SongPlan(
            caption=request.caption,
            lyrics=lyrics,
            language=request.language,
            duration=duration,
            seed=seed,
            instruction=request.instruction or _instruction(request),
            task_type=request.task_type,
            window=window_of(request),
            sampling=decide_sampling(request, model),
            bpm=request.bpm,
            key_scale=request.key_scale,
            time_signature=request.time_signature,
            audio_codes=request.audio_codes,
            adapters=request.adapters,
            retake=retake,
            follows_latents=request.task.follows_latents,
            peak_db=request.output.peak_db,
            source_caption=request.task.source_caption,
            source_lyrics=request.task.source_lyrics,
        )
        for seed, retake in zip_longest(request.seeds, request.retakes)
    )


def _instruction(request: SongRequest) -> str:
    return instruction(request.task_type, request.task.tracks, hinted=bool(request.audio_codes))


def stem_plan(plan: SongPlan, track: str) -> SongPlan:
    """The plan that extracts one track from the finished song of `plan`, without its codes and adapters."""
    return replace(
        plan,
        caption=f"{plan.caption} ({track})" if plan.caption else track,
        task_type=STEM_TASK,
        instruction=instruction(STEM_TASK, (track,)),
        sampling=replace(plan.sampling, cover_strength=1.0, noise_strength=0.0, injection=0.0, morph=None),
        window=None,
        audio_codes=(),
        adapters=(),
        retake=None,
    )


def with_source(request: SongRequest, seconds: float, model: ModelInfo) -> SongRequest:
    """The request with its source's length, and with the song's length where that follows from it."""
    known = replace(request, task=replace(request.task, source_seconds=seconds))
    if request.task_type not in SOURCE_TASKS or request.duration is not None:
        return known
    return replace(known, duration=min(song_seconds(known), model.max_duration))


def guess_duration(lyrics: str, longest: float) -> float:
    """Seconds, by the number of sung lines; section tags do not count."""
    if is_instrumental(lyrics):
        return min(_INSTRUMENTAL_SECONDS, longest)
    lines = [line for line in lyrics.splitlines() if line.strip() and not line.strip().startswith("[")]
    guess = _INTRO_AND_ENDING_SECONDS + _SECONDS_A_LINE * len(lines)
    return min(max(guess, _INSTRUMENTAL_SECONDS, MIN_DURATION), longest)


def decide_sampling(request: SongRequest, model: ModelInfo) -> Sampling:
    asked, task = request.sampler, request.task
    covers = request.task_type == "cover" and bool(task.source)
    return Sampling(
        steps=asked.steps if asked.steps is not None else model.steps,
        guidance_scale=asked.guidance_scale if asked.guidance_scale is not None else model.guidance_scale,
        shift=asked.shift if asked.shift is not None else model.shift,
        cfg_interval=(asked.cfg_interval_start, asked.cfg_interval_end),
        timesteps=asked.timesteps,
        infer_method=asked.infer_method,
        cover_strength=task.cover_strength if follows_hints(request) else 1.0,
        noise_strength=task.noise_strength if covers else 0.0,
        injection=task.injection if request.task_type in WINDOW_TASKS else 0.0,
        morph=task.morph if covers else None,
        tuning=asked.tuning,
    )


def follows_hints(request: SongRequest) -> bool:
    """Whether songs follow audio codes: their source's, the planner's, or the user's."""
    return request.task_type == "cover" or bool(request.audio_codes) or request.planner.thinking
