"""What nano's codecs keep of real rendered pieces, beside their size and speed.

    uv run --group training python -m benchmarks.nano_codecs

The detector has heard no codec: its marks are for comparing codecs with each other.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from librosa.feature import melspectrogram
from librosa.onset import onset_detect, onset_strength
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from acestep.codec.codec import Codec
from acestep.codec.sine_bank import SineBankCodec, SineBankConfig
from acestep.codec.tone_noise import ToneNoiseCodec, ToneNoiseConfig
from benchmarks.nano_detector import NAMED, PLAYS, Detector, solo_is
from benchmarks.nano_scores import chroma_similarity
from training.nano.music.composer import compose
from training.nano.music.instruments import INSTRUMENTS
from training.nano.music.piece import DRUMS, Wish
from training.nano.sound.mixing import SAMPLE_RATE
from training.nano.sound.store import Rendered, render

_SEED = 3_000_000
_SECONDS = 12.0
_ONSET_HOP = 240  # 5 ms
_TOLERANCE = 0.025  # seconds
_WINDOWS = ((512, 40), (2048, 80), (8192, 80))  # of the spectral distance, and their mel bands

Sound = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left of one piece; None where it cannot be told."""

    chroma: float | None
    onsets: float
    distance: float
    solo: float | None
    band: float | None
    drums: float


def candidates() -> dict[str, Codec]:
    """The old codec, the new one, and the new one with a part left out or other sizes."""
    config = ToneNoiseConfig()
    few = (0.0, 120.0, 300.0, 700.0, 1_500.0, 3_000.0, 6_000.0, 10_000.0, 24_000.0)
    narrow = {"level_mean_db": config.level_mean_db[:8], "share_mean_db": config.share_mean_db[:8]}
    others = {
        "tones and noise": config,
        "floor at -60 dB": dataclasses.replace(config, floor_db=-60.0),
        "8 bands": dataclasses.replace(config, band_edges_hz=few, **narrow),  # type: ignore[arg-type]
        "2 parts a frame": dataclasses.replace(config, parts=2),
        "88 tones": dataclasses.replace(config, semitones=88),
        "bass windows of 0.5 s": dataclasses.replace(config, longest_window=0.5),
    }
    return {
        "sine bank": SineBankCodec(SineBankConfig()),
        **{name: ToneNoiseCodec(other) for name, other in others.items()},
    }


def pieces() -> list[Rendered]:
    """13 solos, 3 pieces of drums, 14 bands."""
    from training.nano.sound.synth import SOUNDFONTS, StemSynth

    wishes = [Wish(ensemble=(name,), drums=False) for name in list(INSTRUMENTS)[::3]]
    wishes += [Wish(ensemble=())] * 3
    wishes += [Wish(drums=number % 3 > 0) for number in range(14)]
    with StemSynth(SOUNDFONTS[0]) as synth:
        return [
            render(compose(_SEED + number, _SECONDS, wish), synth)
            for number, wish in enumerate(track(wishes, "rendering"))
        ]


def onsets(mono: Sound) -> NDArray[np.float64]:
    """Seconds at which something begins."""
    strength = onset_strength(y=mono, sr=SAMPLE_RATE, hop_length=_ONSET_HOP, n_fft=1024, n_mels=64)
    found: NDArray[np.float64] = onset_detect(
        onset_envelope=strength, sr=SAMPLE_RATE, hop_length=_ONSET_HOP, units="time", delta=0.1, wait=8
    )
    return found


def onset_score(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """F1 of onsets within the tolerance; each is found once."""
    if not len(wanted) or not len(found):
        return float(len(wanted) == len(found))
    taken: set[int] = set()
    for onset in wanted:
        nearest = int(np.abs(found - onset).argmin())
        if abs(found[nearest] - onset) <= _TOLERANCE:
            taken.add(nearest)
    return 2 * len(taken) / (len(wanted) + len(found))


def spectral_distance(one: Sound, other: Sound) -> float:
    """Mean difference in dB of mel spectra of three window lengths."""
    distances = []
    for window, bands in _WINDOWS:
        powers = [
            melspectrogram(y=mono, sr=SAMPLE_RATE, n_fft=window, hop_length=window // 4, n_mels=bands)
            for mono in (one, other)
        ]
        floor = 1e-6 * powers[0].max()
        levels = [10 * np.log10(power + floor) for power in powers]
        distances.append(float(np.abs(levels[0] - levels[1]).mean()))
    return sum(distances) / len(distances)


def kept(rendered: Rendered, sound: Sound, detector: Detector) -> Kept:
    """What `sound` has of a piece."""
    facts, mix = rendered.piece.facts, rendered.mix
    sure = detector.probabilities(sound)
    named = [float(sure[name] > NAMED) for name in facts.instruments]
    return Kept(
        chroma=chroma_similarity(mix, sound) if facts.key_scale else None,
        onsets=onset_score(onsets(mix.mean(axis=0)), onsets(sound.mean(axis=0))),
        distance=spectral_distance(mix.mean(axis=0), sound.mean(axis=0)),
        solo=float(solo_is(sure, facts.solo)) if facts.solo else None,
        band=sum(named) / len(named) if named and not facts.solo else None,
        drums=float((sure[DRUMS] > PLAYS) == facts.has_drums),
    )


def mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


def main() -> None:
    """Entry point."""
    torch.set_num_threads(1)
    made, detector = pieces(), Detector.load()
    table = Table("codec", "channels", "chroma", "onsets", "dB", "solos", "bands", "drums", "ms/s in", "out")
    found = [kept(piece, piece.mix, detector) for piece in made]
    _row(table, "the pieces themselves", found, ("", "", ""))
    for name, codec in candidates().items():
        found, inward, outward = [], 0.0, 0.0
        for piece in track(made, name):
            started = time.process_time()
            latents = codec.encode(torch.from_numpy(piece.mix)[None])
            encoded = time.process_time()
            sound = codec.decode(latents)[0].numpy()
            inward, outward = inward + encoded - started, outward + time.process_time() - encoded
            found.append(kept(piece, sound, detector))
        seconds = len(made) * _SECONDS
        speeds = (f"{1e3 * inward / seconds:.1f}", f"{1e3 * outward / seconds:.1f}")
        _row(table, name, found, (str(codec.latent_channels), *speeds))
    Console(width=120).print(table)


def _row(table: Table, name: str, found: Sequence[Kept], costs: tuple[str, str, str]) -> None:
    channels, inward, outward = costs
    fields = ("chroma", "onsets", "distance", "solo", "band", "drums")
    values = [f"{mean([getattr(each, field) for each in found]):.2f}" for field in fields]
    table.add_row(name, channels, *values, inward, outward)


if __name__ == "__main__":
    main()
