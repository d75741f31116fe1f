"""LoKr adapters as LyCORIS saves them, which the original trains, in terms of PEFT's.

W1 kron W2 times a scale is the same in both, with the same factorization of a layer's sizes. LyCORIS flattens
the names of layers, and stores the scale as an `alpha` beside each layer's tensors.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from acestep.errors import CheckpointError

Shape = tuple[int, ...]

_KEY = re.compile(r"lycoris_(?P<layer>\w+)\.(?P<part>lokr_(?:w1|w2)(?:_a|_b)?|alpha)")
# Where the dots were in the names of the DiT's layers.
_DOTS = (
    (re.compile(r"^(?:_?orig_mod_)?(?:decoder_|transformer_)?"), ""),
    (re.compile(r"^layers_(\d+)_(self_attn|cross_attn|mlp)_"), r"layers.\1.\2."),
    (re.compile(r"^(time_embed(?:_r)?)_(linear_\d|time_proj)$"), r"\1.\2"),
    (re.compile(r"^(proj_in|proj_out)_1$"), r"\1.1"),
    (re.compile(r"\bto_out_0$"), "to_out.0"),
)
_NUMBERS = {"F16": "<e", "F32": "<f", "F64": "<d", "I32": "<i", "I64": "<q"}


@dataclass(frozen=True, slots=True)
class LycorisLokr:
    places: Mapping[str, tuple[str, str]]  # layer and part of each tensor, by its stored name
    ranks: Mapping[str, int]  # by layer
    alphas: Mapping[str, float]
    settings: Mapping[str, int]  # for PEFT


def read_lycoris(file: Path, shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> LycorisLokr:
    """Raises CheckpointError that names the first tensor that has no counterpart in PEFT."""
    places: dict[str, tuple[str, str]] = {}
    parts: dict[str, dict[str, Shape]] = {}
    stored_alphas: dict[str, str] = {}
    for stored, shape in shapes.items():
        found = _KEY.fullmatch(stored)
        if found is None:
            raise CheckpointError(f"{file}: tensor {stored!r} cannot be used: it is no part of a plain LoKr")
        layer, part = _with_dots(found["layer"]), found["part"]
        if part == "alpha":
            stored_alphas[stored] = layer
        elif len(shape) != 2:
            raise CheckpointError(f"{file}: tensor {stored!r} cannot be used: it is of a convolution")
        else:
            places[stored] = layer, part
            parts.setdefault(layer, {})[part] = shape
    told = {stored_alphas[stored]: value for stored, value in _numbers(file, stored_alphas)}
    config = _noted(metadata)
    wholes = {layer: _wholes(file, layer, of_layer) for layer, of_layer in parts.items()}
    factor = _factor(file, wholes, config.get("factor"))
    ranks, alphas = {}, {}
    for layer, of_layer in parts.items():
        low = of_layer.get("lokr_w2_a") or of_layer.get("lokr_w1_a")
        # PEFT takes whole matrices where the rank is at least half of their size.
        ranks[layer] = rank = low[1] if low else max(side for shape in wholes[layer] for side in shape)
        alphas[layer] = told.get(layer, float(rank)) if low else rank * _scale(file, told.get(layer), config)
    both = any("lokr_w1_a" in of_layer for of_layer in parts.values())
    return LycorisLokr(places, ranks, alphas, {"decompose_both": both, "decompose_factor": factor})


def _scale(file: Path, alpha: float | None, config: Mapping[str, object]) -> float:
    # Of whole matrices, whose rank the tensors do not show. It is 1 but for rs_lora.
    if not config.get("rs_lora") or alpha is None:
        return 1.0
    dim = config.get("linear_dim")
    if not isinstance(dim, int) or dim < 1:
        raise CheckpointError(f"{file}: rs_lora cannot be used without linear_dim in the metadata")
    return alpha / dim


def _with_dots(flat: str) -> str:
    for pattern, dotted in _DOTS:
        flat = pattern.sub(dotted, flat)
    return flat


def _wholes(file: Path, layer: str, parts: Mapping[str, Shape]) -> tuple[Shape, Shape]:
    # The shapes of W1 and W2, which are stored whole or as products.
    def whole(name: str) -> Shape:
        if name in parts:
            return parts[name]
        down, up = parts.get(f"{name}_a"), parts.get(f"{name}_b")
        if down is None or up is None or down[1] != up[0] or not up[0]:
            raise CheckpointError(f"{file}: tensor {name} of layer {layer!r} is missing, or fits no other")
        return down[0], up[1]

    return whole("lokr_w1"), whole("lokr_w2")


def _factor(file: Path, wholes: Mapping[str, tuple[Shape, Shape]], noted: object) -> int:
    # The factor of all layers, with which PEFT divides their sizes as they are divided here.
    sides = {(w1[axis], w2[axis]) for w1, w2 in wholes.values() for axis in (0, 1)}
    candidates = [noted] if isinstance(noted, int) and noted else []
    for factor in (*candidates, -1, *sorted({first for first, _ in sides}, reverse=True)):
        if all(_divided(first * second, factor) == (first, second) for first, second in sides):
            return factor
    layer = min(wholes)
    raise CheckpointError(
        f"{file}: tensor {f'lokr_w1 of layer {layer}'!r} cannot be used: no factor of PEFT gives its shape "
        f"{list(wholes[layer][0])} and those of all others"
    )


def _divided(size: int, factor: int) -> tuple[int, int]:
    # As PEFT does, and LyCORIS where the factor is below the root of the size: two numbers, the first near
    # `factor`, or near the root (-1).
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = size if factor < 0 else factor
    low = max(n for n in range(1, math.isqrt(size) + 1) if size % n == 0 and n <= most)
    return low, size // low


def _noted(metadata: Mapping[str, str]) -> Mapping[str, object]:
    try:
        found = json.loads(metadata.get("lokr_config", "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _numbers(file: Path, names: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    # Single numbers in a safetensors file.
    with file.open("rb") as stored:
        length = int.from_bytes(stored.read(8), "little")
        header = json.loads(stored.read(length))
        for name in names:
            entry = header[name]
            start, end = entry["data_offsets"]
            stored.seek(8 + length + start)
            raw, kind = stored.read(end - start), entry["dtype"]
            if kind == "BF16":
                raw, kind = b"\0\0" + raw, "F32"
            if kind not in _NUMBERS or len(raw) != struct.calcsize(_NUMBERS[kind]):
                raise CheckpointError(f"{file}: tensor {name!r} is not one number")
            yield name, float(struct.unpack(_NUMBERS[kind], raw)[0])
