"""Packed weights against the same weights unpacked, with torchao itself."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from acestep.memory.sizes import Matrices, Stored
from acestep.settings.types import Quantization
from acestep.weights.offload import OffloadGroup
from acestep.weights.quantization import Packer, packing, unpacked_parts
from tests.memory.peaks import Peak

# Relative errors of 8 bits: int8 has 127 steps to the largest of a row, fp8 (e4m3) a mantissa of 3 bits.
ERRORS: dict[Quantization, float] = {"int8": 0.01, "fp8": 0.04}
ROWS, COLUMNS = 96, 256

kinds = pytest.mark.parametrize("kind", ERRORS)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def matrix(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)).to(dtype)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@kinds
@dtypes
def test_a_packed_matrix_multiplies_nearly_as_before(kind: Quantization, dtype: torch.dtype) -> None:
    weight, x = matrix(dtype), torch.randn(3, 5, COLUMNS, dtype=dtype)
    packed = packing(kind)(weight)
    assert (packed.shape, packed.dtype) == (weight.shape, dtype)
    with torch.inference_mode():
        found, expected = functional.linear(x, packed), functional.linear(x, weight)
    assert found.dtype == dtype
    assert 0 < relative(found, expected) < ERRORS[kind]


@kinds
@dtypes
def test_it_takes_the_bytes_that_are_counted(kind: Quantization, dtype: torch.dtype) -> None:
    linear = nn.Linear(COLUMNS, ROWS, bias=False)
    linear.weight = packing(kind)(matrix(dtype))
    held = sum(tensor.nbytes for tensor in OffloadGroup("resident", [linear]).everything())
    counted = Stored(dtype.itemsize, kind).size(
        ROWS * COLUMNS, Matrices(ROWS * COLUMNS, ROWS, ROWS * COLUMNS)
    )
    assert held == counted < ROWS * COLUMNS * 1.1


@kinds
@dtypes
def test_unpacking_takes_no_more_than_is_counted(kind: Quantization, dtype: torch.dtype) -> None:
    weight = packing(kind)(torch.empty(ROWS, COLUMNS, dtype=dtype, device="meta"))
    x = torch.empty(1, COLUMNS, dtype=dtype, device="meta")
    with torch.inference_mode(), Peak() as peak:
        functional.linear(x, weight)
    beside = peak.most - Stored(dtype.itemsize, kind).unpacking(ROWS * COLUMNS)
    # Input and output of the product, the packed weight and its scales.
    assert -ROWS * COLUMNS // 10 < beside <= ROWS * COLUMNS + 16 * (ROWS + COLUMNS)


@kinds
def test_numbers_times_scales_are_the_matrix(kind: Quantization) -> None:
    weight = matrix()
    packed = packing(kind)(weight)
    parts = unpacked_parts(packed)
    assert parts is not None and unpacked_parts(weight) is None
    numbers, scales = parts
    assert (numbers.shape, scales.shape, numbers.itemsize) == (weight.shape, (ROWS,), 1)
    assert relative(numbers.float() * scales[:, None], weight) < ERRORS[kind]


@kinds
def test_a_packer_packs_linear_layers_of_its_part_alone(kind: Quantization) -> None:
    layer = nn.ModuleDict({"up": nn.Linear(4, 8), "norm": nn.LayerNorm(8), "conv": nn.Conv1d(8, 8, 2)})
    model = nn.ModuleDict({"layers": nn.ModuleList([layer]), "head": nn.Linear(8, 4)})
    packer = Packer.of(kind, model, "layers")
    assert packer.names == {"layers.0.up.weight"}
    weight = torch.randn(8, 4)
    assert packer("head.weight", weight) is weight
    assert unpacked_parts(packer("layers.0.up.weight", weight)) is not None
    assert Packer.of("none", model, "layers")("layers.0.up.weight", weight) is weight


@kinds
def test_a_layer_runs_wherever_its_parts_are_moved(kind: Quantization) -> None:
    layers = nn.ModuleDict({"up": nn.Linear(COLUMNS, ROWS, bias=False)})
    layer: Any = layers["up"]
    packer = Packer(frozenset({"up.weight"}), packing(kind))
    layer.weight = packer("up.weight", matrix())
    packer.finish(layers)
    x = torch.randn(2, COLUMNS)
    names, _ = layer.weight.__tensor_flatten__()
    devices = [getattr(layer.weight, name) for name in names]

    def move(parts: list[Tensor]) -> Tensor:
        for name, part in zip(names, parts, strict=True):
            setattr(layer.weight, name, part)
        with torch.inference_mode():
            found: Tensor = layer(x.to(parts[0].device))
        # The parts that are moved next are the same ones.
        assert list(map(id, OffloadGroup("offloaded", [layer]).everything())) == list(map(id, parts))
        assert layer.weight.device == parts[0].device == found.device
        return found

    before = move(devices)
    move([part.to("meta") for part in devices])
    assert torch.equal(move(devices), before)
