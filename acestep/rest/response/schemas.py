"""The answers that have an envelope."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from acestep.rest.response.devices import Devices
from acestep.rest.spelling import UNDECIDED

ETA = "Seconds until it is done, by the speed of earlier jobs; null: it is done."
ENVIRONMENT = "development"  # as in the original


class Submitted(BaseModel):
    task_id: str
    status: str = "queued"
    queue_position: int = Field(description="Queued jobs, this one included.")
    eta_seconds: float | None = Field(None, description=ETA)
    warnings: list[str] = Field(description="Each value that was changed or ignored, as a sentence.")


class Metas(BaseModel):
    """Metadata of a song; "N/A" where it was not decided."""

    bpm: int | str = UNDECIDED
    duration: float | str = UNDECIDED
    genres: str = UNDECIDED
    keyscale: str = UNDECIDED
    timesignature: str = UNDECIDED
    prompt: str = Field("", description="The caption as it was sent.")
    lyrics: str = Field("", description="The lyrics as they were sent.")


class LoraItem(BaseModel):
    name: str
    scale: float


class WordItem(BaseModel):
    """A sung word; seconds from the beginning of the song."""

    text: str
    start: float
    end: float


class LineItem(BaseModel):
    text: str
    start: float
    end: float
    words: list[WordItem]


class LoudnessItem(BaseModel):
    """Loudness before the file is encoded; null for silence."""

    integrated_lufs: float | None
    true_peak_dbtp: float | None


class StemItem(BaseModel):
    track: str
    name: str = Field(description="The track as workstations call it: piano for keyboard.")
    file: str = Field(description="Link to the audio.")


class ResultItem(BaseModel):
    """A song, or a job that has no songs yet; the keys are the same in every state."""

    file: str = Field("", description="Link to the audio; empty until the song is finished.")
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
    dtype: str = Field("", description="The numbers that the model computed in, such as bfloat16.")
    progress: float = 0.0
    stage: str
    error: str | None = None
    warnings: list[str] = Field(default_factory=list)
    timings: dict[str, float] = Field(default_factory=dict, description="Seconds for each stage.")
    lora: list[LoraItem] = Field(default_factory=list, description="The adapters of this song.")
    audio_codes: str = Field(
        "", description="The audio codes of this song, as audio_code_string takes them; empty if it has none."
    )
    recipe: dict[str, object] | None = Field(
        None,
        description="A body for /release_task that makes this song again; send the same source and reference "
        "audio with it. Null until the song is finished.",
    )
    lrc: str = Field("", description="The lyrics in the LRC format (with lyric_timestamps).")
    alignment_score: float | None = Field(
        None, description="How closely the vocals follow the lyrics, 0 to 1 (with lyric_timestamps)."
    )
    lyric_timestamps: list[LineItem] = Field(
        default_factory=list, description="When lines and words are sung (with lyric_timestamps)."
    )
    waveform_peaks: list[list[float]] = Field(
        default_factory=list,
        description="Lowest and highest sample of each section, -1 to 1 (with waveform_peaks).",
    )
    loudness: LoudnessItem | None = Field(None, description="Loudness and true peak (with measure_loudness).")
    stems: list[StemItem] = Field(default_factory=list, description="The extracted tracks (with stems).")


class QueryEntry(BaseModel):
    task_id: str
    result: str = Field(
        description="A JSON array of items, as a string.",
        json_schema_extra={
            "contentMediaType": "application/json",
            "contentSchema": {"type": "array", "items": {"$ref": "#/components/schemas/ResultItem"}},
        },
    )
    status: int = Field(description="0 queued or running, 1 succeeded, 2 failed.")
    progress_text: str = Field("", description="Progress as a sentence.")
    error: str | None = None
    queue_position: int | None = Field(None, description="From 1, while the job is queued.")
    eta_seconds: float | None = Field(None, description=ETA)


class DraftAnswer(BaseModel):
    """A draft of a song."""

    caption: str
    lyrics: str
    bpm: int | None
    key_scale: str = Field(description="Empty: not decided.")
    time_signature: str = Field(description="Empty: not decided.")
    duration: float | None = Field(description="Seconds.")
    vocal_language: str


class CreatedSample(DraftAnswer):
    """A song on paper; some keys have the spellings of the original as well."""

    keyscale: str
    timesignature: str


class TranscribedWord(BaseModel):
    word: str
    start: float = Field(description="Seconds.")
    end: float


class Transcript(BaseModel):
    words: list[TranscribedWord]
    lrc_text: str = Field(description="The lines in the LRC format.")
    lyrics_text: str = Field(description="The lines alone.")


class SimpleSample(BaseModel):
    """A sentence for sample_query."""

    description: str
    instrumental: bool
    vocal_language: str


class CustomSample(BaseModel):
    """A song to render; the keys are aliases of the fields of /release_task."""

    think: bool = Field(description="The value for `thinking`.")
    caption: str
    lyrics: str
    bpm: int
    duration: int = Field(description="Seconds.")
    keyscale: str
    language: str
    timesignature: str


class JobCounts(BaseModel):
    total: int
    queued: int
    running: int
    succeeded: int
    failed: int


class PlannerState(BaseModel):
    """The state of the planner (the 5 Hz language model)."""

    name: str
    state: str
    detail: str = Field(
        description="Loading progress, or why there is no planner and which setting enables it."
    )
    backend: str = Field(description="What the planner runs on, such as `pt` or `vllm`.")


class MemoryPart(BaseModel):
    name: str
    placement: str = Field(
        description="`resident`, `offloaded` (to main memory while idle) or `streamed` (layer by layer)."
    )
    bytes: int
    bytes_at_peak: int = Field(description="Bytes on the device at the peak.")


class MemoryState(BaseModel):
    """The memory plan, which is made before anything is loaded."""

    device: str = Field(description="`gpu`, or `cpu`: main memory.")
    budget_bytes: int | None = Field(description="Bytes that may be used; null if unknown.")
    budget_source: str
    peak_bytes: int = Field(description="The largest use of memory: the sum of `bytes_at_peak`.")
    peak_stage: str = Field(
        description="The stage of the peak: `write`, `read`, `condition`, `render` or `decode`."
    )
    parts: list[MemoryPart]
    quantization: str = Field(
        description="How the weights of DiT and planner are stored: `none`, `int8` or `fp8`."
    )
    max_batch_size: int = Field(description="Larger batches are clamped, or refused by a strict server.")
    max_audio_duration: float = Field(
        description="Seconds; longer songs are clamped, or refused by a strict server."
    )
    vae_decode_chunk_size: int = Field(description="Latent frames.")
    lm_model: str = Field(description="The planner that fits; empty: none.")
    lm_texts_at_once: int
    lm_tokens: int = Field(description="The most tokens of one text.")
    notes: list[str] = Field(description="Remarks on the plan, one sentence each.")


class Stats(BaseModel):
    jobs: JobCounts
    queue_size: int
    queue_maxsize: int = Field(description="0: unlimited.")
    avg_job_seconds: float
    planner: PlannerState
    memory: MemoryState | None = Field(None, description="Null without a memory plan.")


class Defaults(BaseModel):
    """The defaults of a model."""

    inference_steps: int
    guidance_scale: float
    shift: float
    audio_format: str = "mp3"


class Limits(BaseModel):
    """The limits of a model on this machine."""

    max_inference_steps: int
    max_audio_duration: float = Field(description="Seconds.")
    max_batch_size: int


class ModelEntry(BaseModel):
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
    is_loaded: bool


class ModelList(Devices):
    models: list[ModelEntry]
    default_model: str | None
    lm_models: list[PlannerEntry]
    loaded_lm_model: str | None
    llm_initialized: bool


class OpenAiModel(BaseModel):
    """A model in OpenAI's shape."""

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
    message: str
    slot: int
    loaded_model: str


