"""The pool of rendered music on disk: composed, played, and kept as latents in decibels.

What becomes of the clips is `dataset`; how a piece sounds is `render`.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from acestep.codec.sine_bank import SineBankCodec
from training.nano.composer import compose
from training.nano.dataset import RAW, Clip

SECONDS = 30.0
_SHARD = 50  # pieces in a file on disk


def render_pool(folder: Path, pieces: int, soundfonts: tuple[Path, ...], processes: int) -> None:
    """Compose and render `pieces` pieces into `folder`; shards that exist are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = range((pieces + _SHARD - 1) // _SHARD)
    todo = [(folder / f"{n:04d}.pkl", n, soundfonts[n % len(soundfonts)]) for n in shards]
    todo = [job for job in todo if not job[0].exists()]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for _ in track(pool.imap_unordered(_render_shard, todo), "rendering", total=len(todo)):
            pass


def _render_shard(job: tuple[Path, int, Path]) -> None:
    from training.nano.render import Renderer  # FluidSynth is needed here alone, not to learn or to test

    path, number, soundfont = job
    torch.set_num_threads(1)
    codec = SineBankCodec(RAW)
    clips = []
    with Renderer(soundfont) as renderer:
        for seed in range(number * _SHARD, (number + 1) * _SHARD):
            piece = compose(seed, SECONDS)
            audio = torch.from_numpy(renderer.render(piece))[None]
            latents = codec.encode(audio)[0].numpy().astype(np.float16)
            clips.append(Clip(dataclasses.replace(piece, notes=()), latents))
    partial = path.with_suffix(".partial")
    partial.write_bytes(pickle.dumps(clips))
    partial.rename(path)


def load_pool(folder: Path) -> list[Clip]:
    """Every clip in `folder`, in order."""
    return [clip for path in sorted(folder.glob("*.pkl")) for clip in pickle.loads(path.read_bytes())]
