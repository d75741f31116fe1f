"""What the model sees: crops of rendered pieces, transposed and stretched as latents, and described."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acestep.codec.sine_bank import SineBankConfig
from acestep.domain.song import (
    HINTED_INSTRUCTION,
    INSTRUMENTAL,
    LANGUAGES,
    MAX_DURATION,
    MIN_DURATION,
    TEXT2MUSIC_INSTRUCTION,
    Sampling,
    SongPlan,
)
from training.nano.captions import caption, metas
from training.nano.composer import MAX_BPM, MIN_BPM, Piece
from training.nano.theory import transpose_key

FRAME_RATE = 25
_HINTED = 0.25  # share of the songs that are made from codes
_UNUSED = Sampling(steps=1, guidance_scale=1.0, shift=1.0)  # no text depends on it

# In decibels; the pool is kept unscaled, so that the scaling can be measured on it.
RAW = SineBankConfig(tone_mean_db=0.0, tone_std_db=1.0, noise_mean_db=0.0, noise_std_db=1.0)


@dataclass(frozen=True, slots=True)
class Clip:
    """One rendered piece: its score's facts (notes left out) and its latents in dB, `[T, C]`."""

    piece: Piece
    decibels: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Example:
    """A crop of a piece as the model sees it: `decibels` `[T, C]`, and the plan that asks for it.

    `piece` tells what is true of it, whether the plan says so or not.
    """

    decibels: Tensor
    plan: SongPlan
    piece: Piece


def measure_scale(clips: list[Clip]) -> SineBankConfig:
    """The codec configuration whose latents have mean 0 and deviation 1 on these clips."""
    sample = np.concatenate(
        [clip.decibels.astype(np.float32) for clip in clips[:: max(1, len(clips) // 300)]]
    )
    tone, noise = np.split(sample, [RAW.semitones], axis=1)
    return dataclasses.replace(
        RAW,
        tone_mean_db=round(float(tone.mean()), 2),
        tone_std_db=round(float(tone.std()), 2),
        noise_mean_db=round(float(noise.mean()), 2),
        noise_std_db=round(float(noise.std()), 2),
    )


def examples(clips: list[Clip], frames: int, rng: random.Random) -> Iterator[Example]:
    """An endless stream of crops of `frames` frames, each transposed, stretched and described anew."""
    while True:
        clip = rng.choice(clips)
        piece, decibels = _crop(clip, frames, rng)
        if decibels is None:
            continue
        piece, decibels = _transpose(piece, decibels, rng.randint(-5, 6))
        yield Example(decibels, _plan(piece, frames, rng), piece)


def plans(clips: list[Clip], rng: random.Random) -> Iterator[tuple[Piece, SongPlan]]:
    """An endless stream of descriptions without music: pieces at any tempo and in any key."""
    while True:
        piece = rng.choice(clips).piece
        key = transpose_key(piece.key_scale, rng.randint(0, 11))
        piece = dataclasses.replace(piece, bpm=rng.randint(MIN_BPM, MAX_BPM), key_scale=key)
        yield piece, _plan(piece, 0, rng)


def _plan(piece: Piece, frames: int, rng: random.Random) -> SongPlan:
    # The length that is asked for says nothing about the music: half the time it is any length.
    seconds = frames // FRAME_RATE
    if not seconds or rng.random() < 0.5:
        seconds = rng.randint(int(MIN_DURATION), int(MAX_DURATION))
    given = metas(piece, rng)
    # Nano cannot sing: a language is to make no difference.
    language = rng.choice(LANGUAGES) if rng.random() < 0.3 else rng.choice(("en", "unknown"))
    return SongPlan(
        caption=caption(piece, rng),
        lyrics=INSTRUMENTAL,
        language=language,
        duration=float(seconds),
        seed=0,
        instruction=HINTED_INSTRUCTION if rng.random() < _HINTED else TEXT2MUSIC_INSTRUCTION,
        sampling=_UNUSED,
        bpm=given.bpm,
        key_scale=given.key_scale,
        time_signature=given.time_signature,
    )


def _crop(clip: Clip, frames: int, rng: random.Random) -> tuple[Piece, Tensor | None]:
    """`frames` frames from a bar line on, played a little faster or slower, by whole beats a minute.

    Songs begin on the downbeat. None where the piece is too short for this tempo.
    """
    piece = clip.piece
    bpm = min(MAX_BPM, max(MIN_BPM, round(piece.bpm * rng.uniform(0.92, 1.08))))
    bar = int(piece.time_signature) * 60.0 / piece.bpm * FRAME_RATE
    length = round(frames * bpm / piece.bpm)
    start = round(rng.randint(0, int(max(0, len(clip.decibels) - length) / bar)) * bar)
    source = torch.from_numpy(clip.decibels[start : start + length].astype(np.float32))
    if len(source) < length:
        return piece, None
    played = torch.nn.functional.interpolate(source.T[None], size=frames, mode="linear")[0].T
    return dataclasses.replace(piece, bpm=bpm), played


def _transpose(piece: Piece, decibels: Tensor, semitones: int) -> tuple[Piece, Tensor]:
    tone, noise = decibels[:, : RAW.semitones], decibels[:, RAW.semitones :]
    moved = torch.full_like(tone, RAW.floor_db)
    if semitones >= 0:
        moved[:, semitones:] = tone[:, : RAW.semitones - semitones]
    else:
        moved[:, :semitones] = tone[:, -semitones:]
    key = transpose_key(piece.key_scale, semitones)
    return dataclasses.replace(piece, key_scale=key), torch.cat([moved, noise], dim=1)
