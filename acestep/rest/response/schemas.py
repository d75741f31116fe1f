"""The shapes of all answers, as pydantic models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from acestep.rest.spelling import UNDECIDED

ENVIRONMENT = "development"  # what the original always says


class Submitted(BaseModel):
    """The answer to a request for songs."""

    task_id: str
    status: str = "queued"
    queue_position: int = Field(description="Waiting jobs, this one included.")
    warnings: list[str] = Field(description="What was changed or ignored, one sentence each.")


class Metas(BaseModel):
    """Metadata of a song; what nobody decided is "N/A"."""

    bpm: int | str = UNDECIDED
    duration: float | str = UNDECIDED
    genres: str = UNDECIDED
    keyscale: str = UNDECIDED
    timesignature: str = UNDECIDED
    prompt: str = Field("", description="The caption as it was sent.")
    lyrics: str = Field("", description="The lyrics as they were sent.")


class LoraItem(BaseModel):
    """An adapter that acts on a song."""

    name: str
    scale: float


class WordItem(BaseModel):
    """A word that is sung, in seconds from the song's beginning."""

    text: str
    start: float
    end: float


class LineItem(BaseModel):
    """A line that is sung, in seconds from the song's beginning."""

    text: str
    start: float
    end: float
    words: list[WordItem]


class LoudnessItem(BaseModel):
    """How loud a song is before its file is encoded; null: it is silent."""

    integrated_lufs: float | None
    true_peak_dbtp: float | None


class StemItem(BaseModel):
    """A track of a song on its own."""

    track: str
    file: str = Field(description="Link to the audio.")


class ResultItem(BaseModel):
    """One song, or the one place where a song will be; the same keys in every state."""

    file: str = Field("", description="Link to the audio; empty until it is there.")
    wave: str = ""
    status: int = Field(description="0 queued or running, 1 succeeded, 2 failed.")
    create_time: int = Field(0, description="Seconds since the epoch.")
    env: str = ENVIRONMENT
    prompt: str = Field("", description="The caption that was used.")
    lyrics: str = Field("", description="The lyrics that were used.")
    metas: Metas = Field(default_factory=Metas)
    generation_info: str = ""
    seed_value: str = Field("", description="The seeds of all songs of the job.")
    seed: int | None = Field(None, description="The seed of this song.")
    lm_model: str = ""
    dit_model: str = ""
    progress: float = 0.0
    stage: str
    error: str | None = None
    warnings: list[str] = Field(default_factory=list)
    timings: dict[str, float] = Field(default_factory=dict, description="Seconds for each stage.")
    lora: list[LoraItem] = Field(default_factory=list, description="The adapters that act on this song.")
    audio_codes: str = Field(
        "", description="The audio codes of this song, to be sent as audio_code_string; empty if it has none."
    )
    recipe: dict[str, Any] | None = Field(
        None,
        description="Everything that was decided about this song: post it to /release_task to make it again, "
        "with the same audio beside it if it was made from audio. Null until the song is there.",
    )
    lrc: str = Field("", description="The lyrics in the LRC format, if lyric_timestamps was sent.")
    alignment_score: float | None = Field(
        None, description="How well the song sings its lyrics, 0 to 1, if lyric_timestamps was sent."
    )
    lyric_timestamps: list[LineItem] = Field(
        default_factory=list, description="When lines and words are sung, if lyric_timestamps was sent."
    )
    waveform_peaks: list[list[float]] = Field(
        default_factory=list,
        description="Lowest and highest sample, -1 to 1, of each piece, if waveform_peaks was sent.",
    )
    loudness: LoudnessItem | None = Field(
        None, description="Loudness and true peak, if measure_loudness was sent."
    )
    stems: list[StemItem] = Field(default_factory=list, description="The tracks that stems asked for.")


class QueryEntry(BaseModel):
    """What is known of one job."""

    task_id: str
    result: str = Field(
        description="A JSON array of items, as a string.",
        json_schema_extra={
            "contentMediaType": "application/json",
            "contentSchema": {"type": "array", "items": {"$ref": "#/components/schemas/ResultItem"}},
        },
    )
    status: int = Field(description="0 queued or running, 1 succeeded, 2 failed.")
    progress_text: str = Field("", description="What is going on, for people.")
    error: str | None = None
    queue_position: int | None = Field(None, description="From 1, while it is queued.")
    eta_seconds: float | None = Field(None, description="Guess of when it is done, from earlier jobs.")


class DraftAnswer(BaseModel):
    """A song on paper."""

    caption: str
    lyrics: str
    bpm: int | None
    key_scale: str = Field(description="Empty: not decided.")
    time_signature: str = Field(description="Empty: not decided.")
    duration: float | None = Field(description="Seconds.")
    vocal_language: str


class SimpleSample(BaseModel):
    """A sentence to invent a song from, for sample_query."""

    description: str
    instrumental: bool
    vocal_language: str


class CustomSample(BaseModel):
    """A whole song, to be rendered; its keys are other names of the fields of /release_task."""

    think: bool = Field(description="Whether the song gains from thinking.")
    caption: str
    lyrics: str
    bpm: int
    duration: int = Field(description="Seconds.")
    keyscale: str
    language: str
    timesignature: str


