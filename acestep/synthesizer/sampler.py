"""From noise to latents: the loop that everything else in this room feeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from acestep.errors import JobCancelledError

Velocity = Callable[[Tensor, float], Tensor]
Step = Callable[[Tensor, Tensor, float, float], Tensor]
OnStep = Callable[[int, int], None]
Cancelled = Callable[[], bool]


class Noise:
    """Each song's own stream of noise, which its seed alone decides, whatever the batch and the device.

    The first draw is where a song starts. Steps that need fresh noise draw on from the same stream, so
    that a song repeats in full from its one seed.
    """

    def __init__(self, seeds: Sequence[int], frames: int, channels: int, device: torch.device) -> None:
        """One stream a seed; they are drawn on the CPU, since other devices draw other numbers."""
        self._streams = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self._frames, self._channels, self._device = frames, channels, device

    def draw(self) -> Tensor:
        """The next noise `[B, frames, channels]` of every stream, float32 on the device."""
        # The default dtype is the process's: a language model that is being loaded may have changed it.
        shape, dtype = (1, self._frames, self._channels), torch.float32
        drawn = [torch.randn(shape, generator=stream, dtype=dtype) for stream in self._streams]
        return torch.cat(drawn).to(self._device)


def euler(latents: Tensor, velocity: Tensor, t: float, t_next: float) -> Tensor:
    """A deterministic step (ode): straight on along the velocity."""
    return latents - velocity * (t - t_next)


def renoising(noise: Noise) -> Step:
    """Stochastic steps (sde): go all the way to the data, then back to the next time with fresh noise."""

    def step(latents: Tensor, velocity: Tensor, t: float, t_next: float) -> Tensor:
        data = latents - velocity * t
        return (1.0 - t_next) * data + t_next * noise.draw()

    return step


def heun(velocity_at: Velocity) -> Step:
    """Deterministic steps of second order: along the mean of the velocity here and where it leads.

    The last one is Euler's, since no model was trained at time 0.
    """

    def step(latents: Tensor, velocity: Tensor, t: float, t_next: float) -> Tensor:
        ahead = euler(latents, velocity, t, t_next)
        if t_next == 0.0:
            return ahead
        return euler(latents, (velocity + velocity_at(ahead, t_next)) / 2.0, t, t_next)

    return step


def smoothed(velocity_at: Velocity, share: float) -> Velocity:
    """Velocities with a share of the one before in each, which has the same of its own; for one render."""
    last: Tensor | None = None

    def smooth(latents: Tensor, t: float) -> Tensor:
        nonlocal last
        velocity = velocity_at(latents, t)
        last = velocity if last is None else torch.lerp(velocity, last, share)
        return last

    return smooth


def held(step: Step, source: Tensor, free: Tensor, noise: Tensor, until: float) -> Step:
    """Steps after which `source` `[B, T, C]` is back wherever `free` `[B, T]` is 0, as noisy as the rest.

    So what is written anew sees its surroundings as they will be, on steps that begin above time `until`.
    `noise` is where the songs started.
    """
    is_free = free[..., None] == 1

    def hold(latents: Tensor, velocity: Tensor, t: float, t_next: float) -> Tensor:
        latents = step(latents, velocity, t, t_next)
        if t <= until:
            return latents
        return torch.where(is_free, latents, t_next * noise + (1.0 - t_next) * source)

    return hold


def sample(
    velocity: Velocity,
    step: Step,
    start: Tensor,
    times: Sequence[float],
    on_step: OnStep,
    cancelled: Cancelled,
) -> Tensor:
    """Step along `velocity` from noise `[B, T, C]` at `times[0]` to music at `times[-1]`.

    `on_step` hears (steps done, steps in all). Raises JobCancelledError once `cancelled()` is true.
    """
    latents = start
    for done, (t, t_next) in enumerate(pairwise(times), start=1):
        if cancelled():
            raise JobCancelledError("The job was cancelled while the song was being rendered.")
        latents = step(latents, velocity(latents, t), t, t_next)
        on_step(done, len(times) - 1)
    return latents
