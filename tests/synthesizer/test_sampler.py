import pytest
import torch

from acestep.errors import JobCancelledError
from acestep.synthesizer.sampler import draw_noise, sample


def never() -> bool:
    return False


def test_steps_follow_the_velocity_down_to_zero():
    visited = []

    def velocity(latents, t):
        visited.append((t, latents.item()))
        return latents * 2

    out = sample(velocity, torch.ones(1, 1, 1), (1.0, 0.75, 0.0), lambda done, of: None, never)

    assert visited == [(1.0, 1.0), (0.75, 0.5)]
    assert out.item() == 0.5 - 2 * 0.5 * 0.75


def test_a_constant_velocity_arrives_whatever_the_schedule():
    noise, music = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    for times in ((1.0, 0.0), (1.0, 0.9, 0.3, 0.0)):
        out = sample(lambda x, t: noise - music, noise, times, lambda done, of: None, never)
        torch.testing.assert_close(out, music)


def test_each_step_is_told():
    told = []
    sample(
        lambda x, t: x,
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
            torch.zeros(1, 1, 1),
            (1.0, 0.5, 0.2, 0.0),
            lambda done, of: steps.append(done),
            lambda: len(steps) == 2,
        )
    assert steps == [1, 2]


def test_noise_is_the_seed_and_nothing_else():
    first = draw_noise(2**32 - 1, 6, 4)
    torch.rand(3)
    assert torch.equal(draw_noise(2**32 - 1, 6, 4), first)
    assert not torch.equal(draw_noise(0, 6, 4), first)
    assert first.shape == (1, 6, 4)
