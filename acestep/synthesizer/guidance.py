"""Classifier-free guidance: what the model says with and without the prompt becomes one direction.

Knows the model only as a function from latents and time to a velocity.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from acestep.synthesizer.transformer import Attended, Transformer

# What the published base models were tuned with: APG ...
_LARGEST_NORM = 2.5
# ... and ADG.
_LARGEST_ANGLE = 3.14 / 6
_LEAST_WEIGHT = 1e-3
_SMALLEST_SINE = 1e-3

# An end of the interval that falls on a step, as 0.7 does on 10 steps, counts as inside.
_TOLERANCE = 1e-6


class Guidance(Protocol):
    """How two predictions of the velocity at `latents` and time `t` become one; tensors are `[B, T, C]`."""

    def __call__(self, conditional: Tensor, null: Tensor, latents: Tensor, t: float) -> Tensor:
        """The guided velocity of this step."""
        ...


class AdaptiveProjectedGuidance:
    """APG. Remembers the steps before, so each render needs its own."""

    def __init__(self, scale: float, momentum: float, eta: float) -> None:
        """`eta` is how much is kept of what only makes it louder."""
        self._scale = scale
        self._momentum = momentum
        self._eta = eta
        self._running: Tensor | None = None

    def __call__(self, conditional: Tensor, null: Tensor, latents: Tensor, t: float) -> Tensor:
        """Push along the difference, damped by its past, capped, without what only makes it louder."""
        push = conditional - null
        if self._running is not None:
            push = push + self._momentum * self._running
        self._running = push
        # Norms and projections run over time, for each song and channel.
        norm = torch.linalg.vector_norm(push, dim=1, keepdim=True)
        push = push / (norm / _LARGEST_NORM).clamp_min(1.0)
        along: Tensor = normalize(conditional, dim=1)
        push = push - (1.0 - self._eta) * (push * along).sum(dim=1, keepdim=True) * along
        guided: Tensor = conditional + (self._scale - 1.0) * push
        return guided


class AngleDomainGuidance:
    """ADG. Works on the data that the velocities lead to, and turns each frame instead of stretching it."""

    def __init__(self, scale: float) -> None:
        self._weight = max(scale - 1.0, 0.0) + _LEAST_WEIGHT

    def __call__(self, conditional: Tensor, null: Tensor, latents: Tensor, t: float) -> Tensor:
        """Turn the conditional data further away from the null data, in the plane that both span."""
        # Double as published, since angles may be small; Metal and some XPUs have single only, which the
        # arctangent below makes good enough (1.9e-6 instead of 1.8e-6 from the original's latents).
        precise = torch.float64 if latents.device.type in ("cpu", "cuda") else torch.float32
        x = latents.to(precise)
        data = self._turn(x - t * conditional.to(precise), x - t * null.to(precise))
        return ((x - data) / t).to(conditional.dtype)

    def _turn(self, conditional: Tensor, null: Tensor) -> Tensor:
        # Norms and projections run over channels, for each song and frame.
        direction = normalize(null, dim=-1)
        along = (conditional * direction).sum(dim=-1, keepdim=True)
        away = conditional - along * direction
        angle = torch.atan2(torch.linalg.vector_norm(away, dim=-1, keepdim=True), along)
        turned = (self._weight * angle).clamp_max(_LARGEST_ANGLE)
        # Near 0 and 180 degrees the ratio of the sines has no footing.
        footing = angle.sin() > _SMALLEST_SINE
        return turned.cos() * conditional + away * torch.where(
            footing, turned.sin() / angle.sin(), self._weight
        )


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
        return self._guidance(conditional, null, latents, t)
