"""What quantized weights save, what they change, and what they cost, against the same weights in float.

    uv run python -m benchmarks.quantization [--seconds 60] [--rounds 3] [--dtype float32]

DiT and planner are real classes with random weights, half as wide as the published ones and four layers deep:
one predicts a velocity for a song, the other decodes a token for each of four rows. Nano, whose weights are
trained, renders 20 s in 16 guided steps. Ratios are of one run, taken in turns, on the CPU: a GPU has other
kernels, and other ratios.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from acestep.catalog.checkpoints import NANO_MODEL, require
from acestep.domain.song import Sampling, SongPlan
from acestep.networks.config import LayerConfig, SynthesizerConfig
from acestep.networks.transformer import Condition, Transformer
from acestep.planner.backends.decoder import Decoder
from acestep.planner.loading import load_language_model
from acestep.settings.types import Quantization
from acestep.synthesizer.loading import load_synthesizer
from acestep.synthesizer.synthesizer import Synthesizer
from acestep.weights.offload import OffloadGroup
from acestep.weights.quantization import Packer
from acestep.weights.safetensors import LoadTarget
from tests.planner.toy import Toy, write_toy

KINDS: tuple[Quantization, ...] = ("none", "int8", "fp8")
CPU = torch.device("cpu")
_WIDTH, _INNER, _LAYERS, _HEADS, _KV_HEADS, _HEAD = 1024, 3072, 4, 8, 4, 128
_CHANNELS, _FRAMES_A_SECOND, _WORDS, _PROMPT = 64, 25, 256, 200
_LM = Toy(
    hidden=_WIDTH, intermediate=_INNER, layers=_LAYERS, heads=_HEADS, kv_heads=_KV_HEADS, head_dim=_HEAD
)

Run = Callable[[], Tensor]


def dit(kind: Quantization, seconds: float, dtype: torch.dtype) -> tuple[int, Run]:
    """Bytes of a DiT's layers, and what predicts a velocity with it."""
    torch.manual_seed(0)
    layer = LayerConfig(_WIDTH, _INNER, _HEADS, _KV_HEADS, _HEAD, 1e6, 1e-6, 128)
    config = SynthesizerConfig(
        dit=layer,
        encoder=layer,
        pooler=layer,
        dit_layers=_LAYERS,
        lyric_layers=0,
        timbre_layers=0,
        pooler_layers=0,
        patch_size=2,
        latent_channels=_CHANNELS,
        mask_channels=_CHANNELS,
        text_width=_WIDTH,
        frames_per_code=5,
        code_levels=(8, 8, 8, 5, 5, 5),
    )
    transformer = Transformer(config).to(dtype).eval().requires_grad_(False)
    packer = Packer.of(kind, transformer, "layers")
    for name in packer.names:
        matrix: Any = transformer.get_submodule(name.removesuffix(".weight"))
        matrix.weight = packer(name, matrix.weight.data)
    frames = round(seconds * _FRAMES_A_SECOND)
    random = torch.Generator().manual_seed(1)
    condition = Condition(
        states=torch.randn(1, _WORDS, _WIDTH, generator=random).to(dtype),
        mask=torch.ones(1, _WORDS, dtype=torch.bool),
        context=torch.randn(1, frames, 2 * _CHANNELS, generator=random).to(dtype),
    )
    latents = torch.randn(1, frames, _CHANNELS, generator=random)

    @torch.inference_mode()
    def run() -> Tensor:
        return transformer.velocity(latents, 0.5, transformer.cache(condition))

    return held(transformer.layers), run


def planner(kind: Quantization, folder: Path, dtype: torch.dtype) -> tuple[int, Run]:
    """Bytes of a planner's layers, and what decodes a token for four rows with it."""
    model = load_language_model(folder, LoadTarget(CPU, dtype, kind)).model
    decoder, rows = Decoder(model, 4, 2 * _PROMPT), range(4)
    random = torch.Generator().manual_seed(2)
    for row in rows:
        decoder.prefill(row, torch.randint(0, _LM.words, (_PROMPT,), generator=random).tolist())

    def run() -> Tensor:
        return decoder.decode([[7 * row] for row in rows], [_PROMPT] * 4).clone()

    return held(model.layers), run


def nano(kind: Quantization, dtype: torch.dtype) -> tuple[int, Run]:
    """Bytes of nano's layers, and what renders the latents of a song with it."""
    where = require(NANO_MODEL, Path("checkpoints"))
    place = LoadTarget(CPU, dtype, kind)
    modules = load_synthesizer(where.dit, where.text_encoder, where.tokenizer, place)
    synthesizer = Synthesizer(modules, _FRAMES_A_SECOND)
    plan = SongPlan(
        caption="house with piano",
        lyrics="[Instrumental]",
        language="unknown",
        duration=20.0,
        seed=1,
        instruction="Fill the audio semantic mask based on the given conditions:",
        sampling=Sampling(steps=16, guidance_scale=4.0, shift=1.0),
        bpm=120,
    )

    def run() -> Tensor:
        return synthesizer.render([plan], lambda done, of: None, lambda: False).latents

    return held(modules.transformer.layers), run


def held(module: nn.Module) -> int:
    """Bytes of its weights."""
    return sum(tensor.nbytes for tensor in OffloadGroup("resident", [module]).everything())


def compare(table: Table, name: str, made: dict[Quantization, tuple[int, Run]], rounds: int) -> None:
    """Add a row for each kind; the first is what the others are held against."""
    times: dict[Quantization, list[float]] = {kind: [] for kind in made}
    results = {kind: run().float() for kind, (_, run) in made.items()}
    for _ in range(rounds):
        for kind, (_, run) in made.items():
            start = time.process_time()
            run()
            times[kind].append(time.process_time() - start)
    whole, best, right = made["none"][0], min(times["none"]), results["none"]
    for kind, (size, _) in made.items():
        error = float((results[kind] - right).norm() / right.norm())
        table.add_row(
            name,
            kind,
            f"{size / 2**20:.1f}",
            f"{size / whole:.3f}",
            f"{error:.4f}",
            f"{min(times[kind]) / best:.2f}",
        )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="length of the song")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    dtype = torch.float32 if flags.dtype == "float32" else torch.bfloat16
    columns = ("model", "stored as", "MiB of layers", "of float", "relative error", "time of float")
    table = Table(*columns, title=f"quantized against {flags.dtype}")
    compare(table, "DiT", {kind: dit(kind, flags.seconds, dtype) for kind in KINDS}, flags.rounds)
    compare(table, "nano's DiT", {kind: nano(kind, dtype) for kind in KINDS}, flags.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = write_toy(Path(name) / "toy", _LM)
        made = {kind: planner(kind, folder, dtype) for kind in KINDS}
        compare(table, "planner", made, 10 * flags.rounds)
    Console().print(table)


if __name__ == "__main__":
    main()
