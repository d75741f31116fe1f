"""Loaded modules are put where the memory plan has them.

Owns which modules make up a part of the plan. Buffers are small and stay on the device; weights may come and
go (`memory.residency`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from acestep.codec.codec import Codec
from acestep.memory.plan import MemoryPlan
from acestep.memory.residency import Lodger, Places, Residency
from acestep.planner.backends.pt import TorchLanguageModel
from acestep.synthesizer.loading import SynthesizerModules


def moves(plan: MemoryPlan) -> bool:
    """Whether the DiT, its encoders or the VAE are not always on the device."""
    return any(part.placement != "resident" for part in plan.parts if part.name != "planner")


def lodge(model: TorchLanguageModel, residency: Residency) -> TorchLanguageModel:
    """A planner whose weights lie in main memory, and which is on the device while it writes alone."""
    decoder, _ = model.movable
    model.lodge(Lodger(residency, residency.part("offloaded", model.movable, scratch=decoder)))
    return model


def settle(
    modules: SynthesizerModules, codec: Codec, plan: MemoryPlan, device: Any, residency: Residency
) -> SynthesizerModules:
    """The modules with their places. If some are to move, they lie in main memory; the codec does not yet."""
    vae = getattr(codec, "vae", None)  # a codec of fixed formulas has no weights
    parts = {
        "text encoder": [modules.text_encoder],
        "condition encoder": [
            modules.condition_encoder,
            modules.audio_tokenizer,
            modules.audio_token_detokenizer,
        ],
        "DiT": [modules.transformer],
        "VAE": [] if vae is None else [vae],
    }
    for name, networks in parts.items():
        for network in networks:
            _move_buffers(network, device)
            if plan.placement(name) == "resident":
                network.to(device)
    places = Places(
        residency,
        {
            name: residency.part(
                plan.placement(name), networks, modules.transformer.layers if name == "DiT" else ()
            )
            for name, networks in parts.items()
        },
    )
    return replace(modules, silence_latent=modules.condition_encoder.silence_latent, places=places)


def _move_buffers(network: Any, device: Any) -> None:
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
