"""Loads checkpoints into memory as renderers and planners. Only this module of the engine imports torch."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from acestep.audio.decode import read
from acestep.audio.encode import limit_peak, normalise_peak
from acestep.catalog.adapters import AdapterFolder
from acestep.catalog.checkpoints import Checkpoint
from acestep.codec.codec import Codec, load_codec
from acestep.codec.oobleck import DEFAULT_TILE_FRAMES, OobleckCodec
from acestep.device.probes import device_name
from acestep.domain.analysis import LyricTimes
from acestep.domain.latents import SongLatents, SourceLatents
from acestep.domain.models import ModelInfo
from acestep.domain.song import MAX_DURATION, AudioClip, SongPlan
from acestep.engine.planner_entry import LoadedPlanner
from acestep.engine.renderer import Cancelled, Loaded, OnFraction, OnStep
from acestep.errors import CheckpointError, JobCancelledError, ModelUnavailableError
from acestep.limits import tasks_of
from acestep.memory.plan import MemoryPlan
from acestep.settings.types import Quantization
from acestep.synthesizer.alignment import time_lyrics
from acestep.synthesizer.loading import SynthesizerModules, load_synthesizer
from acestep.synthesizer.lora import TransformerAdapters
from acestep.synthesizer.synthesizer import Synthesizer
from acestep.synthesizer.windows import Span, join, keep_around
from acestep.weights.offload import ModulePlacement, OffloadedModel, OffloadManager
from acestep.weights.safetensors import DeviceMover, LoadTarget
from acestep.weights.shared_modules import SharedModules

if TYPE_CHECKING:
    from acestep.planner.backends.pt import TorchLanguageModel

log = logging.getLogger(__name__)

_SEAM = 0.01  # seconds that a window fades at least: a codec's sound does not continue the source's waves


@dataclass(frozen=True, slots=True)
class TorchRenderer:
    synthesizer: Synthesizer
    codec: Codec
    adapters: TransformerAdapters
    placement: ModulePlacement | None = None  # None: every module is on the device

    @property
    def sample_rate(self) -> int:
        return self.codec.sample_rate

    @property
    def reference_seconds(self) -> float:
        return self.synthesizer.reference_frames * self.codec.hop_length / self.codec.sample_rate

    @property
    def takes_batches(self) -> bool:
        # A CPU saves next to nothing by them, and its products round by their number of rows (0010).
        return self.synthesizer.device.type != "cpu"

    def encode(self, clip: AudioClip) -> torch.Tensor:
        audio = torch.from_numpy(clip.samples)[None]
        audio = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % self.codec.hop_length))
        with self._device(), torch.inference_mode():
            self._enter_codec()
            return self.codec.encode(audio)[0]

    def render(
        self,
        plans: Sequence[SongPlan],
        on_step: OnStep,
        cancelled: Cancelled,
        sources: Sequence[SourceLatents] = (),
    ) -> Sequence[SongLatents]:
        sources = sources or [SourceLatents()] * len(plans)
        with self._device(partial(_stop, cancelled)):
            self._adapt(plans)
            rendered = self.synthesizer.render(plans, on_step, cancelled, sources)
        return [
            replace(self._kept(plan, rendered.latents[n : n + 1], each), warnings=rendered.warnings[n])
            for n, (plan, each) in enumerate(zip(plans, sources, strict=True))
        ]

    def _device(self, check: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        # The device, exclusively where weights are offloaded; `check` runs while it waits, and may raise.
        return self.placement.locked(check) if self.placement else nullcontext()

    def _enter_codec(self) -> None:
        if self.placement:
            self.placement.enter("VAE")

    def _adapt(self, plans: Sequence[SongPlan]) -> None:
        # Activate the adapters of these plans, and no others. The transformer runs only after this.
        wanted = {plan.adapters for plan in plans}
        if len(wanted) != 1:
            raise ValueError("the plans of one render must share their adapters")
        adapters = wanted.pop()
        if adapters or not self.adapters.is_idle:
            self.adapters.apply(adapters)

    def _kept(self, plan: SongPlan, latents: torch.Tensor, sources: SourceLatents) -> SongLatents:
        # The song; outside of its plan's window, if it has one, it keeps its source.
        span, frames = self.synthesizer.span(plan), latents.shape[1]
        if span is None or sources.source is None:
            return SongLatents(latents, peak_db=plan.peak_db)
        kept = sources.source[None, :frames].to(latents)
        kept = torch.nn.functional.pad(kept, (0, 0, 0, frames - kept.shape[1]))
        return SongLatents(
            join(latents, kept, span, dim=1), window=plan.window, kept=sources.clip, peak_db=plan.peak_db
        )

    def decode(self, song: SongLatents, seconds: float, on_fraction: OnFraction) -> AudioClip:
        rate, window = self.codec.sample_rate, song.window
        length = round(seconds * rate)
        with self._device(partial(on_fraction, 0.0)), torch.inference_mode():
            self._enter_codec()
            sound = self.codec.decode(song.latents, on_fraction)[0, :, :length].float().cpu()
        clip = AudioClip(sound.numpy(), rate)
        if window is None or song.kept is None:
            return normalise_peak(clip, song.peak_db)
        span = Span.of(window, rate, length, max(window.crossfade_seconds, _SEAM) * rate)
        if (span.start, span.stop) == (0, length):
            return normalise_peak(clip, song.peak_db)
        # The codec would change the source, so that is joined as sound: in place, since songs take
        # 230 MB. Both sides stay within full scale.
        part = slice(span.start, span.stop)
        clip.samples[:, part] = limit_peak(AudioClip(clip.samples[:, part], rate)).samples
        keep_around(torch.from_numpy(clip.samples), torch.from_numpy(song.kept.samples), span)
        return clip

    def align_lyrics(
        self, plan: SongPlan, song: SongLatents, sources: SourceLatents
    ) -> Callable[[], LyricTimes]:
        with self._device():
            self._adapt([plan])
            return partial(time_lyrics, self.synthesizer.attend_lyrics(plan, song.latents, sources))

    def tokenize(self, path: Path) -> tuple[int, ...]:
        clip = read(path, self.codec.sample_rate, MAX_DURATION)
        latents = self.encode(clip)
        with self._device(), torch.inference_mode():
            return self.synthesizer.tokenize(latents)

    def low_memory(self) -> TorchRenderer:
        return replace(self, codec=self.codec.low_memory())


def _stop(cancelled: Cancelled) -> None:
    if cancelled():
        raise JobCancelledError("The job was cancelled before its render began.")


def free_memory() -> None:
    gc.collect()
    for kind in (torch.cuda, torch.xpu, torch.mps):
        if kind.is_available():
            kind.empty_cache()


def _no_beat() -> None: ...


@dataclass(frozen=True, slots=True)
class LoadContext:
    """`folder` has the adapters that songs may name, `shared` the modules that other models have in memory.

    `plan` None: every module is resident. `beat` is called as loading makes progress.
    """

    folder: AdapterFolder = field(default_factory=lambda: AdapterFolder(None))
    shared: SharedModules = field(default_factory=SharedModules)
    plan: MemoryPlan | None = None
    beat: Callable[[], None] = _no_beat


def load_model(
    checkpoint: Checkpoint, device: str, info: ModelInfo, context: LoadContext | None = None
) -> Loaded:
    """Load `checkpoint` onto `device` (as in ACESTEP_DEVICE), and complete `info` from it.

    Raises CheckpointError where files do not fit, ModelUnavailableError where there is no such device.
    """
    context = context or LoadContext()
    plan, shared = context.plan, context.shared
    torch_device = choose_device(device)
    context.beat()  # drivers may take seconds
    dtype = _dtype(torch_device)
    quantization = plan.quantization if plan else "none"
    log.info("Loading %s on %s in %s", checkpoint.name, torch_device, _precision(dtype, quantization))
    tile = plan.tile if plan else DEFAULT_TILE_FRAMES
    codec = shared.get(
        checkpoint.vae,
        (torch_device, dtype, tile),
        lambda: load_codec(checkpoint.vae, torch_device, dtype, tile),
    )
    context.beat()
    home = torch.device("cpu") if plan and offloads(plan) else torch_device
    modules = load_synthesizer(
        checkpoint.dit,
        checkpoint.text_encoder,
        checkpoint.tokenizer,
        LoadTarget(home, dtype, quantization, context.beat),
        shared,
    )
    if modules.config.latent_channels != codec.latent_channels:
        raise CheckpointError(
            f"{checkpoint.vae} makes latents of {codec.latent_channels} channels, but {checkpoint.dit} "
            f"works on {modules.config.latent_channels}: they do not belong together."
        )
    # On a CPU nothing moves; elsewhere a planner that is loaded later may be offloaded and share the device.
    if plan and (torch_device.type != "cpu" or offloads(plan)):
        modules = place_model(modules, codec, plan, torch_device, _offload_manager(torch_device, shared))
    room = plan.adapter_room if plan else None
    adapters = TransformerAdapters(checkpoint.name, modules.transformer, context.folder, room)
    synthesizer = Synthesizer(modules, frame_rate=codec.sample_rate / codec.hop_length)
    complete = replace(
        info,
        is_turbo=checkpoint.is_turbo,
        tasks=tasks_of(checkpoint.is_turbo),
        steps=checkpoint.defaults.steps,
        guidance_scale=checkpoint.defaults.guidance_scale,
        shift=checkpoint.defaults.shift,
        code_count=synthesizer.code_count,
        layers=adapters.layers,
        state="ready",
        detail="",
    )
    return Loaded(complete, TorchRenderer(synthesizer, codec, adapters, modules.placement))


def _offload_manager(device: torch.device, shared: SharedModules) -> OffloadManager:
    # The one that all models on a device share.
    return shared.get(Path("/"), ("offload", device), lambda: OffloadManager(DeviceMover(device)))


def load_planner(
    folder: Path,
    device: str,
    backend: str,
    plan: MemoryPlan | None = None,
    shared: SharedModules | None = None,
    beat: Callable[[], None] = _no_beat,
) -> LoadedPlanner:
    """Load the language model in `folder` onto `device`, with `backend` as in ACESTEP_LM_BACKEND.

    Where that backend cannot run it, PyTorch does, and `detail` says why. Raises CheckpointError where files
    do not fit, ModelUnavailableError where there is no such device or vLLM does not start.
    """
    from acestep.planner.backends import pt, vllm  # what they import, songs without a planner do not need

    torch_device, quantization = choose_device(device), plan.quantization if plan else "none"
    sequences, length = (
        (plan.sequences, plan.length) if plan and plan.planner else (pt.DEFAULT_SEQUENCES, pt.DEFAULT_LENGTH)
    )
    detail = ""
    if backend != "pt":
        reason = vllm.why_not(torch_device) if backend == "vllm" else "nothing here runs it"
        if quantization != "none":
            reason = reason or f"it does not quantize ({quantization})"
        if not reason:
            log.info("Loading %s on %s with vLLM", folder.name, torch_device)
            model = vllm.load_vllm_language_model(folder, torch_device, sequences, length)
            return LoadedPlanner(model, "vllm")
        detail = f"ACESTEP_LM_BACKEND={backend} is not available here: {reason}; pt is used"
        log.info("%s", detail)
    dtype = _dtype(torch_device)
    log.info("Loading %s on %s in %s", folder.name, torch_device, _precision(dtype, quantization))
    if plan and plan.planner and plan.placement("planner") == "offloaded":
        home = LoadTarget(torch.device("cpu"), dtype, quantization, beat)
        moving = pt.load_torch_language_model(folder, home, sequences, length, torch_device)
        place_planner(moving, _offload_manager(torch_device, shared or SharedModules()))
        return LoadedPlanner(moving, "pt", detail)
    where = LoadTarget(torch_device, dtype, quantization, beat)
    return LoadedPlanner(pt.load_torch_language_model(folder, where, sequences, length), "pt", detail)


def _dtype(torch_device: torch.device) -> torch.dtype:
    # The published weights are bfloat16; a CPU computes float32 faster, and exactly as in the tests.
    return torch.float32 if torch_device.type == "cpu" else torch.bfloat16


def _precision(dtype: torch.dtype, quantization: Quantization) -> str:
    name = str(dtype).removeprefix("torch.")
    return name if quantization == "none" else f"{name}, matrices in {quantization}"


def choose_device(name: str) -> torch.device:
    """The device that ACESTEP_DEVICE means. Raises ModelUnavailableError where it is not available."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "xpu": torch.xpu.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, is_available in available.items() if is_available)
    if available.get(name.partition(":")[0]):
        device = torch.device(device_name(name))  # "cuda" and "cuda:0" share one OffloadManager
        if device.type != "cuda" or (device.index or 0) < torch.cuda.device_count():
            return device
    usable = ", ".join(kind for kind, is_available in available.items() if is_available)
    raise ModelUnavailableError(f"ACESTEP_DEVICE={name} is not there; this machine has: {usable}")


