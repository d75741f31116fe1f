"""Reads the audio files of a request into source latents."""

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

_PIECES = 3  # of a reference: its front, middle and back, as in the training of the published models


def load_inputs(
    request: SongRequest, model: ModelInfo, renderer: Renderer
) -> tuple[SongRequest, SourceLatents]:
    """The request with the lengths that its source decides, and the latents of its files.

    Blocking. Raises UnusableAudioError where a file cannot be used.
    """
    source = reference = kept = None
    if request.task.source:
        clip = read(Path(request.task.source), renderer.sample_rate, MAX_DURATION)
        request = with_source(request, clip.duration, model)
        clip = padded(request, clip)
        source = renderer.encode(clip)
        kept = clip if window_of(request) or request.task.rest else None
    if request.task.reference:
        clip = read(Path(request.task.reference), renderer.sample_rate, MAX_DURATION)
        reference = renderer.encode(excerpt(clip, renderer.reference_seconds))
    return request, SourceLatents(source, reference, kept)


def padded(request: SongRequest, clip: AudioClip) -> AudioClip:
    """The source, padded with silence where the window of the request reaches beyond it."""
    entry = window_of(request)
    if entry is None or request.duration is None:
        return clip
    before = round(entry.source_start * clip.sample_rate)
    after = round(request.duration * clip.sample_rate) - before - clip.samples.shape[1]
    return AudioClip(np.pad(clip.samples, ((0, 0), (before, max(0, after)))), clip.sample_rate)


def excerpt(clip: AudioClip, seconds: float) -> AudioClip:
    """The middle of each third of a clip, `seconds` in all. A clip that is too short is repeated first."""
    length = round(seconds * clip.sample_rate)
    samples = np.tile(clip.samples, max(1, -(-length // clip.samples.shape[1])))
    third, piece = samples.shape[1] // _PIECES, length // _PIECES
    starts = (number * third + (third - piece) // 2 for number in range(_PIECES))
    pieces = [samples[:, start : start + piece] for start in starts]
    return AudioClip(np.concatenate(pieces, axis=1), clip.sample_rate)
