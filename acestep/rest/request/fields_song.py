"""The wire fields that say what the song is and how it is sampled: what this server serves."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, WithJsonSchema

from acestep.domain.song import (
    MAX_BATCH,
    MAX_BPM,
    MAX_DURATION,
    MAX_SEED,
    MIN_BPM,
    MIN_DURATION,
    TRACKS,
    AudioFormat,
    InferMethod,
    TaskType,
)
from acestep.rest.request.wire_types import (
    WORD,
    Bpm,
    Flag,
    KeyScale,
    Language,
    Models,
    Number,
    OptionalNumber,
    OptionalText,
    OptionalWhole,
    Seconds,
    Seeds,
    Support,
    Text,
    TimeSignature,
    Timesteps,
    Tracks,
    read_flag,
    read_whole,
    reader,
    wire,
)

MAX_CAPTION, MAX_LYRICS = 10_000, 50_000  # characters; the models read about 256 and 2,048 tokens of them

DEFAULT_INSTRUCTION = "Fill the audio semantic mask based on the given conditions:"


class MusicFields(BaseModel):
    """What the song is."""

    prompt: Text = wire(
        "",
        "caption",
        free_text=True,
        max_length=MAX_CAPTION,
        about="Caption: what the music sounds like.",
        example="Bright city pop with slap bass and brass",
    )
    lyrics: Text = wire(
        "",
        free_text=True,
        max_length=MAX_LYRICS,
        about="Lyrics, with section tags like [Verse]. Empty, [inst] or [instrumental]: no singing.",
        example="[Verse]\nCity lights are calling",
    )
    vocal_language: Language = wire(
        "en",
        "vocalLanguage",
        "language",
        about="Language that is sung: an ISO 639 code, or `unknown`.",
        example="ja",
    )
    bpm: Bpm = wire(
        None,
        ge=MIN_BPM,
        le=MAX_BPM,
        neutral=(0,),
        about="Beats per minute. Empty, 0 or null: not decided.",
        example=120,
    )
    key_scale: KeyScale = wire(
        None,
        "keyscale",
        "keyScale",
        "key",
        about="Key. ♯ and ♭ are understood, and Am as A minor.",
        example="F# minor",
        allowed="a key like 'C major', 'F# minor' or 'Bbm'",
    )
    time_signature: TimeSignature = wire(
        None,
        "timesignature",
        "timeSignature",
        about="Beats in a bar: 2, 3, 4 or 6, also written 2/4, 3/4, 4/4, 6/8.",
        example="4",
        allowed="2, 3, 4 or 6 (or 2/4, 3/4, 4/4, 6/8)",
    )
    audio_duration: Seconds = wire(
        None,
        "duration",
        "audioDuration",
        "target_duration",
        "targetDuration",
        ge=MIN_DURATION,
        le=MAX_DURATION,
        neutral=(0, -1),
        example=60,
        about="Length in seconds. -1, 0 or null: automatic. Clamped to what this machine can do.",
    )


class OutputFields(BaseModel):
    """How many songs, from which model, into which file format."""

    batch_size: OptionalWhole = wire(
        None,
        ge=1,
        le=MAX_BATCH,
        example=2,
        about="Songs to make. Null: 2, or as many as there are seeds. Clamped to what this machine can do.",
    )
    seed: Seeds = wire(
        (-1,),
        example=42,
        about="One seed for a batch (counted up from song to song), or one for each song as a list or as "
        "'1,2,3'. -1: random. A seed counts unless use_random_seed=true is sent.",
        allowed=f"-1 (random), 0 to {MAX_SEED}, or up to {MAX_BATCH} of these as a list or as '1,2,3'",
    )
    use_random_seed: Flag = wire(
        True,
        "useRandomSeed",
        about="Sent as true, it beats a seed that is also sent. Not sent, a given seed counts.",
        example=False,
    )
    model: OptionalText = wire(
        None,
        "model_name",
        "modelName",
        "dit_model",
        "ditModel",
        max_length=200,
        about="Name of a loaded model (see GET /v1/models). Others run the default one, with a warning.",
        example="acestep-v15-turbo",
    )
    task_type: Annotated[TaskType, WORD] = wire(
        "text2music",
        "taskType",
        about="What to do; each model lists its tasks.",
        example="cover",
    )
    instruction: Text = wire(
        DEFAULT_INSTRUCTION,
        free_text=True,
        max_length=2_000,
        example="Compose a song about the sea:",
        about="Instruction to the model. The default stands for the one that fits the task.",
    )
    audio_format: Annotated[AudioFormat, WORD] = wire(
        "mp3", about="File format of the songs.", example="flac"
    )


class SamplerFields(BaseModel):
    """How noise becomes music."""

    inference_steps: OptionalWhole = wire(
        None,
        "inferenceSteps",
        ge=1,
        le=200,
        example=6,
        about="Sampling steps. Null: the model's own (8 on turbo). Turbo models clamp.",
    )
    guidance_scale: OptionalNumber = wire(
        None,
        "guidanceScale",
        models=Models.GUIDED,
        ge=0,
        le=30,
        example=5.0,
        about="How closely to follow the caption. Null: the model's own. Turbo models run without.",
    )
    use_adg: Flag = wire(
        False,
        models=Models.GUIDED,
        about="Angle-based guidance instead of the usual one; not on turbo.",
        example=True,
    )
    cfg_interval_start: Number = wire(
        0.0,
        models=Models.GUIDED,
        ge=0,
        le=1,
        about="Guidance is on from this time (time runs from 1 to 0) …",
        example=0.1,
    )
    cfg_interval_end: Number = wire(
        1.0, models=Models.GUIDED, ge=0, le=1, about="… up to this time.", example=0.9
    )
    infer_method: Annotated[InferMethod, WORD] = wire(
        "ode",
        "inferMethod",
        about="Deterministic (ode) or stochastic (sde) integration.",
        example="sde",
    )
    shift: OptionalNumber = wire(
        None,
        ge=1,
        le=5,
        example=2.0,
        about="Timestep shift. Null: the model's own. Turbo models take the nearest of 1, 2 and 3.",
    )
    timesteps: Timesteps = wire(
        None,
        example="0.97,0.76,0.6,0.4,0.2",
        about="A whole schedule instead of steps and shift, as a list or as a string with commas.",
        allowed="falling numbers from 1 to 0, as a list or as '0.97,0.76,…'",
    )
    use_tiled_decode: Flag = wire(
        True,
        "useTiledDecode",
        support=Support.INERT,
        about="How audio is decoded is the server's affair.",
        example=False,
    )


DEFAULT_POINTS = 1_000  # a point for each pixel of a wide page

MIN_POINTS, MAX_POINTS = 10, 10_000


def read_points(value: Any) -> int | None:
    """Read a number of points; true is the usual number, false and 0 are none."""
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().isalpha()):
        return DEFAULT_POINTS if read_flag(value) else None
    points = read_whole(value)
    if points and not MIN_POINTS <= points <= MAX_POINTS:
        raise ValueError
    return points or None


Points = Annotated[
    int | None,
    reader(read_points),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": MIN_POINTS, "maximum": MAX_POINTS},
                {"type": "boolean"},
                {"type": "null"},
            ]
        }
    ),
]


class AnalysisFields(BaseModel):
    """What else is found out about each song; it takes time, and makes results longer."""

    lyric_timestamps: Flag = wire(
        False,
        "lyricTimestamps",
        "lrc",
        about="When each line and word is sung (`lrc`, `lyric_timestamps`), and how well the song sings its "
        "lyrics (`alignment_score`). The published 2 B models can tell; others, and songs without words, get "
        "a warning instead.",
        example=True,
    )
    waveform_peaks: Points = wire(
        None,
        "waveformPeaks",
        "peaks",
        neutral=(0,),
        about="An outline to draw the song by: so many pairs of lowest and highest sample. true: "
        f"{DEFAULT_POINTS} of them. Null, false or 0: none.",
        example=800,
        allowed=f"true ({DEFAULT_POINTS} points), a whole number from {MIN_POINTS} to {MAX_POINTS}, or false",
    )
    measure_loudness: Flag = wire(
        False,
        "measureLoudness",
        about="Integrated loudness (LUFS) and true peak (dBTP), measured before the file is encoded.",
        example=True,
    )
    stems: Tracks = wire(
        (),
        "stem_tracks",
        "stemTracks",
        models=Models.EXTRACTING,
        about="Tracks that are taken out of each finished song, each as a file of its own. Each takes as "
        "long as a song. Only models that do the task `extract` can.",
        example=["drums", "vocals"],
        allowed=f"names out of {', '.join(TRACKS)}, as a list or with commas between them",
    )
