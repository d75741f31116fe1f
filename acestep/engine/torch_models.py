"""Loads checkpoints into memory as renderers and planners."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from acestep.catalog.adapters import AdapterFolder
from acestep.catalog.checkpoints import Checkpoint, read_json
from acestep.codec.codec import Codec, load_codec
from acestep.codec.oobleck import DEFAULT_TILE_FRAMES, OobleckCodec
from acestep.device.probes import cpu_flags, device_name
from acestep.domain.models import ModelInfo
from acestep.engine.renderer import Loaded, LoadedPlanner
from acestep.engine.torch_renderer import TorchRenderer
from acestep.errors import CheckpointError, ModelUnavailableError
from acestep.limits import tasks_of
from acestep.memory.number_formats import NumberFormats
from acestep.memory.plan import MemoryPlan
from acestep.settings.types import NumberFormat, NumberFormatWish, Quantization
from acestep.synthesizer.loading import SynthesizerModules, load_synthesizer
from acestep.synthesizer.lora import TransformerAdapters
from acestep.synthesizer.synthesizer import Synthesizer
from acestep.weights.offload import ModulePlacement, OffloadedModel, OffloadManager
from acestep.weights.safetensors import DeviceMover, LoadTarget
from acestep.weights.shared_modules import SharedModules

if TYPE_CHECKING:
    from acestep.planner.backends.pt import TorchLanguageModel

log = logging.getLogger(__name__)


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
    dtype: NumberFormatWish = "auto"  # as in ACESTEP_DTYPE
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
    formats = _formats(context, torch_device)
    number_format = formats.of(_width(checkpoint.dit))
    dtype, of_vae = getattr(torch, number_format), getattr(torch, formats.of_vae)
    quantization = plan.quantization if plan else "none"
    precision = _precision(number_format, quantization)
    log.info("Loading %s on %s in %s", checkpoint.name, torch_device, precision)
    tile = plan.tile if plan else DEFAULT_TILE_FRAMES
    codec = shared.get(
        checkpoint.vae,
        (torch_device, of_vae, tile),
        lambda: load_codec(checkpoint.vae, torch_device, of_vae, tile),
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
        dtype=precision,
        state="ready",
        detail="",
    )
    return Loaded(complete, TorchRenderer(synthesizer, codec, adapters, modules.placement))


def _offload_manager(device: torch.device, shared: SharedModules) -> OffloadManager:
    # The one that all models on a device share.
    return shared.get(Path("/"), ("offload", device), lambda: OffloadManager(DeviceMover(device)))


def load_planner(
    folder: Path, device: str, backend: str, context: LoadContext | None = None
) -> LoadedPlanner:
    """Load the language model in `folder` onto `device`, with `backend` as in ACESTEP_LM_BACKEND.

    Where that backend cannot run it, PyTorch does, and `detail` says why. Raises CheckpointError where files
    do not fit, ModelUnavailableError where there is no such device or vLLM does not start.
    """
    from acestep.planner.backends import pt, vllm  # what they import, songs without a planner do not need

    context = context or LoadContext()
    plan, beat = context.plan, context.beat
    torch_device, quantization = choose_device(device), plan.quantization if plan else "none"
    number_format = _formats(context, torch_device).of(_width(folder))
    dtype = getattr(torch, number_format)
    sequences, length = (
        (plan.sequences, plan.length) if plan and plan.planner else (pt.DEFAULT_SEQUENCES, pt.DEFAULT_LENGTH)
    )
    detail = ""
    if backend != "pt":
        reason = vllm.why_not(torch_device) if backend == "vllm" else "nothing here runs it"
        if quantization != "none":
            reason = reason or f"it does not quantize ({quantization})"
        if not reason:
            log.info("Loading %s on %s with vLLM in %s", folder.name, torch_device, number_format)
            target = LoadTarget(torch_device, dtype)
            return LoadedPlanner(vllm.load_vllm_language_model(folder, target, sequences, length), "vllm")
        detail = f"ACESTEP_LM_BACKEND={backend} is not available here: {reason}; pt is used"
        log.info("%s", detail)
    log.info("Loading %s on %s in %s", folder.name, torch_device, _precision(number_format, quantization))
    if plan and plan.planner and plan.placement("planner") == "offloaded":
        home = LoadTarget(torch.device("cpu"), dtype, quantization, beat)
        moving = pt.load_torch_language_model(folder, home, sequences, length, torch_device)
        place_planner(moving, _offload_manager(torch_device, context.shared))
        return LoadedPlanner(moving, "pt", detail)
    where = LoadTarget(torch_device, dtype, quantization, beat)
    return LoadedPlanner(pt.load_torch_language_model(folder, where, sequences, length), "pt", detail)


def _formats(context: LoadContext, device: torch.device) -> NumberFormats:
    return NumberFormats(context.dtype, cpu_flags() if device.type == "cpu" else None)


def _width(folder: Path) -> int:
    # Of the hidden states of a DiT, in either layout, or of a planner; loading refuses a config without it.
    inner = folder / "transformer"
    width = read_json((inner if inner.is_dir() else folder) / "config.json").get("hidden_size")
    return width if isinstance(width, int) else 0


def _precision(number_format: NumberFormat, quantization: Quantization) -> str:
    return number_format if quantization == "none" else f"{number_format}, matrices in {quantization}"


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
        "VAE": [codec.vae] if isinstance(codec, OobleckCodec) else [],  # nano's has no weights
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