class JobCounts(BaseModel):
    """Jobs by state."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int


class PlannerState(BaseModel):
    """What there is of a planner (the 5 Hz language model)."""

    name: str
    state: str
    detail: str = Field(description="How far loading is, or why there is none and what to set.")
    backend: str = Field(description="What runs it.")


class MemoryPart(BaseModel):
    """A row of the memory plan."""

    name: str
    placement: str = Field(
        description="`resident`, `offloaded` (to main memory while idle) or `streamed` (layer by layer)."
    )
    bytes: int
    bytes_at_peak: int = Field(description="What of it is on the device when most is.")


class MemoryState(BaseModel):
    """The memory plan, which was made before anything was loaded."""

    device: str = Field(description="`gpu`, or `cpu`: main memory.")
    budget_bytes: int | None = Field(description="What may be used; null if nobody knows.")
    budget_source: str
    peak_bytes: int = Field(description="What is used at most; the sum of `bytes_at_peak`.")
    peak_stage: str = Field(description="When that is: `write`, `read`, `condition`, `render` or `decode`.")
    parts: list[MemoryPart]
    quantization: str = Field(
        description="How the matrices of DiT and planner are stored: `none`, `int8` or `fp8`."
    )
    max_batch_size: int = Field(description="More songs are clamped, or refused if the server is strict.")
    max_audio_duration: float = Field(description="Seconds; as `max_batch_size`.")
    vae_decode_chunk_size: int = Field(description="Latent frames.")
    lm_model: str = Field(description="The planner that has room; empty: none.")
    lm_texts_at_once: int
    lm_tokens: int = Field(description="Tokens that each of these texts may have.")
    notes: list[str] = Field(description="What people should know about the plan, one sentence each.")


class Stats(BaseModel):
    """How busy the server is."""

    jobs: JobCounts
    queue_size: int
    queue_maxsize: int = Field(description="0: any number may wait.")
    avg_job_seconds: float
    planner: PlannerState
    memory: MemoryState | None = Field(None, description="Null if nothing could be planned.")


class Defaults(BaseModel):
    """What a model does when a request does not say."""

    inference_steps: int
    guidance_scale: float
    shift: float
    audio_format: str = "mp3"


class Limits(BaseModel):
    """What a model can do on this machine."""

    max_inference_steps: int
    max_audio_duration: float = Field(description="Seconds.")
    max_batch_size: int


class ModelEntry(BaseModel):
    """One model that can be asked for."""

    name: str
    is_default: bool
    is_loaded: bool
    state: str
    detail: str
    notice: str
    is_turbo: bool
    defaults: Defaults
    limits: Limits
    tasks: list[str]
    supported_task_types: list[str]


class PlannerEntry(PlannerState):
    """One planner that is, or is to be, loaded."""

    is_loaded: bool


class ModelList(BaseModel):
    """The models that can be asked for, and the planner."""

    models: list[ModelEntry]
    default_model: str | None
    lm_models: list[PlannerEntry]
    loaded_lm_model: str | None
    llm_initialized: bool


class OpenAiModel(BaseModel):
    """One model in the shape that OpenAI-style clients read."""

    id: str
    object: Literal["model"] = "model"
    owned_by: str = "ace-step"
    name: str
    created: int = Field(description="Seconds since the epoch.")
    input_modalities: list[str] = ["text", "audio"]
    output_modalities: list[str] = ["audio", "text"]
    context_length: int = 4096
    max_output_length: int = Field(description="Seconds.")
    pricing: dict[str, str] = dict.fromkeys(("prompt", "completion", "request", "image"), "0")
    description: str
    architecture: None = None


class ModelInit(ModelList):
    """The models, now that one of them is in a slot."""

    message: str
    slot: int
    loaded_model: str


class Reinitialized(BaseModel):
    """What is loaded now that was not before."""

    message: str
    reloaded: list[str]


class OpenAiModels(BaseModel):
    """The models that can be asked for, in that shape."""

    object: Literal["list"] = "list"
    data: list[OpenAiModel]


class LoraLoaded(BaseModel):
    """An adapter that acts from now on."""

    message: str
    lora_path: str
    adapter_name: str


class LoraUnloaded(BaseModel):
    """No adapter acts from now on."""

    message: str


class LoraToggled(BaseModel):
    """Whether the active adapter acts from now on."""

    message: str
    use_lora: bool


class LoraScaled(BaseModel):
    """How strongly an adapter acts from now on."""

    message: str
    scale: float
    adapter_name: str


class LoraStatus(BaseModel):
    """Which adapter acts where a request names none, and which adapters there are."""

    lora_loaded: bool
    use_lora: bool
    lora_scale: float = Field(description="Scale of the active adapter.")
    adapter_type: str | None
    scales: dict[str, float]
    active_adapter: str | None
    adapters: list[str] = Field(description="What is loaded, by the names that it was given.")
    synthetic_default_mode: bool = False
    available: list[str] = Field(description="What a request may name, and what can be loaded.")


class ModelHealth(BaseModel):
    """How far one model is."""

    name: str
    state: str
    detail: str


class Health(BaseModel):
    """Whether the server can work."""

    status: str = Field(
        description="`error` if the default model could not be loaded or a stage is stuck, else `ok`."
    )
    service: str = "ACE-Step API"
    version: str
    ready: bool = Field(
        description="Whether songs can be made: the default model is loaded, or will be by the next request."
    )
    models_initialized: bool
    llm_initialized: bool
    loaded_model: str | None = Field(description="The default model, while it is in memory.")
    loaded_lm_model: str | None = Field(description="The planner, while it is in memory.")
    models: list[ModelHealth]
    planner: PlannerState
