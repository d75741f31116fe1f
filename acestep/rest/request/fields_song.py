"""The wire fields that say what the song is and how it is sampled: what this server serves."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, WithJsonSchema

from acestep.domain.song import (
    MAX_BATCH,
    MAX_BPM,
    MAX_DURATION,
    MAX_SEED,
    MIN_BPM,
    MIN_DURATION,
    MP3_BITRATES,
    MP3_SAMPLE_RATES,
    TRACKS,
    AudioFormat,
    InferMethod,
    SongRequest,
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
from acestep.rest.spelling import JsonObject


def read_bitrate(value: object) -> int | None:
    """192, "192", "192k" or 192000."""
    if isinstance(value, str):
        value = value.strip().lower().removesuffix("bps").removesuffix("k")
    bitrate = read_whole(value)
    bitrate = bitrate // 1000 if bitrate >= 1000 else bitrate
    if bitrate not in MP3_BITRATES:
        raise ValueError
    return bitrate


def read_sample_rate(value: object) -> int:
    rate = read_whole(value)
    if rate not in MP3_SAMPLE_RATES:
        raise ValueError
    return rate


def _one_of(*schemas: JsonObject) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [*schemas, {"type": "null"}]})


Mp3Bitrate = Annotated[
    int | None,
    reader(read_bitrate),
    _one_of({"type": "integer", "enum": [*MP3_BITRATES]}, {"type": "string"}),
]

Mp3SampleRate = Annotated[
    int | None, reader(read_sample_rate), _one_of({"type": "integer", "enum": [*MP3_SAMPLE_RATES]})
]

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
        about="Language of the vocals: an ISO 639 code, or `unknown`.",
        example="ja",
    )
    bpm: Bpm = wire(
        _DEFAULT.bpm,
        ge=MIN_BPM,
        le=MAX_BPM,
        neutral=(0,),
        about="Beats per minute. Empty, 0 or null: not set.",
        example=120,
    )
    key_scale: KeyScale = wire(
        _DEFAULT.key_scale,
        "keyscale",
        "keyScale",
        "key",
        about="Key. ♯ and ♭ are read as well, and Am as A minor.",
        example="F# minor",
        allowed="a key like 'C major', 'F# minor' or 'Bbm'",
    )
    time_signature: TimeSignature = wire(
        _DEFAULT.time_signature,
        "timesignature",
        "timeSignature",
        about="Beats per bar: 2, 3, 4 or 6, also written 2/4, 3/4, 4/4, 6/8.",
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
        about="Length in seconds. -1, 0 or null: automatic. Clamped to the limit of this machine.",
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
    mp3_bitrate: Mp3Bitrate = wire(
        _DEFAULT.output.mp3_bitrate,
        "mp3Bitrate",
        about="Bit rate of mp3 files in kbit/s, also written 192k. Null: as the server is set up.",
        example=192,
        allowed=f"{', '.join(map(str, MP3_BITRATES))} (kbit/s)",
    )
    mp3_sample_rate: Mp3SampleRate = wire(
        _DEFAULT.output.mp3_sample_rate,
        "mp3SampleRate",
        about="Sample rate of mp3 files in Hz. Null: that of the model, 48,000.",
        example=44_100,
        allowed=f"{', '.join(map(str, MP3_SAMPLE_RATES))} (Hz)",
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


DEFAULT_POINTS = 1_000  # a point for each pixel of a wide page

MIN_POINTS, MAX_POINTS = 10, 10_000


def read_points(value: object) -> int | None:
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
    lyric_timestamps: Flag = wire(
        _DEFAULT.analysis.lyric_times,
        "lyricTimestamps",
        "lrc",
        "auto_lrc",
        about="Measure when each line and word is sung (`lrc`, `lyric_timestamps`) and how closely the "
        "vocals follow the lyrics (`alignment_score`). Only the published 2 B models can; other models, and "
        "songs without lyrics, give a warning.",
        example=True,
    )
    auto_score: Flag = wire(
        False,
        "autoScore",
        about="Measure how closely the vocals follow the lyrics (`alignment_score`), as "
        "lyric_timestamps does.",
        example=True,
    )
    waveform_peaks: Points = wire(
        None,
        "waveformPeaks",
        "peaks",
        neutral=(0,),
        about=f"Waveform overview: this many pairs of lowest and highest sample. true: {DEFAULT_POINTS}. "
        "Null, false or 0: none.",
        example=800,
        allowed=f"true ({DEFAULT_POINTS} points), a whole number from {MIN_POINTS} to {MAX_POINTS}, or false",
    )
    measure_loudness: Flag = wire(
        _DEFAULT.analysis.loudness,
        "measureLoudness",
        about="Integrated loudness (LUFS) and true peak (dBTP), measured before the file is encoded.",
        example=True,
    )
    stems: Tracks = wire(
        _DEFAULT.analysis.stems,
        "stem_tracks",
        "stemTracks",
        models=Models.EXTRACTING,
        about="Tracks to extract from each finished song, each into its own file. Each takes as long as a "
        "song. Only for models with the task `extract`.",
        example=["drums", "vocals"],
        allowed=f"names out of {', '.join(TRACKS)}, as a list or with commas between them",
    )
