"""Every `ACESTEP_*` variable, documented on its field. The only module that reads the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values, load_dotenv
from pydantic import (
    AliasGenerator,
    BeforeValidator,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_settings import NoDecode, SettingsConfigDict

from acestep.errors import SettingError
from acestep.settings.hints import LAUNCHED_BY, PREFIX, unknown_names
from acestep.settings.types import (
    DEVICES,
    AutoSwitch,
    Device,
    Devices,
    DownloadSource,
    Folder,
    GpuMapping,
    LmBackend,
    NumberFormatWish,
    Quantization,
    Switch,
    WaveletDefault,
    number,
    setting,
    split,
    switch,
    to_int,
)
from acestep.settings.wire import WireSettings

_ENCODING = "utf-8-sig"  # UTF-8, with or without the mark that some editors put in front

# Said of a variable that is read and checked but changes nothing yet.
_DECODES_THERE = "No effect in this version, which decodes where the model is."
_COMPATIBLE = "No effect; accepted so that existing configurations go on working."

_ROOTS = ("audio_roots", "lora_roots")


def variable(field: str) -> str:
    """The environment variable of a field: `api_port` -> `ACESTEP_API_PORT`; one has no prefix."""
    return field.upper() if field == "max_cuda_vram" else PREFIX + field.upper()


def project_folder() -> Path:
    """The folder with pyproject.toml above this package, else (installed elsewhere) the current folder."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def export_dotenv(project: Path | None = None) -> None:
    """Put the variables of `.env` into the environment, without overriding any.

    For libraries (HF_ENDPOINT, proxies, CUDA_VISIBLE_DEVICES): to be called after `Settings.load`, which
    checks the file, and before they are imported.
    """
    load_dotenv((project or project_folder()) / ".env", encoding=_ENCODING)


def visible_devices() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


