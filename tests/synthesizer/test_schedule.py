from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acestep.domain.song import Sampling
from acestep.errors import InvalidFieldError
from acestep.synthesizer.schedule import (
    base_times,
    begun,
    free_times,
    nearest_turbo_times,
    times,
    turbo_times,
)

TABLES = {
    1.0: (1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0),
    2.0: (1, 14 / 15, 6 / 7, 10 / 13, 2 / 3, 6 / 11, 0.4, 2 / 9, 0),
    3.0: (1, 21 / 22, 0.9, 5 / 6, 0.75, 9 / 14, 0.5, 0.3, 0),
}


@pytest.mark.parametrize("shift", TABLES)
def test_turbo_tables(shift):
    assert turbo_times(8, shift) == pytest.approx(TABLES[shift])


@pytest.mark.parametrize(("asked", "used"), [(0.2, 1.0), (1.4, 1.0), (2.2, 2.0), (2.6, 3.0), (5.0, 3.0)])
def test_turbo_takes_the_nearest_shift(asked, used):
    assert turbo_times(8, asked) == turbo_times(8, used)


def test_turbo_with_fewer_steps_keeps_to_times_it_knows():
    known = {t for table in TABLES.values() for t in table}
    for steps in range(1, 8):
        schedule = turbo_times(steps, 3.0)
        assert len(schedule) == steps + 1
        assert all(min(abs(t - k) for k in known) < 1e-9 for t in schedule)


@pytest.mark.parametrize("steps", [0, 9])
def test_turbo_refuses_steps_it_does_not_have(steps):
    with pytest.raises(InvalidFieldError, match=r"inference_steps.*1 to 8"):
        turbo_times(steps, 3.0)


def test_free_times_move_to_the_nearest_that_turbo_knows():
    asked = (0.97, 0.76, 0.615, 0.5, 0.395, 0.28, 0.18, 0.085, 0.0)
    assert nearest_turbo_times(free_times(asked)) == pytest.approx(
        (21 / 22, 10 / 13, 0.625, 0.5, 0.4, 0.3, 2 / 9, 0.125, 0)
    )


def test_free_times_that_meet_become_one_step():
    assert nearest_turbo_times((0.51, 0.5, 0.0)) == (0.5, 0.0)


@pytest.mark.parametrize("zeros", [(), (0.0,), (0.0, 0.0)])
def test_zeros_at_the_end_do_not_matter(zeros):
    assert free_times((1.0, 0.4, *zeros)) == (1.0, 0.4, 0.0)


@pytest.mark.parametrize(
    "timesteps",
    [(), (0.0,), (1.2, 0.5), (0.5, -0.1), (0.5, 0.5), (0.3, 0.5), (0.5, 0.0, 0.3), (float("nan"),)],
)
def test_free_times_that_make_no_sense_are_refused(timesteps):
    with pytest.raises(InvalidFieldError, match="timesteps"):
        free_times(timesteps)


def test_base_visits_as_many_free_times_as_it_is_given():
    many = tuple(t / 100 for t in range(100, 0, -1))
    asked = Sampling(steps=8, guidance_scale=1.0, shift=1.0, timesteps=many)
    assert times(asked, is_turbo=False) == (*many, 0.0)


def test_base_times():
    assert base_times(4, 1.0) == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert base_times(4, 3.0) == pytest.approx((1.0, 0.9, 0.75, 0.5, 0.0))
    with pytest.raises(InvalidFieldError, match="inference_steps"):
        base_times(0, 1.0)


@given(st.integers(1, 200), st.floats(1.0, 5.0))
def test_base_times_fall_from_one_to_zero(steps, shift):
    schedule = base_times(steps, shift)
    assert (schedule[0], schedule[-1], len(schedule)) == (1.0, 0.0, steps + 1)
    assert list(schedule) == sorted(set(schedule), reverse=True)


def test_free_times_are_taken_as_they_are_on_base_and_moved_on_turbo():
    sampling = Sampling(steps=8, guidance_scale=1.0, shift=1.0, timesteps=(0.97, 0.51))
    assert times(sampling, is_turbo=False) == (0.97, 0.51, 0.0)
    assert times(sampling, is_turbo=True) == pytest.approx((21 / 22, 0.5, 0.0))


def test_stochastic_steps_are_equal_on_base_and_the_table_on_turbo():
    stochastic = Sampling(steps=4, guidance_scale=1.0, shift=3.0, infer_method="sde")
    assert times(stochastic, is_turbo=False) == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert times(replace(stochastic, steps=8), is_turbo=True) == turbo_times(8, 3.0)
    assert times(replace(stochastic, timesteps=(0.9, 0.4)), is_turbo=False) == (0.9, 0.4, 0.0)


def test_each_kind_of_model_has_its_schedule():
    sampling = Sampling(steps=8, guidance_scale=1.0, shift=2.4)
    assert times(sampling, is_turbo=False) == base_times(8, 2.4)
    assert times(sampling, is_turbo=True) == turbo_times(8, 2.0)


@pytest.mark.parametrize(
    ("strength", "left"),
    [
        (0.0, (1.0, 0.75, 0.5, 0.25, 0.0)),
        (0.3, (0.75, 0.5, 0.25, 0.0)),
        (0.9, (0.25, 0.0)),
        (1.0, (0.25, 0.0)),
    ],
)
def test_a_song_that_starts_at_its_source_skips_the_first_steps(strength, left):
    assert begun((1.0, 0.75, 0.5, 0.25, 0.0), strength) == left
