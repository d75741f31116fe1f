"""Teach the audio tokenizer and detokenizer: five latent frames to one code, and back to what they were.

The two are frozen afterwards: the denoiser learns what their hints are worth, and a planner learns to write
the codes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from acestep.networks.codes import AudioTokenizer
from training.nano.clock import Clock
from training.nano.denoiser import Denoiser
from training.nano.optimise import descend

_PEAK_RATE = 2e-3


def teach_codes(model: Denoiser, next_latents: Callable[[], Tensor], clock: Clock) -> None:
    """Train the tokenizer and detokenizer of `model` on `next_latents` (`[B, T, C]`).

    Straight through: the rounding of the quantizer counts as nothing on the way back (Mentzer et al.,
    "Finite Scalar Quantization", 2023).
    """
    tokenizer, detokenizer = model.audio_tokenizer, model.audio_token_detokenizer
    weights = [*tokenizer.parameters(), *detokenizer.parameters()]
    optimizer = torch.optim.AdamW(weights, _PEAK_RATE, weight_decay=0.0, fused=True)
    for step, done in clock.steps("codes"):
        rate = _PEAK_RATE * min(1.0, (step + 1) / 50) * max(0.02, 1.0 - done)
        latents = next_latents()
        decoded = detokenizer(quantized(tokenizer, latents))
        loss = ((decoded - latents).square() * model.weight).mean()
        clock.show(descend(optimizer, loss, rate))


def quantized(tokenizer: AudioTokenizer, latents: Tensor) -> Tensor:
    quantizer = tokenizer.quantizer
    bounded = quantizer.bound(tokenizer.pool(latents))
    rounded = quantizer.grid(bounded)
    return quantizer.expand(bounded + (rounded - bounded).detach())
