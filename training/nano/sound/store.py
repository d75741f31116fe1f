"""Rendered pieces on disk: a folder of FLAC stems each, rendered once and then read."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from rich.progress import track

from training.nano.music.composer import compose
from training.nano.music.piece import Piece, Wish
from training.nano.sound.mixing import SAMPLE_RATE, Audio, mix, total

if TYPE_CHECKING:
    from training.nano.sound.synth import StemSynth

_ANY = Wish()
_SCORE = "piece.pickle"


@dataclass(frozen=True, slots=True)
class Order:
    """A piece to compose and render; `font` is the number of its SoundFont."""

    seed: int
    seconds: float
    wish: Wish = _ANY
    font: int = 0

    @property
    def name(self) -> str:
        return f"{self.seed:07d}-{zlib.crc32(repr(self).encode()):08x}"


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """A piece and its stems at `SAMPLE_RATE`, `[2, samples]` each; their sum is the mix."""

    piece: Piece
    stems: dict[str, Audio]

    @property
    def mix(self) -> Audio:
        return total(self.stems)


def render(piece: Piece, synth: StemSynth) -> Rendered:
    """Play a piece."""
    raw = [(stem, synth.render(piece, stem)) for stem in piece.stems]
    return Rendered(piece, mix(raw, SAMPLE_RATE, ends=piece.facts.place.ends))


class Store:
    """A folder of rendered pieces."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, order: Order) -> bool:
        return (self._folder / order.name).is_dir()

    def read(self, order: Order) -> Rendered:
        folder = self._folder / order.name
        piece: Piece = pickle.loads((folder / _SCORE).read_bytes())
        stems = {}
        for stem in piece.stems:
            samples, _ = soundfile.read(folder / f"{stem.name}.flac", dtype="float32", always_2d=True)
            stems[stem.name] = np.ascontiguousarray(samples.T)
        return Rendered(piece, stems)

    def write(self, order: Order, rendered: Rendered) -> None:
        partial = self._folder / f"{order.name}.{os.getpid()}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        (partial / _SCORE).write_bytes(pickle.dumps(rendered.piece))
        for name, audio in rendered.stems.items():
            soundfile.write(partial / f"{name}.flac", audio.T, SAMPLE_RATE, subtype="PCM_16")
        partial.rename(self._folder / order.name)


def fill(store: Store, orders: Sequence[Order], processes: int) -> None:
    """Render what is missing; an interrupted run goes on where it stopped."""
    missing = [order for order in orders if not store.has(order)]
    chunks = [(store, chunk) for chunk in _chunks(missing)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for _ in track(pool.imap_unordered(_render_chunk, chunks), "rendering", total=len(chunks)):
            pass


def _chunks(orders: Sequence[Order]) -> Iterator[list[Order]]:
    for font in sorted({order.font for order in orders}):
        own = [order for order in orders if order.font == font]
        yield from (own[start : start + 20] for start in range(0, len(own), 20))


def _render_chunk(job: tuple[Store, list[Order]]) -> None:
    from training.nano.sound.synth import SOUNDFONTS, StemSynth  # FluidSynth is not needed to read or test

    store, orders = job
    with StemSynth(SOUNDFONTS[orders[0].font]) as synth:
        for order in orders:
            store.write(order, render(compose(order.seed, order.seconds, order.wish), synth))
