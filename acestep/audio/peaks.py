"""The outline of a song, for pages that draw it."""

from __future__ import annotations

import numpy as np

from acestep.domain.song import AudioClip

_DECIMALS = 3  # a thousandth of a drawing's height is less than one of its pixels


def waveform_peaks(clip: AudioClip, points: int) -> tuple[tuple[float, float], ...]:
    """The lowest and highest sample of all channels in each of `points` pieces; fewer for a short clip."""
    lowest, highest = clip.samples.min(axis=0), clip.samples.max(axis=0)
    count = min(points, len(lowest))
    starts = np.arange(count) * len(lowest) // max(count, 1)
    if not count:
        return ()
    low = np.minimum.reduceat(lowest, starts).round(_DECIMALS)
    high = np.maximum.reduceat(highest, starts).round(_DECIMALS)
    # By way of text: the nearest double of 0.123 is written as 0.123, that of the float32 is not.
    return tuple((float(str(a)), float(str(b))) for a, b in zip(low, high, strict=True))