class Reinitialized(BaseModel):
    message: str
    reloaded: list[str]


class OpenAiModels(BaseModel):
    object: Literal["list"] = "list"
    data: list[OpenAiModel]


class LoraLoaded(BaseModel):
    message: str
    lora_path: str
    adapter_name: str


class LoraUnloaded(BaseModel):
    message: str


class LoraToggled(BaseModel):
    message: str
    use_lora: bool


class LoraScaled(BaseModel):
    message: str
    scale: float
    adapter_name: str


class LoraStatus(BaseModel):
    lora_loaded: bool
    use_lora: bool
    lora_scale: float = Field(description="Scale of the active adapter.")
    adapter_type: str | None
    scales: dict[str, float]
    active_adapter: str | None
    adapters: list[str] = Field(description="The loaded adapters, by the names of POST /v1/lora/load.")
    synthetic_default_mode: bool = False
    available: list[str] = Field(description="The adapters in ACESTEP_LORA_DIR, which requests can name.")


class ModelHealth(BaseModel):
    name: str
    state: str
    detail: str


SERVICE = "ACE-Step API"


class Start(BaseModel):
    """Paths of this server."""

    service: str = SERVICE
    version: str
    docs: str = Field(description="The API in a browser, to try it.")
    redoc: str = Field(description="The API in a browser, to read.")
    openapi: str
    health: str
    models: str
    generate: str = Field(description="Where songs are asked for, with POST.")


class Alive(BaseModel):
    status: str = "ok"


class Health(Devices):
    status: str = Field(
        description="`error` if the default model could not be loaded or the server cannot work, else `ok`."
    )
    service: str = SERVICE
    version: str
    ready: bool = Field(
        description="Whether songs can be made: the default model is loaded, or the next request loads it."
    )
    models_initialized: bool
    llm_initialized: bool
    loaded_model: str | None = Field(description="The default model, while it is in memory.")
    loaded_lm_model: str | None = Field(description="The planner, while it is in memory.")
    models: list[ModelHealth]
    planner: PlannerState
