"""The wire fields that say what the song is and how it is sampled: what this server serves."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel

from acestep.domain.song import (
    MAX_BATCH,
    MAX_BPM,
    MAX_DURATION,
    MAX_SEED,
    MIN_BPM,
    MIN_DURATION,
    AudioFormat,
    InferMethod,
    SongRequest,
    TaskType,
)
from acestep.rest.request.music_values import Bpm, KeyScale, Language, TimeSignature
from acestep.rest.request.wire_types import (
    WORD,
    Flag,
    Models,
    Number,
    OptionalNumber,
    OptionalText,
    OptionalWhole,
    Seconds,
    Seeds,
    Support,
    Text,
    Timesteps,
    wire,
)

MAX_CAPTION, MAX_LYRICS = 10_000, 50_000  # characters; the models read about 256 and 2,048 tokens of them

_DEFAULT = SongRequest()

DEFAULT_INSTRUCTION = "Fill the audio semantic mask based on the given conditions:"


class MusicFields(BaseModel):
    prompt: Text = wire(
        _DEFAULT.caption,
        "caption",
        free_text=True,
        max_length=MAX_CAPTION,
        about="Caption: a description of the music.",
        example="Bright city pop with slap bass and brass",
    )
    lyrics: Text = wire(
        _DEFAULT.lyrics,
        free_text=True,
        max_length=MAX_LYRICS,
        about="Lyrics, with section tags like [Verse]. Empty, [inst] or [instrumental]: no vocals.",
        example="[Verse]\nCity lights are calling",
    )
    vocal_language: Language = wire(
        _DEFAULT.language,
        "vocalLanguage",
        "language",
        about="Language of the vocals: an ISO 639 code, or `unknown`. A region (`en-US`) is not used.",
        example="ja",
    )
    bpm: Bpm = wire(
        _DEFAULT.bpm,
        ge=MIN_BPM,
        le=MAX_BPM,
        neutral=(0, -1),
        about="Beats per minute. 0, -1, null, `auto` or empty: not set.",
        example=120,
    )
    key_scale: KeyScale = wire(
        _DEFAULT.key_scale,
        "keyscale",
        "keyScale",
        "key",
        neutral=(0, -1),
        about="Key. `C`, `Am`, `B-flat major`, `C sharp min`, ♯ and ♭, and 嬰ハ短調 are read as well. "
        "0, -1, null, `auto` or empty: not set.",
        example="F# minor",
        allowed="a key like 'C major', 'F# minor' or 'Bbm'",
    )
    time_signature: TimeSignature = wire(
        _DEFAULT.time_signature,
        "timesignature",
        "timeSignature",
        about="Beats per bar: 2, 3, 4 or 6, also written 2/4, 3/4, 4/4, 6/8. 0, null or empty: not set.",
        example="4",
        allowed="2, 3, 4 or 6 (or 2/4, 3/4, 4/4, 6/8)",
    )
    audio_duration: Seconds = wire(
        _DEFAULT.duration,
        "duration",
        "audioDuration",
        "target_duration",
        "targetDuration",
        ge=MIN_DURATION,
        le=MAX_DURATION,
        neutral=(0, -1),
        example=60,
        about="Length in seconds. -1, 0, null or `auto`: automatic. Clamped to the limit of this machine.",
    )


class OutputFields(BaseModel):
    batch_size: OptionalWhole = wire(
        _DEFAULT.batch_size,
        ge=1,
        le=MAX_BATCH,
        example=2,
        about="Number of songs. Null: 2, or one for each seed. Clamped to the limit of this machine.",
    )
    seed: Seeds = wire(
        (-1,),
        example=42,
        about="One seed for the batch (+1 for each further song), or one for each song, as a list or as "
        "'1,2,3'. -1: random. A seed is used unless use_random_seed=true is sent.",
        allowed=f"-1 (random), 0 to {MAX_SEED}, or up to {MAX_BATCH} of these as a list or as '1,2,3'",
    )
    use_random_seed: Flag = wire(
        True,
        "useRandomSeed",
        about="true overrides a seed. If this is not sent, a seed that is sent is used.",
        example=False,
    )
    model: OptionalText = wire(
        _DEFAULT.model,
        "model_name",
        "modelName",
        "dit_model",
        "ditModel",
        max_length=200,
        about="Name of a loaded model (see GET /v1/models). Another name runs the default model, with a "
        "warning.",
        example="acestep-v15-turbo",
    )
    task_type: Annotated[TaskType, WORD] = wire(
        _DEFAULT.task_type,
        "taskType",
        about="Task. GET /v1/models lists the tasks of each model. cover-nofsq is a cover with no_fsq.",
        example="cover",
    )
    instruction: Text = wire(
        DEFAULT_INSTRUCTION,
        free_text=True,
        max_length=2_000,
        example="Compose a song about the sea:",
        about="Instruction to the model. The default selects the instruction of the task.",
    )
    audio_format: Annotated[AudioFormat, WORD] = wire(
        _DEFAULT.audio_format, about="File format of the songs.", example="flac"
    )
    retake_seed: Seeds = wire(
        (-1,),
        "retakeSeed",
        about="For a variation of a song: the seed of other noise, mixed into the noise of seed by "
        "retake_variance; or one for each song. Null or -1: random.",
        example=7,
        allowed=f"-1 (random), 0 to {MAX_SEED}, or up to {MAX_BATCH} of these as a list or as '1,2,3'",
    )
    retake_variance: Number = wire(
        0.0,
        "retakeVariance",
        ge=0,
        le=1,
        about="How far a variation goes from the song of seed (0) to that of retake_seed (1).",
        example=0.2,
    )


class SamplerFields(BaseModel):
    inference_steps: OptionalWhole = wire(
        _DEFAULT.sampler.steps,
        "inferenceSteps",
        ge=1,
        le=200,
        example=6,
        about="Sampling steps. Null: the model's default (8 on turbo). Turbo models clamp to their maximum.",
    )
    guidance_scale: OptionalNumber = wire(
        _DEFAULT.sampler.guidance_scale,
        "guidanceScale",
        models=Models.GUIDED,
        ge=0,
        le=30,
        example=5.0,
        about="How closely the song follows the caption. Null: the model's default. Turbo models use no "
        "guidance.",
    )
    use_adg: Flag = wire(
        False,
        models=Models.GUIDED,
        about="Angle-based guidance (ADG) instead of APG; not on turbo.",
        example=True,
    )
    cfg_interval_start: Number = wire(
        _DEFAULT.sampler.cfg_interval_start,
        models=Models.GUIDED,
        ge=0,
        le=1,
        about="Guidance is on while the time, which runs from 1 to 0, is at least this …",
        example=0.1,
    )
    cfg_interval_end: Number = wire(
        _DEFAULT.sampler.cfg_interval_end,
        models=Models.GUIDED,
        ge=0,
        le=1,
        about="… and at most this.",
        example=0.9,
    )
    infer_method: Annotated[InferMethod, WORD] = wire(
        _DEFAULT.sampler.infer_method,
        "inferMethod",
        about="Deterministic (ode) or stochastic (sde) integration.",
        example="sde",
    )
    shift: OptionalNumber = wire(
        _DEFAULT.sampler.shift,
        ge=1,
        le=5,
        example=2.0,
        about="Timestep shift. Null: the model's default. Turbo models take the nearest of 1, 2 and 3.",
    )
    timesteps: Timesteps = wire(
        _DEFAULT.sampler.timesteps,
        example="0.97,0.76,0.6,0.4,0.2",
        about="Schedule in place of steps and shift, as a list or a string with commas.",
        allowed="falling numbers from 1 to 0, as a list or as '0.97,0.76,…'",
    )
    use_tiled_decode: Flag = wire(
        True,
        "useTiledDecode",
        support=Support.INERT,
        about="The server decides how audio is decoded.",
        example=False,
    )
