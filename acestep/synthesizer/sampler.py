"""From noise to latents: timestep schedule, guidance, steps, and the loop over them.

Times run from 1 (noise) to 0 (music). Tensors are `[B, T, C]`. `limits` has checked every `Sampling`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize

from acestep.domain.song import Retake, Sampling, Tuning
from acestep.errors import JobCancelledError
from acestep.limits import TURBO_SHIFTS
from acestep.networks.transformer import ConditionCache, Transformer

Velocity = Callable[[Tensor, float], Tensor]  # (latents, t)
Guidance = Callable[[Tensor, Tensor, Tensor, float], Tensor]  # (conditional, null, latents, t): a velocity
Step = Callable[[Tensor, Tensor, float, float], Tensor]  # (latents, velocity, t, t_next): latents at t_next
OnStep = Callable[[int, int], None]  # (steps done, steps in all)
Cancelled = Callable[[], bool]

# Turbo models were distilled on schedules of this many steps, one for each of TURBO_SHIFTS.
TURBO_STEPS = 8

# ADG as the published base models were tuned: the largest angle of each variant (the original rounds pi), the
# least weight, the smallest sine to divide by.
_ADG_MAX_ANGLES = {"adg": 3.14 / 6, "adg_w_norm": 3.14 / 3, "adg_wo_clip": math.inf}
_ADG_MIN_WEIGHT = 1e-3
_ADG_MIN_SINE = 1e-3

# A bound of the guidance interval that falls on a step, as 0.7 does with 10 steps, is inside.
_INTERVAL_TOLERANCE = 1e-6


def timestep_schedule(sampling: Sampling, *, is_turbo: bool) -> tuple[float, ...]:
    """The times of a render, with the closing 0."""
    if sampling.timesteps is None:
        times = shifted_timesteps(sampling.steps, sampling.shift)
    else:
        times = (*sampling.timesteps, 0.0)
    assert all(later < earlier for earlier, later in pairwise(times))
    return nearest_turbo_timesteps(times) if is_turbo else times


def shifted_timesteps(steps: int, shift: float) -> tuple[float, ...]:
    """`steps` equal steps; a shift above 1 moves the times towards 1, where the form of a song is decided."""
    uniform = ((steps - step) / steps for step in range(steps + 1))
    return tuple(shift * u / (1.0 + (shift - 1.0) * u) for u in uniform)


def nearest_turbo_timesteps(times: Sequence[float]) -> tuple[float, ...]:
    """Each time but the closing 0 moved to the nearest that turbo models know; equal ones become one step."""
    known = {t for shift in TURBO_SHIFTS for t in shifted_timesteps(TURBO_STEPS, shift)[:-1]}
    nearest = [min(known, key=lambda t: abs(t - wanted)) for wanted in times[:-1]]
    return (*dict.fromkeys(nearest), 0.0)


def truncate_schedule(schedule: Sequence[float], noise_strength: float) -> tuple[float, ...]:
    """The end of a schedule, from the time nearest to `1 - noise_strength`; one step at least."""
    if noise_strength == 0.0:
        return tuple(schedule)
    start = min(schedule[:-1], key=lambda t: abs(t - (1.0 - noise_strength)))
    return tuple(t for t in schedule if t <= start)


class AdaptiveProjectedGuidance:
    """APG, for one render."""

    def __init__(self, scale: float, tuning: Tuning) -> None:
        self._scale = scale
        self._tuning = tuning
        self._average: Tensor | None = None

    def __call__(self, conditional: Tensor, null: Tensor, latents: Tensor, t: float) -> Tensor:
        difference = conditional - null
        if self._average is not None:
            difference = difference + self._tuning.momentum * self._average
        self._average = difference
        # Norms and projections run over time, for each song and channel.
        if self._tuning.norm_limit:
            norm = torch.linalg.vector_norm(difference, dim=1, keepdim=True)
            difference = difference / (norm / self._tuning.norm_limit).clamp_min(1.0)
        direction: Tensor = normalize(conditional, dim=1)
        along = (difference * direction).sum(dim=1, keepdim=True)
        difference = difference - (1.0 - self._tuning.eta) * along * direction
        guided: Tensor = conditional + (self._scale - 1.0) * difference
        return guided


def classifier_free_guidance(scale: float) -> Guidance:
    return lambda conditional, null, latents, t: null + scale * (conditional - null)


def angle_domain_guidance(scale: float, tuning: Tuning) -> Guidance:
    """ADG: turns the predicted data of each frame away from the null prediction."""
    weight = max(scale - 1.0, 0.0) + _ADG_MIN_WEIGHT
    limit = _ADG_MAX_ANGLES[tuning.guidance] if tuning.angle_limit is None else tuning.angle_limit

    def guide(conditional: Tensor, null: Tensor, latents: Tensor, t: float) -> Tensor:
        # Double as published, since angles may be small; Metal and some XPUs have single only, which the
        # arctangent makes good enough (1.9e-6 instead of 1.8e-6 from the original's latents).
        precise = torch.float64 if latents.device.type in ("cpu", "cuda") else torch.float32
        x = latents.to(precise)
        predicted = x - t * conditional.to(precise)
        data = _turn_away(predicted, x - t * null.to(precise), weight, limit)
        if tuning.guidance == "adg_w_norm":  # each channel as loud as without guidance
            data = data * (_norm_over_time(predicted) / _norm_over_time(data))
        return ((x - data) / t).to(conditional.dtype)

    return guide


def _norm_over_time(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return norm


def _turn_away(conditional: Tensor, null: Tensor, weight: float, limit: float) -> Tensor:
    # By `weight` times the angle between the two, at most by `limit`, in their plane.
    direction = normalize(null, dim=-1)
    along = (conditional * direction).sum(dim=-1, keepdim=True)
    across = conditional - along * direction
    angle = torch.atan2(torch.linalg.vector_norm(across, dim=-1, keepdim=True), along)
    turned = (weight * angle).clamp_max(limit)
    # Near 0 and 180 degrees the ratio of the sines cannot be computed.
    ratio = torch.where(angle.sin() > _ADG_MIN_SINE, turned.sin() / angle.sin(), weight)
    return turned.cos() * conditional + across * ratio


def guided_velocity(
    transformer: Transformer, cache: ConditionCache, guidance: Guidance, interval: tuple[float, float]
) -> Velocity:
    """Guided inside `interval`. `cache` has the null condition too."""
    unguided = cache.unguided()
    start, end = interval

    def velocity(latents: Tensor, t: float) -> Tensor:
        if not start - _INTERVAL_TOLERANCE <= t <= end + _INTERVAL_TOLERANCE:
            return transformer.velocity(latents, t, unguided)
        conditional, null = transformer.velocity(latents, t, cache).chunk(2)
        return guidance(conditional, null, latents, t)

    return velocity


class SeededNoise:
    """A stream of noise for each song, by its seed alone; SDE steps draw on from it after the first draw."""

    def __init__(self, seeds: Sequence[int], frames: int, channels: int, device: torch.device) -> None:
        # On the CPU, since other devices draw other numbers.
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self._shape, self._device = (1, frames, channels), device

    def draw(self) -> Tensor:
        # The default dtype is the process's: vLLM changes it while it loads a planner.
        dtype = torch.float32
        drawn = [torch.randn(self._shape, generator=each, dtype=dtype) for each in self._generators]
        return torch.cat(drawn).to(self._device)


def with_retakes(noise: Tensor, retakes: Sequence[Retake | None]) -> Tensor:
    """The noise of songs `[B, T, C]`, turned towards that of another seed where a song has a retake."""
    turned = []
    _, frames, channels = noise.shape
    for own, retake in zip(noise, retakes, strict=True):
        if retake is None:
            turned.append(own)
        else:
            angle = retake.variance * math.pi / 2.0  # keeps the variance of the sum at 1
            other = SeededNoise([retake.seed], frames, channels, noise.device).draw()[0]
            turned.append(math.cos(angle) * own + math.sin(angle) * other)
    return torch.stack(turned)


def euler_step(latents: Tensor, velocity: Tensor, t: float, t_next: float) -> Tensor:
    return latents - velocity * (t - t_next)


def sample(
    velocity: Velocity,
    step: Step,
    start: Tensor,
    schedule: Sequence[float],
    on_step: OnStep,
    cancelled: Cancelled,
) -> Tensor:
    """Step from latents at `schedule[0]` to those at `schedule[-1]`. Raises JobCancelledError."""
    latents = start
    for done, (t, t_next) in enumerate(pairwise(schedule), start=1):
        if cancelled():
            raise JobCancelledError("The job was cancelled while the song was being rendered.")
        latents = step(latents, velocity(latents, t), t, t_next)
        on_step(done, len(schedule) - 1)
    return latents
