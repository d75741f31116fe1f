import math

import pytest
import torch

from acestep.errors import JobCancelledError
from acestep.synthesizer.sampler import Noise, Step, euler, held, heun, renoising, sample, smoothed


def never() -> bool:
    return False


def test_steps_follow_the_velocity_down_to_zero():
    visited = []

    def velocity(latents, t):
        visited.append((t, latents.item()))
        return latents * 2

    out = sample(velocity, euler, torch.ones(1, 1, 1), (1.0, 0.75, 0.0), lambda done, of: None, never)

    assert visited == [(1.0, 1.0), (0.75, 0.5)]
    assert out.item() == 0.5 - 2 * 0.5 * 0.75


def test_a_constant_velocity_arrives_whatever_the_schedule():
    noise, music = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    for times in ((1.0, 0.0), (1.0, 0.9, 0.3, 0.0)):
        out = sample(lambda x, t: noise - music, euler, noise, times, lambda done, of: None, never)
        torch.testing.assert_close(out, music)


def test_each_step_is_told():
    told = []
    sample(
        lambda x, t: x,
        euler,
        torch.zeros(1, 1, 1),
        (1.0, 0.5, 0.2, 0.0),
        lambda done, of: told.append((done, of)),
        never,
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_cancelled_job_stops_before_its_next_step():
    steps = []

    with pytest.raises(JobCancelledError):
        sample(
            lambda x, t: x,
            euler,
            torch.zeros(1, 1, 1),
            (1.0, 0.5, 0.2, 0.0),
            lambda done, of: steps.append(done),
            lambda: len(steps) == 2,
        )
    assert steps == [1, 2]


def streams(*seeds: int) -> Noise:
    return Noise(seeds, 6, 4, torch.device("cpu"))


def by_torch(seed: int, draws: int) -> list[torch.Tensor]:
    generator = torch.Generator("cpu").manual_seed(seed)
    return [torch.randn(1, 6, 4, generator=generator) for _ in range(draws)]


def test_stochastic_steps_leave_the_data_for_fresh_noise():
    noise = streams(5)
    first, second, third = by_torch(5, 3)
    visited = []

    def velocity(latents, t):
        visited.append(latents)
        return 2 * latents + t

    out = sample(
        velocity, renoising(noise), noise.draw(), (1.0, 0.75, 0.5, 0.0), lambda done, of: None, never
    )

    def data(latents: torch.Tensor, t: float) -> torch.Tensor:
        return latents - t * (2 * latents + t)

    half_way = 0.25 * data(first, 1.0) + 0.75 * second
    further = 0.5 * data(half_way, 0.75) + 0.5 * third
    torch.testing.assert_close(torch.cat(visited), torch.cat([first, half_way, further]))
    torch.testing.assert_close(out, data(further, 0.5))


def test_stochastic_steps_end_at_the_data_without_noise():
    noise, music = streams(1, 2), torch.randn(2, 6, 4)
    out = sample(
        lambda x, t: (x - music) / t,
        renoising(noise),
        noise.draw(),
        (1.0, 0.6, 0.1, 0.0),
        lambda done, of: None,
        never,
    )
    torch.testing.assert_close(out, music)


def test_noise_is_the_seed_and_nothing_else():
    noise = streams(2**32 - 1)
    torch.rand(3)
    assert torch.equal(noise.draw(), by_torch(2**32 - 1, 1)[0])
    assert not torch.equal(streams(0).draw(), streams(1).draw())


def test_noise_is_the_same_while_another_model_is_being_loaded():
    expected = Noise([3], 5, 2, torch.device("cpu")).draw()
    torch.set_default_dtype(torch.bfloat16)
    try:
        noise = Noise([3], 5, 2, torch.device("cpu")).draw()
    finally:
        torch.set_default_dtype(torch.float32)
    assert noise.dtype == torch.float32 and torch.equal(noise, expected)


def test_a_song_draws_the_same_noise_alone_and_among_others():
    together = streams(3, 7, 7)
    for first, second in zip(by_torch(3, 2), by_torch(7, 2), strict=True):
        assert torch.equal(together.draw(), torch.cat([first, second, second]))


def test_held_steps_put_the_source_back_as_noisy_as_the_rest():
    """Of two frames the second is free; the source is held on the steps that begin above 0.5."""
    noise, source = torch.full((1, 2, 1), 8.0), torch.full((1, 2, 1), 4.0)
    seen = []

    def velocity(latents, t):
        seen.append(latents.flatten().tolist())
        return torch.full_like(latents, 10.0)

    step = held(euler, source, torch.tensor([[0.0, 1.0]]), noise, 0.5)
    out = sample(velocity, step, noise, (1.0, 0.75, 0.5, 0.25, 0.0), lambda done, of: None, never)

    assert seen == [[8.0, 8.0], [7.0, 5.5], [6.0, 3.0], [3.5, 0.5]]
    assert out.flatten().tolist() == [1.0, -2.0]


def test_held_to_the_end_the_rest_is_the_source():
    noise, source = streams(1).draw(), torch.randn(1, 6, 4)
    free = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0, 0.0]])
    for first in (euler, renoising(streams(1))):
        out = sample(
            lambda x, t: x,
            held(first, source, free, noise, 0.0),
            noise,
            (1.0, 0.5, 0.0),
            lambda done, of: None,
            never,
        )
        assert torch.equal(out[:, [0, 1, 4, 5]], source[:, [0, 1, 4, 5]])
        assert not torch.isclose(out[:, 2:4], source[:, 2:4]).all()


def growth(latents: torch.Tensor, t: float) -> torch.Tensor:
    return latents


def arrival(step: Step, steps: int) -> float:
    """Where dx/dt = x leads, from 1 at time 1 to time 0.2."""
    times = [1.0 - 0.8 * number / steps for number in range(steps + 1)]
    start = torch.ones(1, 1, 1, dtype=torch.float64)
    return sample(growth, step, start, times, lambda done, of: None, never).item()


@pytest.mark.parametrize(("step", "ratio"), [(euler, 2.0), (heun(growth), 4.0)], ids=["euler", "heun"])
def test_half_the_step_is_half_the_error_or_at_second_order_a_quarter(step: Step, ratio: float):
    coarse, fine = (abs(arrival(step, steps) - math.exp(-0.8)) for steps in (8, 16))
    assert coarse / fine == pytest.approx(ratio, rel=0.15)


def test_the_last_step_does_not_look_ahead():
    asked = []

    def velocity(latents, t):
        asked.append(t)
        return latents

    sample(velocity, heun(velocity), torch.ones(1, 1, 1), (1.0, 0.5, 0.0), lambda done, of: None, never)
    assert asked == [1.0, 0.5, 0.5]


def test_velocities_are_a_running_average():
    smooth = smoothed(torch.full_like, 0.25)
    found = [smooth(torch.zeros(1), t).item() for t in (1.0, 0.5, 0.0)]
    assert found == [1.0, 0.75 * 0.5 + 0.25 * 1.0, 0.25 * 0.625]
