import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acestep.domain.song import Retake, Sampling
from acestep.errors import JobCancelledError
from acestep.synthesizer.sampler import (
    SeededNoise,
    euler_step,
    nearest_turbo_timesteps,
    sample,
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


def test_retakes_mix_noise_by_the_quarter_circle() -> None:
    own, other = (SeededNoise([seed], 5, 3, torch.device("cpu")).draw() for seed in (1, 9))
    noise = torch.cat([own, own, own])
    found = with_retakes(noise, [None, Retake(9, 1.0), Retake(9, 1 / 3)])
    assert torch.equal(found[0], own[0])
    torch.testing.assert_close(found[1], other[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[2], math.sqrt(3) / 2 * own[0] + 0.5 * other[0])
