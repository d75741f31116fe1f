"""The second velocity of a heun step, as the original's loop has it."""

import math
from typing import Any

import pytest
import torch

from acestep.domain.song import Sampling, Tuning
from acestep.synthesizer.sampler import SeededNoise, guided_velocity, sample, shifted_timesteps
from acestep.synthesizer.synthesizer import StepVelocities, guidances, step_of, tuned

SHAPE = (1, 6, 2)
SCALE, STEPS = 4.0, 5


def field(latents: torch.Tensor, t: float, sign: float) -> torch.Tensor:
    """A smooth velocity: what a model says with its condition (1.0) and without (-0.5)."""
    frames = torch.arange(SHAPE[1], dtype=latents.dtype)[None, :, None]
    return torch.sin(latents * (1.0 + t) + frames) + sign * torch.cos(frames * t)


class FakeTransformer:
    def velocity(self, latents: torch.Tensor, t: float, cache: Any) -> torch.Tensor:
        conditional = field(latents, t, 1.0)
        return torch.cat([conditional, field(latents, t, -0.5)]) if cache.is_guided else conditional


class FakeCache:
    def __init__(self, is_guided: bool = True) -> None:
        self.is_guided = is_guided

    def unguided(self) -> "FakeCache":
        return FakeCache(False)


def ours(tuning: Tuning, interval: tuple[float, float] = (0.0, 1.0)) -> torch.Tensor:
    sampling = Sampling(STEPS, SCALE, 1.0, cfg_interval=interval, tuning=tuning)
    model: Any = FakeTransformer()
    cache: Any = FakeCache()
    first, second = guidances(sampling)
    assert first is not None and second is not None
    plain = StepVelocities(
        guided_velocity(model, cache, first, interval), guided_velocity(model, cache, second, interval)
    )
    velocities = tuned(plain, tuning)
    step = step_of(sampling, velocities, SeededNoise([0], *SHAPE[1:], torch.device("cpu")))
    schedule = shifted_timesteps(STEPS, 1.0)
    return sample(velocities.first, step, start(), schedule, lambda done, of: None, lambda: False)


def start() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def by_hand(
    share: float = 0.0, limit: float = 0.0, interval: tuple[float, float] = (0.0, 1.0)
) -> torch.Tensor:
    """APG with its running average at the start of each step, plain guidance where it leads."""
    x, running, before = start(), torch.zeros(SHAPE, dtype=torch.float64), None
    for number in range(STEPS):
        t, t_next = 1.0 - number / STEPS, 1.0 - (number + 1) / STEPS
        conditional, null = field(x, t, 1.0), field(x, t, -0.5)
        v = conditional
        if interval[0] - 1e-6 <= t <= interval[1] + 1e-6:
            running = (conditional - null) - 0.75 * running
            push = running * torch.clamp(2.5 / running.norm(dim=1, keepdim=True), max=1.0)
            unit = conditional / conditional.norm(dim=1, keepdim=True)
            v = conditional + (SCALE - 1.0) * (push - (push * unit).sum(dim=1, keepdim=True) * unit)
        v = limited(v, x, limit)
        if before is not None:
            v = (1.0 - share) * v + share * before
        if number == STEPS - 1:  # ours ends with Euler's step: no model was trained at 0
            return x - v * (t - t_next)
        ahead = x - v * (t - t_next)
        conditional, null = field(ahead, t_next, 1.0), field(ahead, t_next, -0.5)
        inside = interval[0] - 1e-6 <= t_next <= interval[1] + 1e-6
        second = null + SCALE * (conditional - null) if inside else conditional
        second = (1.0 - share) * limited(second, ahead, limit) + share * v
        before = 0.5 * (v + second)
        x = x - before * (t - t_next)
    raise AssertionError


def limited(v: torch.Tensor, x: torch.Tensor, limit: float) -> torch.Tensor:
    if not limit:
        return v
    return v * min(1.0, limit * math.sqrt(float((x * x).sum())) / math.sqrt(float((v * v).sum())))


@pytest.mark.parametrize(
    ("tuning", "told"),
    [
        ({}, {}),
        ({"smoothing": 0.3}, {"share": 0.3}),
        ({"velocity_limit": 0.8}, {"limit": 0.8}),
        ({"smoothing": 0.2, "velocity_limit": 1.1}, {"share": 0.2, "limit": 1.1}),
    ],
)
def test_heun_with_apg(tuning: dict[str, float], told: dict[str, float]):
    torch.testing.assert_close(ours(Tuning(integrator="heun", **tuning)), by_hand(**told))  # type: ignore[arg-type]


def test_the_interval_counts_at_each_end_by_itself():
    interval = (0.3, 0.7)
    torch.testing.assert_close(ours(Tuning(integrator="heun"), interval), by_hand(interval=interval))


@pytest.mark.parametrize("kind", ["cfg", "adg", "adg_w_norm", "adg_wo_clip"])
def test_other_guidances_act_twice(kind: Any):
    sampling = Sampling(STEPS, SCALE, 1.0, tuning=Tuning(guidance=kind))
    first, second = guidances(sampling)
    assert first is second


def test_the_running_average_counts_each_step_once():
    first, second = guidances(Sampling(STEPS, SCALE, 1.0))
    assert first is not None and second is not None
    conditional, null = torch.ones(SHAPE), torch.zeros(SHAPE)
    alone = guidances(Sampling(STEPS, SCALE, 1.0))[0]
    assert alone is not None
    for _ in range(2):
        expected = alone(conditional, null, conditional, 0.5)
        found = first(conditional, null, conditional, 0.5)
        second(conditional, 5 * null, conditional, 0.4)
    assert torch.equal(found, expected)