class Settings(WireSettings):
    """All settings. Build it with `Settings.load`, which reports an error in one line."""

    model_config = SettingsConfigDict(
        alias_generator=AliasGenerator(validation_alias=variable),
        populate_by_name=True,
        case_sensitive=True,
        env_file_encoding=_ENCODING,
        extra="ignore",
        frozen=True,
    )

    queue_maxsize: int = number(
        200, 0, None, "jobs", "Queued jobs before new ones are refused; 0 is no limit."
    )
    queue_workers: int | None = number(
        None,
        1,
        None,
        "jobs",
        "Jobs that may run at the same time; at least one for each device. By default a CPU computes one "
        "song while the last one is written, and a GPU renders one batch while the next one gathers.",
        shown="by the memory plan",
    )
    api_workers: int = number(1, 1, None, "", "Once the size of a thread pool.", pending=_COMPATIBLE)
    max_attempts: int = number(
        5, 1, None, "times", "Deaths of the server while it makes the songs of a job, until that fails."
    )
    drain_seconds: float = number(
        30, 0, None, "s", "How long running jobs may go on after SIGTERM; then they are queued again."
    )
    keep_seconds: int = number(604800, 60, None, "s", "How long results and their files are kept (7 days).")
    keep_gb: float = number(
        0, 0, None, "GB", "Most that results may take; those least recently fetched are deleted. 0: no limit."
    )
    reserve_gb: float = number(
        0.5, 0, None, "GB", "Free space on the disk of ACESTEP_DATA_DIR under which submissions get 507."
    )
    avg_job_seconds: float = number(5.0, 0, None, "s", "Job time that `/v1/stats` assumes before it has any.")
    avg_window: int = number(50, 1, None, "jobs", "Latest jobs of which `/v1/stats` gives the mean time.")
    generation_timeout: float = number(
        600,
        1,
        None,
        "s",
        "How long `/v1/chat/completions`, `/v1/audio/generations` and `/v1/transcribe` wait for what they "
        "return.",
    )
    page: Switch = switch(True, "Serve the page on which songs are made, at `/`.")
    cancel_on_disconnect: Switch = switch(
        True, "Cancel the job of a client that disconnects while it waits for the song."
    )
    mp3_bitrate: Annotated[Literal[128, 160, 192, 224, 256, 320], BeforeValidator(to_int)] = setting(
        256, "128, 160, 192, 224, 256 or 320 kbit/s", "Bit rate of MP3 files."
    )

    dcw: WaveletDefault = setting(
        "off",
        "off, auto",
        "Wavelet correction (`dcw_enabled`) where a request does not say: auto is on for "
        "turbo models, as in the original server.",
    )

    config_path: str | None = setting(
        None,
        "a published name, acestep-nano, or a folder",
        "Model to load. A model that is named is never replaced by another.",
        shown="acestep-v15-turbo if it is on disk or can be downloaded to a GPU machine, else acestep-nano",
    )
    config_path2: str | None = setting(
        None, "as ACESTEP_CONFIG_PATH", "Second model, to be chosen by request.", shown="unset"
    )
    config_path3: str | None = setting(
        None, "as ACESTEP_CONFIG_PATH", "Third model, to be chosen by request.", shown="unset"
    )
    models: Annotated[tuple[str, ...], NoDecode, split(",")] = setting(
        (), "names or folders, separated by commas", "More models, to be chosen by request.", shown="unset"
    )
    on_demand_model_load: Switch = switch(
        False,
        "Load a model when a request names it: from ACESTEP_CHECKPOINTS_DIR, or a published one from "
        "the hub; after a failed download not again for 300 s.",
    )
    models_in_memory: int = number(
        2,
        1,
        None,
        "models",
        "Most models in memory when one is loaded on demand; the least recently used is unloaded.",
    )
    checkpoints_dir: Folder = setting(
        Path("checkpoints"), "a folder", "Folder of the published models; downloads go here."
    )
    lora_dir: Folder = setting(
        Path(),
        "a folder",
        "Folder of adapters (LoRA, LoKr), each in a folder as PEFT, diffusers or LyCORIS (`lokr_weights."
        "safetensors`) saves it.",
        shown="`lora` in ACESTEP_CHECKPOINTS_DIR",
    )
    lora_roots: Annotated[tuple[Folder, ...], NoDecode, split(os.pathsep)] = setting(
        (),
        "folders, separated as in PATH",
        "More folders whose adapters requests may name, by absolute path. They are not listed, and the "
        "memory plan does not count them.",
        shown="unset",
    )
    download_source: DownloadSource = setting(
        "auto",
        "auto, huggingface, modelscope",
        "Hub to download from; the other is tried if that fails. auto: the first that answers.",
    )
    device: Devices = setting(
        "auto",
        f"{DEVICES}; or several, as cuda:0,cuda:1",
        "Where models run; auto takes a GPU if there is one. Several devices each have all models, and share "
        "one queue.",
    )
    gpu_mapping: GpuMapping | None = setting(
        None,
        "auto, single:N, or dit:N and lm:M, as dit:0,vae:0,text_encoder:0,lm:1",
        "GPUs of models and planner; overrides ACESTEP_DEVICE and ACESTEP_LM_DEVICE. auto: with several GPUs "
        "the planner has one of its own. vae and text_encoder run where the DiT does.",
        shown="unset",
    )
    no_init: Switch = switch(False, "Load a model at the first request that needs it, not at the start.")
    idle_unload_seconds: float = number(
        0, 0, None, "s", "Models idle for so long are unloaded until a request needs them; 0: never."
    )
    stage_timeout: float = number(
        1800,
        0,
        None,
        "s",
        "Time without progress after which a stage or load fails its jobs, and /health; 0: never.",
    )
    use_flash_attention: Switch = switch(
        True,
        "Use flash attention.",
        "No effect in this version: PyTorch chooses its attention kernel itself.",
    )
    vram_budget: float | None = number(
        None, 1, None, "GB", "GPU memory that may be used, CUDA included.", shown="what is free at the start"
    )
    max_cuda_vram: float | None = number(
        None,
        1,
        None,
        "GB",
        "Use as if the GPU had no more memory; ACESTEP_VRAM_BUDGET overrides it.",
        shown="unset",
    )
    offload_to_cpu: AutoSwitch = switch(
        None, "Keep idle models in main memory. auto: as the memory plan needs. false, or empty: never."
    )
    offload_dit_to_cpu: Switch = switch(
        False, "Keep the DiT in main memory while it is idle. false: if the memory plan needs it."
    )
    dtype: NumberFormatWish = setting(
        "auto",
        "auto, float32, bfloat16 (or bf16), float16 (or fp16)",
        "Numbers that models compute in. auto: bfloat16 on GPUs and, for published models, on CPUs that "
        "multiply it (AMX, AVX-512 bf16; on Linux), in half the memory; with AMX for nano too. Else float32. "
        "On a CPU the VAE stays in float32.",
    )
    quantization: Quantization = setting(
        "none",
        "none, int8 (or int8_weight_only), fp8 (or fp8_weight_only)",
        "Store the matrices of DiT and planner in 8 bits: about half the memory, and songs change a little. "
        "Needs `uv sync --extra quantization`; the planner then runs on PyTorch. int8 changes less than fp8 "
        "and is faster.",
    )
    vae_decode_chunk_size: int | None = number(
        None, 16, None, "latent frames", "Decode songs in pieces of this size.", shown="by the memory plan"
    )
    mps_decode_offload: AutoSwitch = switch(None, "Decode on the CPU on Apple machines.", _DECODES_THERE)
    vae_on_cpu: Switch = switch(False, "Decode on the CPU on AMD GPUs.", _DECODES_THERE)

    init_llm: AutoSwitch = switch(
        None,
        "Load the planner (5 Hz language model). auto: if the GPU has room for it; nano's is loaded when a "
        "request needs it.",
    )
    lm_model_path: str | None = setting(
        None,
        "a published name or a folder",
        "Planner to load.",
        shown="the largest that the GPU has room for",
    )
    lm_backend: LmBackend = setting(
        "vllm", "vllm, pt, mlx", "What runs the planner; pt (PyTorch) where another is not installed."
    )
    lm_device: Device | None = setting(
        None,
        DEVICES,
        "Where the planner runs. Deprecated on GPUs: use lm:N in ACESTEP_GPU_MAPPING.",
        shown="as ACESTEP_DEVICE",
    )
    lm_offload_to_cpu: AutoSwitch = switch(
        None,
        "Keep the idle planner in main memory, if PyTorch runs it; songs wait while it writes. "
        "auto: as the memory plan needs.",
    )
    lm_timeout: float = number(
        120.0, 1, None, "seconds", "How long format_input and understand may take before they give up."
    )
    lm_closed_turn: Switch = switch(
        False,
        "Let audio codes follow a finished turn, as the original does; else they go on in the open one.",
    )

    whisper_model: str = setting(
        "small",
        "a name such as small, large-v3 or turbo, or a folder, also one in ACESTEP_CHECKPOINTS_DIR",
        "Model of `/v1/transcribe`, which needs `uv sync --extra transcribe`. It runs on the CPU, and is "
        "downloaded into the cache of Hugging Face at the first request.",
    )

    disable_tqdm: Switch = switch(False, "Draw no progress bars.")
    debug_stats: Switch = switch(False, "Once printed timings; every result carries them now.", _COMPATIBLE)

    # Set by the launch scripts, for errors that say what to type.
    _launched_by: str = PrivateAttr("")
    _given: frozenset[str] = PrivateAttr(frozenset())
    _unknown: tuple[str, ...] = PrivateAttr(())

    @classmethod
    def load(cls, project: Path | None = None, /, **flags: Any) -> Self:
        """Read the settings; `flags` are fields by name that override others, None is not given.

        `project` holds `.env` and is what relative folders count from (default: `project_folder()`).
        Raises SettingError for the first value that cannot be used.
        """
        if strange := flags.keys() - cls.model_fields.keys():
            raise TypeError(f"no such settings: {', '.join(sorted(strange))}")
        project = project or project_folder()
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            settings = cls(_env_file=project / ".env", **given)
        except ValidationError as error:
            raise _readable(error) from None
        except UnicodeDecodeError:
            raise SettingError(".env", str(project / ".env"), "a text file in UTF-8") from None
        return settings._rooted(project)

    @property
    def launched_by(self) -> str:
        """The launch script that started this process; "" if none did."""
        return self._launched_by

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(self.device.split(","))

    def on(self, device: str) -> Self:
        return self.model_copy(update={"device": device})

    @property
    def unknown(self) -> tuple[str, ...]:
        """A sentence for each unknown variable with the prefix."""
        return self._unknown

    @property
    def without_effect(self) -> tuple[str, ...]:
        """A sentence for each variable that was set but has no effect in this version."""
        pending = tuple(
            f"{variable(name)}: {documented(name)['pending']}"
            for name in type(self).model_fields
            if name in self._given and documented(name)["pending"]
        )
        devices = ("device", "lm_device") if self.gpu_mapping not in (None, "auto") else ()
        return pending + tuple(
            f"{variable(name)}: No effect, since {variable('gpu_mapping')} is set."
            for name in devices
            if name in self._given
        )

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_empty(cls, values: dict[str, Any]) -> dict[str, Any]:
        # A variable set to nothing counts as not set, and as such wins over `.env`.
        kept = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
        if kept.get("ACESTEP_OFFLOAD_TO_CPU") == "":
            kept["ACESTEP_OFFLOAD_TO_CPU"] = "false"  # as the original reads it; unset means auto
        return {name: value for name, value in kept.items() if value not in ("", None)}

    def _rooted(self, project: Path) -> Self:
        data = project / self.data_dir
        tmp = project / self.tmpdir if "tmpdir" in self.model_fields_set else data / "tmp"
        roots = {name: tuple(project / each for each in getattr(self, name)) for name in _ROOTS}
        folders = {"data_dir": data, "tmpdir": tmp, **roots}
        checkpoints = project / self.checkpoints_dir
        lora = project / self.lora_dir if "lora_dir" in self.model_fields_set else checkpoints / "lora"
        settings = self.model_copy(update={**folders, "checkpoints_dir": checkpoints, "lora_dir": lora})
        settings._given = frozenset(self.model_fields_set)  # a copy counts what was updated as well
        settings._launched_by = os.environ.get(LAUNCHED_BY, "")
        named = {*os.environ, *dotenv_values(project / ".env", encoding=_ENCODING)}
        settings._unknown = unknown_names(named, {variable(field) for field in Settings.model_fields})
        return settings


def documented(field: str) -> dict[str, str]:
    """`meaning`, `allowed`, `shown` (the default, in words) and `pending` of a field."""
    info = Settings.model_fields[field]
    extra = info.json_schema_extra
    assert isinstance(extra, dict)
    texts = {key: str(text) for key, text in extra.items()}
    return {**texts, "meaning": info.description or "", "shown": texts["shown"] or str(info.default)}


def _readable(error: ValidationError) -> SettingError:
    # The first error; pydantic names a field or a variable.
    complaint = error.errors()[0]
    field = str(complaint["loc"][0]).removeprefix(PREFIX).lower()
    value = complaint["input"]
    return SettingError(variable(field), value, documented(field)["allowed"])
