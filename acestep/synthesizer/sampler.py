"""From noise to latents: the loop that everything else in this room feeds.

Owns the integration of the velocity over time, and where it can be stopped. Knows nothing of what the
velocity is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from acestep.errors import JobCancelledError

Velocity = Callable[[Tensor, float], Tensor]
OnStep = Callable[[int, int], None]
Cancelled = Callable[[], bool]


def draw_noise(seed: int, frames: int, channels: int) -> Tensor:
    """Noise `[1, frames, channels]` that depends on the seed alone, whatever the batch and the device."""
    return torch.randn(1, frames, channels, generator=torch.Generator("cpu").manual_seed(seed))


def sample(
    velocity: Velocity, noise: Tensor, times: Sequence[float], on_step: OnStep, cancelled: Cancelled
) -> Tensor:
    """Follow `velocity` from noise `[B, T, C]` at `times[0]` to music at `times[-1]`, in Euler steps.

    `on_step` hears (steps done, steps in all). Raises JobCancelledError once `cancelled()` is true.
    """
    latents = noise
    for step, (t, t_next) in enumerate(pairwise(times), start=1):
        if cancelled():
            raise JobCancelledError("The job was cancelled while the song was being rendered.")
        latents = latents - velocity(latents, t) * (t - t_next)
        on_step(step, len(times) - 1)
    return latents
