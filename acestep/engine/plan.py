"""From asked to decided, without a planner: one `SongPlan` for each song of a request.

Owns the decisions that are taken when nobody else takes them (how long a song is, and what the model
recommends). Knows nothing of torch or files.
"""

from __future__ import annotations

from acestep.domain import (
    CODES_A_SECOND,
    INSTRUMENTAL,
    MIN_DURATION,
    ModelInfo,
    Sampling,
    SongPlan,
    SongRequest,
    is_instrumental,
)
from acestep.synthesizer.prompts import HINTED_INSTRUCTION, TEXT2MUSIC_INSTRUCTION

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
            sampling=decide_sampling(request, model),
            bpm=request.bpm,
            key_scale=request.key_scale,
            time_signature=request.time_signature,
            audio_codes=request.audio_codes,
        )
        for seed in request.seeds
    )


def _instruction(request: SongRequest) -> str:
    return HINTED_INSTRUCTION if request.audio_codes else TEXT2MUSIC_INSTRUCTION


def guess_duration(lyrics: str, longest: float) -> float:
    """Seconds for a song of unknown length, by the lines that are sung; section tags are not."""
    if is_instrumental(lyrics):
        return min(_INSTRUMENTAL_SECONDS, longest)
    lines = [line for line in lyrics.splitlines() if line.strip() and not line.strip().startswith("[")]
    guess = _INTRO_AND_ENDING + _SECONDS_A_LINE * len(lines)
    return min(max(guess, _INSTRUMENTAL_SECONDS, MIN_DURATION), longest)


def decide_sampling(request: SongRequest, model: ModelInfo) -> Sampling:
    """The request's sampler options, with the model's recommendation where it gives none."""
    asked = request.sampler
    return Sampling(
        steps=asked.steps if asked.steps is not None else model.steps,
        guidance_scale=asked.guidance_scale if asked.guidance_scale is not None else model.guidance_scale,
        shift=asked.shift if asked.shift is not None else model.shift,
        cfg_interval=(asked.cfg_interval_start, asked.cfg_interval_end),
        timesteps=asked.timesteps,
        infer_method=asked.infer_method,
        use_adg=asked.use_adg,
    )
