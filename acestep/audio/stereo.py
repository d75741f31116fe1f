"""Any channels to stereo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# How loud each of FFmpeg's channels is heard left and right (ITU-R BS.775: centre and surrounds at -3 dB,
# no LFE).
_HALF_POWER = 2**-0.5
_GAINS = {
    "FL": (1.0, 0.0),
    "FR": (0.0, 1.0),
    "FC": (_HALF_POWER, _HALF_POWER),
    "LFE": (0.0, 0.0),
    "BL": (_HALF_POWER, 0.0),
    "BR": (0.0, _HALF_POWER),
    "SL": (_HALF_POWER, 0.0),
    "SR": (0.0, _HALF_POWER),
}
_OTHER = (0.5, 0.5)
# A file that does not name its channels has them in this order (the one of WAVE).
_WAVE_ORDER = ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR")


def stereo_matrix(names: Sequence[str]) -> NDArray[np.float32]:
    """`[channels, 2]`: how much of each channel goes left and right, for `[samples, channels] @ matrix`.

    `names` are FFmpeg's. Mono is heard on both sides as it is. What was within -1..1 in every channel still
    is after the mix.
    """
    if len(names) == 1:
        return np.ones((1, 2), np.float32)
    if not _GAINS.keys() & set(names):
        names = [*_WAVE_ORDER[: len(names)], *names[len(_WAVE_ORDER) :]]
    gains = np.array([_GAINS.get(name, _OTHER) for name in names], np.float32)
    return gains / np.float32(max(1.0, gains.sum(axis=0).max()))
