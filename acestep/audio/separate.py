"""What is left of a song without one of its tracks."""

from __future__ import annotations

import numpy as np

from acestep.domain.song import AudioClip


def without(clip: AudioClip, track: AudioClip) -> AudioClip:
    """`clip` less `track`, at the level at which least is left of it; both have the same rate.

    A track that was extracted has another level than in the song.
    """
    length = min(clip.samples.shape[1], track.samples.shape[1])
    part, whole = track.samples[:, :length], clip.samples[:, :length]
    power = float(np.vdot(part, part))
    samples = clip.samples.copy()
    if power > 0.0:
        samples[:, :length] -= np.float32(float(np.vdot(part, whole)) / power) * part
    return AudioClip(samples, clip.sample_rate)