def offloads(plan: MemoryPlan) -> bool:
    """Whether the DiT, its encoders or the VAE are not always on the device."""
    return any(group.placement != "resident" for group in plan.parts if group.name != "planner")


def place_planner(model: TorchLanguageModel, offload_manager: OffloadManager) -> TorchLanguageModel:
    """Offload a planner: its weights are in main memory, and on the device only while it generates."""
    decoder, _ = model.movable
    group = offload_manager.group("offloaded", model.movable, workspace=decoder)
    model.place_modules(OffloadedModel(offload_manager, group))
    return model


def place_model(
    modules: SynthesizerModules,
    codec: Codec,
    plan: MemoryPlan,
    device: torch.device,
    offload_manager: OffloadManager,
) -> SynthesizerModules:
    """Place the modules and the codec as planned. Where some are offloaded, all are in main memory before."""
    parts: dict[str, list[nn.Module]] = {
        "text encoder": [modules.text_encoder],
        "condition encoder": [
            modules.condition_encoder,
            modules.audio_tokenizer,
            modules.audio_token_detokenizer,
        ],
        "DiT": [modules.transformer],
        "VAE": [codec.vae] if isinstance(codec, OobleckCodec) else [],  # a sine bank has no weights
    }
    for name, networks in parts.items():
        for network in networks:
            _move_buffers(network, device)
            if plan.placement(name) == "resident":
                network.to(device)
    placement = ModulePlacement(
        offload_manager,
        {
            name: offload_manager.group(
                plan.placement(name), networks, list(modules.transformer.layers) if name == "DiT" else ()
            )
            for name, networks in parts.items()
        },
    )
    return replace(modules, silence_latent=modules.condition_encoder.silence_latent, placement=placement)


def _move_buffers(network: nn.Module, device: torch.device) -> None:
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
