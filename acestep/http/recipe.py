"""How to make a finished song again: everything that was decided, as a body for /release_task.

Owns the way back from a `SongPlan` to the wire. A recipe leaves nothing to chance, to a planner or to the
model's defaults: posted to the same model on the same machine, it gives the same samples.
"""

from __future__ import annotations

from typing import Any

from acestep.domain import Sampling, Song, SongRequest


def recipe(song: Song, request: SongRequest) -> dict[str, Any] | None:
    """A body that gives `song` again; None where it was made from audio, which is not kept."""
    if request.task.source or request.task.reference:
        return None
    plan = song.plan
    body = {
        "prompt": plan.caption,
        "lyrics": plan.lyrics,
        "vocal_language": plan.language,
        "bpm": plan.bpm,
        "key_scale": plan.key_scale,
        "time_signature": plan.time_signature,
        "audio_duration": plan.duration,
        "seed": plan.seed,
        "use_random_seed": False,
        "batch_size": 1,
        "model": song.dit_model,
        "task_type": plan.task_type,
        "instruction": plan.instruction,
        "audio_format": song.audio_format,
        **_sampling(plan.sampling),
        "lora": [{"name": use.name, "scale": use.scale} for use in plan.adapters],
        # What the planner said is in the fields above; it has nothing to add.
        **dict.fromkeys(("thinking", "use_cot_caption", "use_cot_language"), False),
    }
    # As numbers, codes take a third of the room that they take as tokens.
    codes = {"audio_code_string": ",".join(map(str, plan.audio_codes))} if plan.audio_codes else {}
    return body | codes


def _sampling(sampling: Sampling) -> dict[str, Any]:
    start, end = sampling.cfg_interval
    # A list of times stands for steps and shift, which would have no effect beside it.
    schedule: dict[str, Any] = (
        {"timesteps": list(sampling.timesteps)}
        if sampling.timesteps is not None
        else {"inference_steps": sampling.steps, "shift": sampling.shift}
    )
    return {
        **schedule,
        "guidance_scale": sampling.guidance_scale,
        "use_adg": sampling.use_adg,
        "cfg_interval_start": start,
        "cfg_interval_end": end,
        "infer_method": sampling.infer_method,
        "audio_cover_strength": sampling.cover_strength,
        "cover_noise_strength": sampling.noise_strength,
    }
