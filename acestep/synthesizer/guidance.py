"""Classifier-free guidance: what the model says with and without the prompt becomes one direction.

Owns adaptive projected guidance (APG, arXiv 2410.02416) and the interval in which guidance acts. Knows
the model only as a function from latents and time to a velocity.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from acestep.synthesizer.transformer import Attended, Transformer

# What the published base models were tuned with.
_MOMENTUM = -0.75
_LARGEST_NORM = 2.5

# An end of the interval that falls on a step, as 0.7 does on 10 steps, counts as inside.
_TOLERANCE = 1e-6


class Guidance(Protocol):
    """How a conditional and a null prediction become one; all tensors are `[B, T, C]`."""

    def __call__(self, conditional: Tensor, null: Tensor) -> Tensor:
        """The guided velocity of this step."""
        ...


class AdaptiveProjectedGuidance:
    """APG. Remembers the steps before, so each render needs its own."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._running: Tensor | None = None

    def __call__(self, conditional: Tensor, null: Tensor) -> Tensor:
        """Push along the difference, damped by its past, capped, without what only makes it louder."""
        push = conditional - null
        if self._running is not None:
            push = push + _MOMENTUM * self._running
        self._running = push
        # Norms and projections run over time, for each song and channel.
        norm = torch.linalg.vector_norm(push, dim=1, keepdim=True)
        push = push / (norm / _LARGEST_NORM).clamp_min(1.0)
        along: Tensor = normalize(conditional, dim=1)
        push = push - (push * along).sum(dim=1, keepdim=True) * along
        guided: Tensor = conditional + (self._scale - 1.0) * push
        return guided


class GuidedVelocity:
    """The velocity under guidance: conditional and null predictions run as one batch."""

    def __init__(
        self, transformer: Transformer, attended: Attended, guidance: Guidance, interval: tuple[float, float]
    ) -> None:
        """`attended` holds the songs' conditions, then as many null conditions in the same order."""
        self._transformer = transformer
        self._both = attended
        self._conditional = attended.first(attended.songs // 2)
        self._guidance = guidance
        self._interval = interval

    def __call__(self, latents: Tensor, t: float) -> Tensor:
        """Guided inside the interval, plainly conditional outside it."""
        start, end = self._interval
        if not start - _TOLERANCE <= t <= end + _TOLERANCE:
            return self._transformer.velocity(latents, t, self._conditional)
        both = self._transformer.velocity(torch.cat([latents, latents]), t, self._both)
        conditional, null = both.chunk(2)
        return self._guidance(conditional, null)
