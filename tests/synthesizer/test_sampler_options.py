import math

import pytest
import torch

from acestep.domain.song import WaveletCorrection
from acestep.synthesizer.sampler import Step, euler_step, sample
from acestep.synthesizer.sampler_options import (
    SmoothedVelocity,
    corrected_step,
    heun_step,
    inpainting_step,
    limited_velocity,
    sde_step,
)
from tests.synthesizer.test_sampler import by_torch, ignore, never, seeded


class TestSdeStep:
    def test_goes_from_the_data_to_fresh_noise(self):
        noise = seeded(5)
        first, second, third = by_torch(5, 3)
        visited = []

        def velocity(latents, t):
            visited.append(latents)
            return 2 * latents + t

        out = sample(velocity, sde_step(noise), noise.draw(), (1.0, 0.75, 0.5, 0.0), ignore, never)

        def data(latents: torch.Tensor, t: float) -> torch.Tensor:
            return latents - t * (2 * latents + t)

        half_way = 0.25 * data(first, 1.0) + 0.75 * second
        further = 0.5 * data(half_way, 0.75) + 0.5 * third
        torch.testing.assert_close(torch.cat(visited), torch.cat([first, half_way, further]))
        torch.testing.assert_close(out, data(further, 0.5))

    def test_ends_at_the_data_without_noise(self):
        noise, music = seeded(1, 2), torch.randn(2, 6, 4)
        out = sample(
            lambda x, t: (x - music) / t, sde_step(noise), noise.draw(), (1.0, 0.6, 0.1, 0.0), ignore, never
        )
        torch.testing.assert_close(out, music)


class TestInpaintingStep:
    def test_puts_the_source_back_noised_to_the_next_time(self):
        """Of two frames the second is generated; steps that begin above 0.5 put the source back."""
        noise, source = torch.full((1, 2, 1), 8.0), torch.full((1, 2, 1), 4.0)
        seen = []

        def velocity(latents, t):
            seen.append(latents.flatten().tolist())
            return torch.full_like(latents, 10.0)

        step = inpainting_step(euler_step, source, torch.tensor([[0.0, 1.0]]), noise, 0.5)
        out = sample(velocity, step, noise, (1.0, 0.75, 0.5, 0.25, 0.0), ignore, never)

        assert seen == [[8.0, 8.0], [7.0, 5.5], [6.0, 3.0], [3.5, 0.5]]
        assert out.flatten().tolist() == [1.0, -2.0]

    def test_in_all_steps_leaves_the_source_outside_the_mask(self):
        noise, source = seeded(1).draw(), torch.randn(1, 6, 4)
        mask = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0, 0.0]])
        for first in (euler_step, sde_step(seeded(1))):
            step = inpainting_step(first, source, mask, noise, 0.0)
            out = sample(lambda x, t: x, step, noise, (1.0, 0.5, 0.0), ignore, never)
            assert torch.equal(out[:, [0, 1, 4, 5]], source[:, [0, 1, 4, 5]])
            assert not torch.isclose(out[:, 2:4], source[:, 2:4]).all()


def growth(latents: torch.Tensor, t: float) -> torch.Tensor:
    return latents


def integrate(step: Step, steps: int) -> float:
    """The solution of dx/dt = x at time 0.2, from 1 at time 1."""
    schedule = [1.0 - 0.8 * number / steps for number in range(steps + 1)]
    start = torch.ones(1, 1, 1, dtype=torch.float64)
    return sample(growth, step, start, schedule, ignore, never).item()


@pytest.mark.parametrize(
    ("step", "ratio"), [(euler_step, 2.0), (heun_step(growth), 4.0)], ids=["euler", "heun"]
)
def test_euler_is_of_first_order_and_heun_of_second(step: Step, ratio: float):
    coarse, fine = (abs(integrate(step, steps) - math.exp(-0.8)) for steps in (8, 16))
    assert coarse / fine == pytest.approx(ratio, rel=0.15)


def test_the_last_step_of_heun_is_eulers():
    times = []

    def velocity(latents, t):
        times.append(t)
        return latents

    sample(velocity, heun_step(velocity), torch.ones(1, 1, 1), (1.0, 0.5, 0.0), ignore, never)
    assert times == [1.0, 0.5, 0.5]


def test_a_smoothed_velocity_is_a_moving_average():
    smooth = SmoothedVelocity(torch.full_like, 0.25)
    found = [smooth(torch.zeros(1), t).item() for t in (1.0, 0.5, 0.0)]
    assert found == [1.0, 0.75 * 0.5 + 0.25 * 1.0, 0.25 * 0.625]


def haar_by_hand(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """`x` `[frames, 1]` with its two Haar bands multiplied, by the orthonormal transform written out."""
    frames = [*x.flatten().tolist(), *[0.0] * (len(x) % 2)]
    out = []
    for a, b in zip(frames[::2], frames[1::2], strict=True):
        mean, rest = low * (a + b) / math.sqrt(2), high * (a - b) / math.sqrt(2)
        out += [(mean + rest) / math.sqrt(2), (mean - rest) / math.sqrt(2)]
    return torch.tensor(out[: len(x)])[:, None]


@pytest.mark.parametrize("frames", [6, 7])
@pytest.mark.parametrize(
    ("correction", "low", "high"),
    [  # at time 0.8
        (WaveletCorrection("low", 0.05), 0.8 * 0.05, 0.0),
        (WaveletCorrection("high", 0.05, 0.3), 0.0, 0.2 * 0.05),
        (WaveletCorrection("double", 0.05, 0.02), 0.8 * 0.05, 0.2 * 0.02),
        (WaveletCorrection("pix", 0.05, 0.3), 0.05, 0.05),
    ],
)
def test_a_correction_moves_each_band_away_from_the_predicted_data(
    frames: int, correction: WaveletCorrection, low: float, high: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    latents, velocity = (torch.randn(1, frames, 1, generator=generator) for _ in range(2))
    ahead, data = latents - 0.3 * velocity, latents - 0.8 * velocity
    found = corrected_step(euler_step, correction)(latents, velocity, 0.8, 0.5)
    torch.testing.assert_close(found[0], ahead[0] + haar_by_hand((ahead - data)[0], low, high))


def test_a_correction_changes_nothing_in_the_last_step() -> None:
    latents, velocity = torch.ones(1, 4, 2), torch.full((1, 4, 2), 0.25)
    found = corrected_step(euler_step, WaveletCorrection())(latents, velocity, 0.5, 0.0)
    assert torch.equal(found, euler_step(latents, velocity, 0.5, 0.0))


@pytest.mark.parametrize(("limit", "factor"), [(0.5, 0.25), (2.0, 1.0), (3.0, 1.0)])
def test_a_velocity_is_limited_by_the_norm_of_its_own_song(limit: float, factor: float) -> None:
    # The first song's velocity has twice the norm of its latents, the second one's half of it.
    latents = torch.ones(2, 5, 3)
    velocity = torch.stack([torch.full((5, 3), 2.0), torch.full((5, 3), -0.5)])
    found = limited_velocity(lambda x, t: velocity, limit)(latents, 0.5)
    torch.testing.assert_close(found[0], velocity[0] * factor)
    torch.testing.assert_close(found[1], velocity[1])
