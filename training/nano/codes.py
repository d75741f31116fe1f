"""Teach the audio tokenizer and detokenizer: five latent frames to one code, and back to what they were.

The two are frozen afterwards: the denoiser learns what their hints are worth, and a planner learns to write
the codes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AceStepAudioTokenizer
from torch import Tensor

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
        decoded = detokenizer(_quantized(tokenizer, latents))
        loss = ((decoded - latents).square() * model.weight).mean()
        clock.show(descend(optimizer, loss, rate))


def _quantized(tokenizer: AceStepAudioTokenizer, latents: Tensor) -> Tensor:
    batch, frames, channels = latents.shape
    window = tokenizer.pool_window_size
    pooled = tokenizer.attention_pooler(
        tokenizer.audio_acoustic_proj(latents.reshape(batch, frames // window, window, channels))
    )
    quantizer = tokenizer.quantizer
    soft = 1.0 + 1.0 / (quantizer._levels - 1.0)
    bounded = torch.tanh(quantizer.project_in(pooled) / soft) * soft
    rounded = quantizer._quantize(bounded)
    straight: Tensor = quantizer.project_out(bounded + (rounded - bounded).detach())
    return straight
