"""Rendered pieces as latents on disk: the mix, each track alone, and the mix without it.

Values are those of the codec before scaling, so that the scale can be measured on them.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from acestep.codec.tone_noise import ToneNoiseCodec, ToneNoiseConfig
from training.nano.music.instruments import track_of
from training.nano.music.piece import Piece
from training.nano.orders import Family, orders
from training.nano.sound.mixing import Audio
from training.nano.sound.store import Order, Rendered, Store

MIX = "mix"
_MOST_RESTS = 2  # tracks of a piece that are also left out of the mix: each costs as much as the mix

_DEFAULT = ToneNoiseConfig()
RAW = dataclasses.replace(
    _DEFAULT,
    tone_mean_db=0.0,
    tone_std_db=1.0,
    level_mean_db=(0.0,) * _DEFAULT.bands,
    level_std_db=1.0,
    share_mean_db=(0.0,) * _DEFAULT.bands,
    share_std_db=1.0,
    pan_std=1.0,
)

Latents = NDArray[np.float16]  # [T, C]


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A piece and its latents: `MIX`; `of:` and a track alone, `but:` and the mix without that track."""

    piece: Piece
    latents: dict[str, Latents]

    @property
    def mix(self) -> Latents:
        return self.latents[MIX]

    @property
    def tracks(self) -> tuple[str, ...]:
        """The tracks that can be told apart; none where one is all there is."""
        return tuple(name.removeprefix("of:") for name in self.latents if name.startswith("of:"))

    @property
    def removable(self) -> tuple[str, ...]:
        return tuple(name.removeprefix("but:") for name in self.latents if name.startswith("but:"))


def code(rendered: Rendered, codec: ToneNoiseCodec, *, with_tracks: bool) -> Coded:
    """Encode a rendered piece."""
    sounds: dict[str, Audio] = {MIX: rendered.mix}
    tracks = tuple(dict.fromkeys(map(track_of, rendered.stems)))
    if with_tracks and len(tracks) > 1:
        for number, name in enumerate(tracks):
            own = [audio for stem, audio in rendered.stems.items() if track_of(stem) == name]
            sounds[f"of:{name}"] = np.sum(own, axis=0, dtype=np.float32)
            if (number + rendered.piece.seed) % len(tracks) < _MOST_RESTS:
                sounds[f"but:{name}"] = rendered.mix - sounds[f"of:{name}"]
    latents = {
        name: codec.encode(torch.from_numpy(sound)[None])[0].numpy().astype(np.float16)
        for name, sound in sounds.items()
    }
    return Coded(rendered.piece, latents)


def code_all(folder: Path, store: Store, families: Sequence[Family], processes: int) -> None:
    """Encode what is rendered and not yet encoded; an interrupted run goes on where it stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {family.own for family in families}
    missing = [order for order in orders(families) if not _path(folder, order).exists()]
    jobs = [(folder, store, order, order in own) for order in missing if store.has(order)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for _ in track(pool.imap_unordered(_code_one, jobs, chunksize=4), "encoding", total=len(jobs)):
            pass


def has(folder: Path, family: Family) -> bool:
    return all(_path(folder, order).exists() for order in family.orders)


def load(folder: Path, order: Order) -> Coded:
    coded: Coded = pickle.loads(_path(folder, order).read_bytes())
    return coded


def _path(folder: Path, order: Order) -> Path:
    return folder / f"{order.name}.pickle"


_CODECS: dict[int, ToneNoiseCodec] = {}  # of this process


def _code_one(job: tuple[Path, Store, Order, bool]) -> None:
    folder, store, order, with_tracks = job
    torch.set_num_threads(1)
    codec = _CODECS.setdefault(0, ToneNoiseCodec(RAW))
    partial = _path(folder, order).with_suffix(".partial")
    partial.write_bytes(pickle.dumps(code(store.read(order), codec, with_tracks=with_tracks)))
    partial.rename(_path(folder, order))
