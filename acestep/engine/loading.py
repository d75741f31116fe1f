"""From a checkpoint to a model that renders.

Owns the meeting of synthesizer and codec, and where they are placed. This is the engine's door to
torch: whoever imports this module pays for it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from acestep.audio.decode import read
from acestep.audio.normalise import normalise_peak
from acestep.checkpoints import Checkpoint
from acestep.codec.codec import Codec
from acestep.codec.loading import load_codec
from acestep.domain import MAX_DURATION, AudioClip, ModelInfo, SongPlan
from acestep.engine.desk import LoadedPlanner
from acestep.engine.renderer import Cancelled, Loaded, OnFraction, OnStep, Rendering
from acestep.errors import CheckpointError, ModelUnavailableError
from acestep.planner.backends.pt import load_torch_language_model
from acestep.synthesizer.loading import load_synthesizer
from acestep.synthesizer.synthesizer import Synthesizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TorchRenderer:
    """The `Renderer` of a checkpoint in memory."""

    synthesizer: Synthesizer
    codec: Codec

    def render(self, plans: Sequence[SongPlan], on_step: OnStep, cancelled: Cancelled) -> Sequence[Rendering]:
        """See `Renderer.render`."""
        rendered = self.synthesizer.render(plans, on_step, cancelled)
        return [
            Rendering(rendered.latents[n : n + 1], warnings) for n, warnings in enumerate(rendered.warnings)
        ]

    def decode(self, rendering: Rendering, seconds: float, on_fraction: OnFraction) -> AudioClip:
        """See `Renderer.decode`; the latents' last frame may reach past the end and is cut."""
        with torch.inference_mode():
            audio = self.codec.decode(rendering.latents, on_fraction)[0]
        samples = audio[:, : round(seconds * self.codec.sample_rate)]
        return normalise_peak(AudioClip(samples.float().cpu().numpy(), self.codec.sample_rate))

    def listen(self, path: Path) -> tuple[int, ...]:
        """See `Renderer.listen`; silence fills the last frame and the last code up."""
        clip = read(path, self.codec.sample_rate, MAX_DURATION)
        audio = torch.from_numpy(clip.samples)[None]
        audio = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % self.codec.hop_length))
        with torch.inference_mode():
            return self.synthesizer.tokenize(self.codec.encode(audio)[0])


def load_model(checkpoint: Checkpoint, device: str, info: ModelInfo) -> Loaded:
    """Load `checkpoint` onto `device` (as ACESTEP_DEVICE has it); `info` is completed by what it says.

    Raises CheckpointError where files do not fit, ModelUnavailableError where the device is not there.
    """
    place = choose_device(device)
    # The published weights are bfloat16; a CPU computes float32 faster, and exactly as the tests do.
    dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    log.info("Loading %s on %s in %s", checkpoint.name, place, str(dtype).removeprefix("torch."))
    codec = load_codec(checkpoint.vae, place, dtype)
    modules = load_synthesizer(checkpoint.dit, checkpoint.text_encoder, checkpoint.tokenizer, place, dtype)
    if modules.facts.latent_channels != codec.latent_channels:
        raise CheckpointError(
            f"{checkpoint.vae} makes latents of {codec.latent_channels} channels, but {checkpoint.dit} "
            f"works on {modules.facts.latent_channels}: they do not belong together."
        )
    synthesizer = Synthesizer(modules, frame_rate=codec.sample_rate / codec.hop_length)
    complete = replace(
        info,
        is_turbo=checkpoint.is_turbo,
        steps=checkpoint.defaults.steps,
        guidance_scale=checkpoint.defaults.guidance_scale,
        shift=checkpoint.defaults.shift,
        code_count=synthesizer.code_count,
        state="ready",
        detail="",
    )
    return Loaded(complete, TorchRenderer(synthesizer, codec))


def load_planner(folder: Path, device: str, backend: str) -> LoadedPlanner:
    """Load the language model in `folder` onto `device`; `backend` as ACESTEP_LM_BACKEND has it.

    Raises CheckpointError where files do not fit, ModelUnavailableError where the device is not there.
    """
    place = choose_device(device)
    dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    log.info("Loading %s on %s in %s", folder.name, place, str(dtype).removeprefix("torch."))
    model = load_torch_language_model(folder, place, dtype)
    detail = f"ACESTEP_LM_BACKEND={backend} is not available here; pt is used" if backend != "pt" else ""
    return LoadedPlanner(model, "pt", detail)


def choose_device(wish: str) -> torch.device:
    """The torch device that ACESTEP_DEVICE means; `auto` is the best that is there.

    Raises ModelUnavailableError where it is not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "xpu": torch.xpu.is_available(),
        "cpu": True,
    }
    if wish == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    if there.get(wish.partition(":")[0]):
        device = torch.device(wish)
        if device.type != "cuda" or (device.index or 0) < torch.cuda.device_count():
            return device
    usable = ", ".join(kind for kind, is_there in there.items() if is_there)
    raise ModelUnavailableError(f"ACESTEP_DEVICE={wish} is not there; this machine has: {usable}")
