from __future__ import annotations

import numpy as np
import pytest

from acestep.audio.stereo import stereo_matrix

SURROUND = ["FL", "FR", "FC", "LFE", "BL", "BR"]


def test_stereo_passes_as_it_is() -> None:
    assert np.array_equal(stereo_matrix(["FL", "FR"]), np.eye(2))


def test_swapped_stereo_is_put_right() -> None:
    assert np.array_equal(stereo_matrix(["FR", "FL"]), [[0, 1], [1, 0]])


@pytest.mark.parametrize("name", ["FC", "FL", "LFE", "NONE"])
def test_mono_is_heard_on_both_sides_at_full_level(name: str) -> None:
    assert np.array_equal(stereo_matrix([name]), [[1, 1]])


def test_surround_keeps_its_sides_its_balance_and_its_range() -> None:
    left, right, centre, bass, rear_left, rear_right = stereo_matrix(SURROUND)
    assert left[1] == right[0] == rear_left[1] == rear_right[0] == 0
    assert left[0] == right[1]
    assert centre == pytest.approx([left[0] * 2**-0.5] * 2)
    assert rear_left[0] == rear_right[1] == pytest.approx(left[0] * 2**-0.5)
    assert not bass.any()
    assert stereo_matrix(SURROUND).sum(axis=0) == pytest.approx([1, 1])


def test_channels_without_names_have_the_order_of_wave() -> None:
    assert np.array_equal(stereo_matrix(["NONE"] * 2), np.eye(2))
    assert np.array_equal(stereo_matrix(["NONE"] * 6), stereo_matrix(SURROUND))


def test_more_channels_than_have_names_go_to_the_middle() -> None:
    ninth = stereo_matrix(["NONE"] * 9)[8]
    assert ninth[0] == ninth[1] > 0
