"""What a request may ask of the sampler beside schedule and guidance: other steps, and morphing a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from acestep.domain.song import Morph, WaveletCorrection
from acestep.synthesizer.sampler import Cancelled, OnStep, SeededNoise, Step, Velocity, euler_step, sample


def limited_velocity(velocity: Velocity, limit: float) -> Velocity:
    """Velocities whose norm, over the whole song, is at most `limit` times that of the latents."""

    def limited(latents: Tensor, t: float) -> Tensor:
        current = velocity(latents, t)
        norm, most = (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) for x in (current, latents))
        slower: Tensor = current * (limit * most / norm).clamp_max(1.0)
        return slower

    return limited


class SmoothedVelocity:
    """The moving average of the velocities of one render; `share` is the weight of the average so far."""

    def __init__(self, velocity: Velocity, share: float) -> None:
        self._velocity = velocity
        self.share = share
        self.average: Tensor | None = None

    def __call__(self, latents: Tensor, t: float) -> Tensor:
        current = self._velocity(latents, t)
        average = current if self.average is None else torch.lerp(current, self.average, self.share)
        self.average = average
        return average


def heun_step(velocity_at: Velocity, smoothed: SmoothedVelocity | None = None) -> Step:
    """Steps along the mean of the velocities at both ends of an Euler step.

    With `smoothed` the second velocity is averaged with the first, and the mean goes into the average.
    """

    def step(latents: Tensor, velocity: Tensor, t: float, t_next: float) -> Tensor:
        ahead = euler_step(latents, velocity, t, t_next)
        if t_next == 0.0:  # at which no model was trained
            return ahead
        second = velocity_at(ahead, t_next)
        if smoothed is not None:
            second = torch.lerp(second, velocity, smoothed.share)
        mean = (velocity + second) / 2.0
        if smoothed is not None:
            smoothed.average = mean
        return euler_step(latents, mean, t, t_next)

    return step


def sde_step(noise: SeededNoise) -> Step:
    """Stochastic steps: to the predicted data, then back to the next time with fresh noise."""

    def step(latents: Tensor, velocity: Tensor, t: float, t_next: float) -> Tensor:
        data = latents - velocity * t
        return (1.0 - t_next) * data + t_next * noise.draw()

    return step


def corrected_step(step: Step, correction: WaveletCorrection) -> Step:
    """Steps corrected in the wavelet domain (DCW): away from the data that the velocity predicts.

    The low band by `t * scale`, the high one by `(1 - t) * scale`, of their differences from it.
    """

    def correct(latents: Tensor, velocity: Tensor, t: float, t_next: float) -> Tensor:
        ahead = step(latents, velocity, t, t_next)
        difference = ahead - (latents - velocity * t)
        if correction.bands == "pix":
            return ahead + correction.scale * difference
        low, high = {
            "low": (t * correction.scale, 0.0),
            "high": (0.0, (1.0 - t) * correction.scale),
            "double": (t * correction.scale, (1.0 - t) * correction.high_scale),
        }[correction.bands]
        low_part, high_part = _haar_parts(difference)
        return ahead + low * low_part + high * high_part

    return correct


def _haar_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    # `x` as the sum of its two bands in a one-level orthonormal Haar transform along time: of each pair of
    # frames the mean, and what is left of them. An odd last frame pairs with zeros.
    frames = x.shape[1]
    padded = functional.pad(x, (0, 0, 0, frames % 2))
    pairs = padded.view(len(x), -1, 2, x.shape[2])
    means = pairs.mean(dim=2, keepdim=True).expand_as(pairs)
    return means.flatten(1, 2)[:, :frames], (pairs - means).flatten(1, 2)[:, :frames]


def inpainting_step(step: Step, source: Tensor, mask: Tensor, noise: Tensor, until: float) -> Step:
    """Steps that put `source` back where `mask` `[B, T]` is 0, noised by the songs' first `noise`.

    Only those that begin above time `until`.
    """
    is_generated = mask[..., None] == 1

    def inpaint(latents: Tensor, velocity: Tensor, t: float, t_next: float) -> Tensor:
        latents = step(latents, velocity, t, t_next)
        if t <= until:
            return latents
        return torch.where(is_generated, latents, t_next * noise + (1.0 - t_next) * source)

    return inpaint


@dataclass(frozen=True, slots=True, eq=False)
class Morphing:
    """FlowEdit (Kulikov et al. 2024): from `clean`, a source, along what two velocities differ in.

    Steps are Euler's.
    """

    target: Velocity
    source: Velocity
    clean: Tensor
    noise: SeededNoise
    morph: Morph

    def sample(self, schedule: Sequence[float], on_step: OnStep, cancelled: Cancelled) -> Tensor:
        """The latents of the song. Raises JobCancelledError."""
        head, tail = self._split(schedule)
        before, steps = len(head) - 1, len(head) + len(tail) - 2

        def on_head(done: int, _: int) -> None:
            on_step(done, steps)

        def on_tail(done: int, _: int) -> None:
            on_step(before + done, steps)

        latents = sample(self._difference, euler_step, self.clean, head, on_head, cancelled)
        if len(tail) == 1:
            return latents
        start = latents + tail[0] * (self.noise.draw() - self.clean)
        return sample(self.target, euler_step, start, tail, on_tail, cancelled)

    def _split(self, schedule: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
        # The times of the steps that morph, and those of the plain steps after them; one time is no step.
        bounds = (self.morph.start, self.morph.end)
        begin, end = (next(index for index, t in enumerate(schedule) if t <= bound) for bound in bounds)
        return schedule[begin : end + 1], schedule[end:]

    def _difference(self, latents: Tensor, t: float) -> Tensor:
        difference = torch.zeros_like(latents)
        for _ in range(self.morph.averages):
            noisy = (1.0 - t) * self.clean + t * self.noise.draw()
            difference += self.target(latents + noisy - self.clean, t) - self.source(noisy, t)
        return difference / self.morph.averages
