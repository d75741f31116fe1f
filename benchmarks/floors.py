"""How far each stage is from what this machine could do: FLOPs and bytes, counted, against measured peaks.

    uv run python -m benchmarks.floors [--seconds 10] [--steps 8] [--render S] [--decode S] [--token MS]

Counts are those of turbo's published size and of the 0.6B planner. Peaks are those that other programs leave:
run it on an idle machine, or beside the same load. The times of a song, as its `timings` say, give the share
of the floor that each stage reaches.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from acestep.memory.configs import PLANNERS, VAE, published_dit
from acestep.memory.sizes import DitSize, QwenSize, VaeSize

_WORDS = 300  # states that a song's cross-attention sees, of a caption and a few lines
_SIDE, _ROUNDS = 2048, 5
_CODEC_RATE = 25


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the song")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--render", type=float, help="seconds that the render took")
    parser.add_argument("--decode", type=float, help="seconds that the decode took")
    parser.add_argument("--token", type=float, help="milliseconds that the planner took for a token")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    given = parser.parse_args()
    dtype = getattr(torch, given.dtype)
    products, exact = flops_a_second(dtype), flops_a_second(torch.float32)
    frames = math.ceil(given.seconds * _CODEC_RATE)
    dit = given.steps * dit_flops(published_dit("acestep-v15-turbo", True), frames)
    vae, read = vae_flops(VAE, frames), planner_bytes(PLANNERS[0], dtype)
    table = Table("stage", "work", "peak of this machine", "floor", "taken", "share")
    for stage, work, peak, unit, taken in (
        (f"DiT, {given.steps} steps", dit, products, "FLOP", given.render),
        ("VAE decode, float32", vae, exact, "FLOP", given.decode),
        ("planner, a token", read, bytes_a_second(), "B", given.token and given.token / 1000),
    ):
        floor = work / peak
        reached = (f"{taken:.3f} s", f"{floor / taken:.0%}") if taken else ("", "")
        counted, measured = f"{work / 1e9:,.1f} G{unit}", f"{peak / 1e9:,.0f} G{unit}/s"
        table.add_row(stage, counted, measured, f"{floor:.3f} s", *reached)
    console = Console(width=110)
    console.print(f"{torch.get_num_threads()} threads, products in {given.dtype}")
    console.print(table)


def dit_flops(dit: DitSize, frames: int) -> int:
    """FLOPs of one velocity of a song, without guidance; half of the layers attend within a window."""
    layer, patches = dit.layer, -(-frames // dit.patch)
    queries = layer.heads * layer.head
    # The keys and values of the cross-attention are computed once a song.
    products = layer.crossed_matrices.weights - layer.width * layer.keys_values
    seen = patches if dit.window is None else min(patches, 2 * dit.window + 1)
    attention = queries * ((patches + seen) / 2 + _WORDS)
    ends = dit.in_channels * dit.patch * layer.width + layer.width * dit.patch * dit.channels
    return round(patches * (dit.layers * (2 * products + 4 * attention) + 2 * ends))


def vae_flops(vae: VaeSize, frames: int) -> int:
    """FLOPs of decoding."""
    wide, samples = vae.decoder_channels * vae.multiples[-1], frames
    work = samples * 7 * vae.latents * wide
    for narrow, broad, ratio in reversed(vae.blocks(vae.decoder_channels)):
        work += samples * broad * narrow * 2 * ratio
        samples *= ratio
        work += samples * 3 * (7 + 1) * narrow * narrow
    return 2 * (work + samples * 7 * vae.decoder_channels * vae.sounds)


def planner_bytes(planner: QwenSize, dtype: torch.dtype) -> int:
    """Bytes of the weights, each of which a token reads once."""
    return planner.weights * dtype.itemsize


def flops_a_second(dtype: torch.dtype) -> float:
    """What the best of a few large products reaches."""
    one, other = torch.randn(_SIDE, _SIDE).to(dtype), torch.randn(_SIDE, _SIDE).to(dtype)
    return 2 * _SIDE**3 / _fastest(lambda: one @ other)


def bytes_a_second() -> float:
    """What reading memory reaches, by a sum that the caches do not hold."""
    numbers = torch.ones(2**27)
    return numbers.nbytes / _fastest(numbers.sum)


def _fastest(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    main()
