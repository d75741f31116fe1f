import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acestep.domain.song import Retake, Sampling, WaveletCorrection
from acestep.errors import JobCancelledError
from acestep.synthesizer.sampler import (
    SeededNoise,
    SmoothedVelocity,
    Step,
    corrected_step,
    euler_step,
    heun_step,
    inpainting_step,
    limited_velocity,
    nearest_turbo_timesteps,
    sample,
    sde_step,
    shifted_timesteps,
    timestep_schedule,
    truncate_schedule,
    with_retakes,
)

TURBO_TABLES = {
    1.0: (1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0),
    2.0: (1, 14 / 15, 6 / 7, 10 / 13, 2 / 3, 6 / 11, 0.4, 2 / 9, 0),
    3.0: (1, 21 / 22, 0.9, 5 / 6, 0.75, 9 / 14, 0.5, 0.3, 0),
}


class TestSchedule:
    @pytest.mark.parametrize("shift", TURBO_TABLES)
    def test_turbo_tables(self, shift):
        sampling = Sampling(steps=8, guidance_scale=1.0, shift=shift)
        assert timestep_schedule(sampling, is_turbo=True) == pytest.approx(TURBO_TABLES[shift])

    def test_turbo_with_fewer_steps_keeps_to_the_times_of_its_tables(self):
        known = {t for table in TURBO_TABLES.values() for t in table}
        for steps in range(1, 8):
            schedule = timestep_schedule(Sampling(steps, 1.0, 3.0), is_turbo=True)
            assert len(schedule) == steps + 1
            assert all(min(abs(t - k) for k in known) < 1e-9 for t in schedule)

    def test_base_shifts_equal_steps(self):
        sampling = Sampling(steps=4, guidance_scale=1.0, shift=1.0)
        assert timestep_schedule(sampling, is_turbo=False) == (1.0, 0.75, 0.5, 0.25, 0.0)
        shifted = timestep_schedule(replace(sampling, shift=3.0), is_turbo=False)
        assert shifted == pytest.approx((1.0, 0.9, 0.75, 0.5, 0.0))

    @given(st.integers(1, 200), st.floats(1.0, 5.0))
    def test_base_falls_from_one_to_zero(self, steps, shift):
        schedule = shifted_timesteps(steps, shift)
        assert (schedule[0], schedule[-1], len(schedule)) == (1.0, 0.0, steps + 1)
        assert list(schedule) == sorted(set(schedule), reverse=True)

    def test_base_takes_given_timesteps_as_they_are(self):
        given = tuple(t / 100 for t in range(100, 0, -1))
        sampling = Sampling(steps=8, guidance_scale=1.0, shift=1.0, timesteps=given)
        assert timestep_schedule(sampling, is_turbo=False) == (*given, 0.0)

    def test_turbo_moves_given_timesteps_to_the_nearest_of_its_tables(self):
        given = (0.97, 0.76, 0.615, 0.5, 0.395, 0.28, 0.18, 0.085)
        sampling = Sampling(steps=8, guidance_scale=1.0, shift=1.0, timesteps=given)
        assert timestep_schedule(sampling, is_turbo=True) == pytest.approx(
            (21 / 22, 10 / 13, 0.625, 0.5, 0.4, 0.3, 2 / 9, 0.125, 0)
        )

    def test_timesteps_with_the_same_nearest_become_one_step(self):
        assert nearest_turbo_timesteps((0.51, 0.5, 0.0)) == (0.5, 0.0)

    @pytest.mark.parametrize(
        ("strength", "left"),
        [
            (0.0, (1.0, 0.75, 0.5, 0.25, 0.0)),
            (0.3, (0.75, 0.5, 0.25, 0.0)),
            (0.9, (0.25, 0.0)),
            (1.0, (0.25, 0.0)),
        ],
    )
    def test_a_song_that_starts_from_its_source_skips_the_first_steps(self, strength, left):
        assert truncate_schedule((1.0, 0.75, 0.5, 0.25, 0.0), strength) == left


def never() -> bool:
    return False


def ignore(done: int, of: int) -> None:
    pass


class TestLoop:
    def test_follows_the_velocity_to_zero(self):
        visited = []

        def velocity(latents, t):
            visited.append((t, latents.item()))
            return latents * 2

        out = sample(velocity, euler_step, torch.ones(1, 1, 1), (1.0, 0.75, 0.0), ignore, never)

        assert visited == [(1.0, 1.0), (0.75, 0.5)]
        assert out.item() == 0.5 - 2 * 0.5 * 0.75

    def test_a_constant_velocity_arrives_with_any_schedule(self):
        noise, music = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
        for schedule in ((1.0, 0.0), (1.0, 0.9, 0.3, 0.0)):
            out = sample(lambda x, t: noise - music, euler_step, noise, schedule, ignore, never)
            torch.testing.assert_close(out, music)

    def test_reports_each_step(self):
        calls = []
        sample(
            lambda x, t: x,
            euler_step,
            torch.zeros(1, 1, 1),
            (1.0, 0.5, 0.2, 0.0),
            lambda done, of: calls.append((done, of)),
            never,
        )
        assert calls == [(1, 3), (2, 3), (3, 3)]

    def test_a_cancelled_job_stops_before_its_next_step(self):
        steps = []

        with pytest.raises(JobCancelledError):
            sample(
                lambda x, t: x,
                euler_step,
                torch.zeros(1, 1, 1),
                (1.0, 0.5, 0.2, 0.0),
                lambda done, of: steps.append(done),
                lambda: len(steps) == 2,
            )
        assert steps == [1, 2]


def seeded(*seeds: int) -> SeededNoise:
    return SeededNoise(seeds, 6, 4, torch.device("cpu"))


def by_torch(seed: int, draws: int) -> list[torch.Tensor]:
    generator = torch.Generator("cpu").manual_seed(seed)
    return [torch.randn(1, 6, 4, generator=generator) for _ in range(draws)]


class TestNoise:
    def test_depends_on_the_seed_alone(self):
        noise = seeded(2**32 - 1)
        torch.rand(3)
        assert torch.equal(noise.draw(), by_torch(2**32 - 1, 1)[0])
        assert not torch.equal(seeded(0).draw(), seeded(1).draw())

    def test_of_a_song_is_the_same_in_every_batch(self):
        together = seeded(3, 7, 7)
        for first, second in zip(by_torch(3, 2), by_torch(7, 2), strict=True):
            assert torch.equal(together.draw(), torch.cat([first, second, second]))

    def test_is_float32_with_any_default_dtype(self):
        torch.set_default_dtype(torch.bfloat16)  # as vLLM sets it, for all threads
        try:
            drawn = seeded(5).draw()
        finally:
            torch.set_default_dtype(torch.float32)
        assert drawn.dtype == torch.float32
        assert torch.equal(drawn, by_torch(5, 1)[0])


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


def test_retakes_mix_noise_by_the_quarter_circle() -> None:
    own, other = (SeededNoise([seed], 5, 3, torch.device("cpu")).draw() for seed in (1, 9))
    noise = torch.cat([own, own, own])
    found = with_retakes(noise, [None, Retake(9, 1.0), Retake(9, 1 / 3)])
    assert torch.equal(found[0], own[0])
    torch.testing.assert_close(found[1], other[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[2], math.sqrt(3) / 2 * own[0] + 0.5 * other[0])
