"""From the audio files of a request to the latents that its songs are made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from acestep.audio.decode import read
from acestep.domain.latents import SourceLatents
from acestep.domain.models import ModelInfo
from acestep.domain.song import MAX_DURATION, AudioClip, SongRequest
from acestep.engine.planning import with_source
from acestep.engine.renderer import Renderer
from acestep.limits import window_of

_PIECES = 3  # front, middle and back of a reference, as the published models were trained


def load_inputs(
    request: SongRequest, model: ModelInfo, renderer: Renderer
) -> tuple[SongRequest, SourceLatents]:
    """Read the files of a request; returns it with what its source decides, and the latents.

    Blocking. Raises UnusableAudioError where a file is gone or cannot be used.
    """
    source = reference = None
    if request.task.source:
        clip = read(Path(request.task.source), renderer.sample_rate, MAX_DURATION)
        request = with_source(request, clip.duration, model)
        source = renderer.encode(grown(request, clip))
    if request.task.reference:
        clip = read(Path(request.task.reference), renderer.sample_rate, MAX_DURATION)
        reference = renderer.encode(excerpt(clip, renderer.reference_seconds))
    return request, SourceLatents(source, reference)


def grown(request: SongRequest, clip: AudioClip) -> AudioClip:
    """The source with silence before and after it, where the window of a request reaches beyond it."""
    entry = window_of(request)
    if entry is None or request.duration is None:
        return clip
    before = round(entry.source_start * clip.sample_rate)
    after = round(request.duration * clip.sample_rate) - before - clip.samples.shape[1]
    return AudioClip(np.pad(clip.samples, ((0, 0), (before, max(0, after)))), clip.sample_rate)


def excerpt(clip: AudioClip, seconds: float) -> AudioClip:
    """Front, middle and back of a clip, as long as each other, `seconds` together.

    Each comes from the middle of its third, so that the same file always gives the same excerpt. A clip that
    is too short is repeated first.
    """
    length = round(seconds * clip.sample_rate)
    samples = np.tile(clip.samples, max(1, -(-length // clip.samples.shape[1])))
    third, piece = samples.shape[1] // _PIECES, length // _PIECES
    starts = (number * third + (third - piece) // 2 for number in range(_PIECES))
    pieces = [samples[:, start : start + piece] for start in starts]
    return AudioClip(np.concatenate(pieces, axis=1), clip.sample_rate)
