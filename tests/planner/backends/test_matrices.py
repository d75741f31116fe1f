from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from acestep.memory.sizes import Layer, QwenSize, Stored
from acestep.planner.backends.matrices import Matrix, Workspace, join
from acestep.settings.types import Quantization
from acestep.weights.quantization import packing

CPU = torch.device("cpu")
WIDTH = 512
kinds = pytest.mark.parametrize("kind", ["none", "int8", "fp8"])


def packed(kind: Quantization, columns: int, rows: int) -> Any:
    """A linear layer in this way."""
    linear = nn.Linear(columns, rows, bias=False).requires_grad_(False)
    if kind != "none":
        linear.weight = packing(kind)(linear.weight.data)
    return linear


def linears(kind: Quantization) -> list[Any]:
    """Two with one input; joined they are too large to be dequantized at once."""
    torch.manual_seed(3)
    return [packed(kind, WIDTH, out) for out in (700, 324)]


def joined(kind: Quantization) -> tuple[Matrix, list[Any]]:
    workspace, layers = Workspace(CPU, torch.float32), linears(kind)
    matrix = join(workspace, *layers)
    workspace.allocate()
    return matrix, layers


def inputs(count: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(count))


@kinds
def test_joined_layers_equal_each_layer(kind: Quantization) -> None:
    x = inputs(5)
    expected = torch.cat([functional.linear(x, linear.weight) for linear in linears(kind)], dim=1)
    matrix, layers = joined(kind)
    torch.testing.assert_close(matrix.times(x), expected, rtol=1e-4, atol=1e-4)
    again = torch.cat([functional.linear(x, linear.weight) for linear in layers], dim=1)
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-4)
    sums = torch.ones_like(expected)
    matrix.add_to(sums, x)
    torch.testing.assert_close(sums, expected + 1, rtol=1e-4, atol=1e-4)


@kinds
def test_joined_layers_share_memory(kind: Quantization) -> None:
    matrix, layers = joined(kind)
    tensors = list(matrix.tensors())
    assert sum(tensor.nbytes for tensor in tensors) == WIDTH * 1024 * (4 if kind == "none" else 1) + (
        0 if kind == "none" else 1024 * 4
    )
    for linear in layers:
        numbers = linear.weight if kind == "none" else linear.weight.qdata
        assert numbers.untyped_storage().data_ptr() == tensors[0].untyped_storage().data_ptr()


@kinds
def test_its_tensors_can_be_moved(kind: Quantization) -> None:
    matrix, _ = joined(kind)
    x = inputs(4)
    before = matrix.times(x)
    for tensor in matrix.tensors():
        tensor.data = tensor.data.clone()
    assert torch.equal(matrix.times(x), before)


def test_the_workspace_holds_the_largest_matrix_on_a_gpu_and_a_piece_on_a_cpu() -> None:
    there, here = Workspace(torch.device("meta"), torch.float32), Workspace(CPU, torch.float32)
    for workspace in (there, here):
        workspace.reserve(WIDTH, 1024)
        workspace.reserve(8, 16)
    assert there.rows(1024) == WIDTH
    assert 1 <= here.rows(1024) < WIDTH
    assert here.rows(10**9) == 1


@kinds
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_workspace_has_the_size_of_the_memory_plan(kind: Quantization, device: str) -> None:
    size = QwenSize("any", Layer(256, 768, 8, 2, 64), layers=1, vocabulary=10)
    workspace = Workspace(torch.device(device), torch.float32)
    for widths in ([512, 128, 128], [768, 768]):
        join(workspace, *(packed(kind, 256, width) for width in widths))
    join(workspace, packed(kind, 512, 256))
    join(workspace, packed(kind, 768, 256))
    workspace.allocate()
    assert workspace.nbytes == Stored(4, kind).workspace(size.joined, by_pieces=device == "cpu")
    workspace.release()
    assert workspace.nbytes == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_half_precision_are_kept_as_they_lie(dtype: torch.dtype) -> None:
    layers = [linear.to(dtype) for linear in linears("none")]
    x, workspace = inputs(4).to(dtype), Workspace(CPU, dtype)
    expected = torch.cat([functional.linear(x, linear.weight) for linear in layers], dim=1)
    alone = layers[0].weight.data_ptr()
    (kept,) = join(workspace, layers[0]).tensors()
    assert kept.data_ptr() == alone  # a mapped file takes no memory of its own
    matrix = join(workspace, *layers)
    torch.testing.assert_close(matrix.times(x), expected)
    sums = torch.ones_like(expected)
    matrix.add_to(sums, x)
    torch.testing.assert_close(sums, expected + 1)
    (rows,) = matrix.tensors()
    assert layers[1].weight.data_ptr() == rows[700:].data_ptr()
