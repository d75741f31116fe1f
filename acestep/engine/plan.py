"""From asked to decided, without a planner: one `SongPlan` for each song of a request.

Owns the decisions that are taken when nobody else takes them (how long a song is, what of its source stays,
and what the model recommends). Knows nothing of torch or files.
"""

from __future__ import annotations

from dataclasses import replace

from acestep.domain import (
    CODES_A_SECOND,
    INSTRUMENTAL,
    MIN_DURATION,
    ModelInfo,
    Sampling,
    SongPlan,
    SongRequest,
    Window,
    is_instrumental,
)
from acestep.limits import SOURCE_TASKS, STEM_TASK, WINDOW_TASKS, song_seconds
from acestep.synthesizer.prompts import instruction

# Seconds, where neither the user nor a planner gave a length: an instrumental is a sketch, and a sung
# line takes about two bars of a mid-tempo song, with room for an intro and an ending.
_INSTRUMENTAL_SECONDS = 30.0
_SECONDS_A_LINE = 4.0
_INTRO_AND_ENDING = 14.0


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
            window=window(request),
            sampling=decide_sampling(request, model),
            bpm=request.bpm,
            key_scale=request.key_scale,
            time_signature=request.time_signature,
            audio_codes=request.audio_codes,
            adapters=request.adapters,
        )
        for seed in request.seeds
    )


def _instruction(request: SongRequest) -> str:
    return instruction(request.task_type, request.task.tracks, hinted=bool(request.audio_codes))


def stem_plan(plan: SongPlan, track: str) -> SongPlan:
    """How a track of a finished song is made: out of the song, by the model's own skill alone."""
    return replace(
        plan,
        caption=f"{plan.caption} ({track})" if plan.caption else track,
        task_type=STEM_TASK,
        instruction=instruction(STEM_TASK, (track,)),
        sampling=replace(plan.sampling, cover_strength=1.0, noise_strength=0.0, injection=0.0),
        window=None,
        audio_codes=(),
        adapters=(),
    )


def with_source(request: SongRequest, seconds: float, model: ModelInfo) -> SongRequest:
    """The request, now that its source is known to last `seconds`: that decides how long the song is."""
    known = replace(request, task=replace(request.task, source_seconds=seconds))
    if request.task_type not in SOURCE_TASKS or request.duration is not None:
        return known
    return replace(known, duration=min(song_seconds(request.task_type, known.task), model.max_duration))


def window(request: SongRequest) -> Window | None:
    """What a task writes anew, in seconds of the song; None for tasks that write everything."""
    task = request.task
    if request.task_type not in WINDOW_TASKS or task.source_seconds is None:
        return None
    lead = max(0.0, -task.start)
    end = task.source_seconds if task.end is None else task.end
    return Window(
        start=task.start + lead,
        end=end + lead,
        source_start=lead,
        source_end=task.source_seconds + lead,
        crossfade_frames=task.crossfade_frames,
        crossfade_seconds=task.crossfade_seconds,
    )


def guess_duration(lyrics: str, longest: float) -> float:
    """Seconds for a song of unknown length, by the lines that are sung; section tags are not."""
    if is_instrumental(lyrics):
        return min(_INSTRUMENTAL_SECONDS, longest)
    lines = [line for line in lyrics.splitlines() if line.strip() and not line.strip().startswith("[")]
    guess = _INTRO_AND_ENDING + _SECONDS_A_LINE * len(lines)
    return min(max(guess, _INSTRUMENTAL_SECONDS, MIN_DURATION), longest)


def decide_sampling(request: SongRequest, model: ModelInfo) -> Sampling:
    """The request's sampler options, with the model's recommendation where it gives none."""
    asked, task = request.sampler, request.task
    covers = request.task_type == "cover" and bool(task.source)
    return Sampling(
        steps=asked.steps if asked.steps is not None else model.steps,
        guidance_scale=asked.guidance_scale if asked.guidance_scale is not None else model.guidance_scale,
        shift=asked.shift if asked.shift is not None else model.shift,
        cfg_interval=(asked.cfg_interval_start, asked.cfg_interval_end),
        timesteps=asked.timesteps,
        infer_method=asked.infer_method,
        use_adg=asked.use_adg,
        cover_strength=task.cover_strength if follows_hints(request) else 1.0,
        noise_strength=task.noise_strength if covers else 0.0,
        injection=task.injection if request.task_type in WINDOW_TASKS else 0.0,
        tuning=asked.tuning,
    )


def follows_hints(request: SongRequest) -> bool:
    """Whether a song follows audio codes: of its source, of the planner, or of the user."""
    return request.task_type == "cover" or bool(request.audio_codes) or request.planner.thinking
