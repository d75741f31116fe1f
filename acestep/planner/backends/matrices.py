"""The matrices of the decoder, plain or in 8 bits. Matrices with the same input are joined to one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from acestep.weights.quantization import replace_parts, unpacked_parts

# Numbers that a CPU dequantizes at a time: they are still in its caches when they are multiplied.
_CPU_PIECE = 2**18

# Of these a CPU multiplies `[out, in]` up to twice as fast as `[in, out]`; of float32 the latter.
_ROWS_ARE_FASTER = (torch.bfloat16, torch.float16)


class Matrix(Protocol):
    """A matrix `[in, out]`, stored as that or as `[out, in]`, whichever is faster for few rows."""

    def times(self, x: Tensor) -> Tensor:
        """`x @ matrix`: `[n, in]` to `[n, out]`."""
        ...

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        """`sums += x @ matrix`."""
        ...

    def tensors(self) -> Iterator[Tensor]:
        """Its tensors, whose data may be offloaded."""
        ...


class Workspace:
    """Memory for one dequantized matrix, or on a CPU a piece of it; from `allocate` to `release`."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._size = 0
        self._buffer = torch.empty(0, dtype=dtype)

    @property
    def is_on_cpu(self) -> bool:
        return str(self._device.type) == "cpu"

    def rows(self, width: int) -> int:
        return max(1, self._size // width)

    def reserve(self, rows: int, width: int) -> None:
        """Be large enough for this shape from the next `allocate` on."""
        numbers = min(rows, max(1, _CPU_PIECE // width)) * width if self.is_on_cpu else rows * width
        self._size = max(self._size, numbers)

    @property
    def nbytes(self) -> int:
        return self._buffer.nbytes

    def unpack(self, piece: Tensor) -> Tensor:
        """`piece` in the dtype of the computation; valid until the next call."""
        return self._buffer[: piece.numel()].view(piece.shape).copy_(piece)

    def allocate(self) -> None:
        self._buffer = torch.empty(self._size, dtype=self._buffer.dtype, device=self._device)

    def release(self) -> None:
        self._buffer = torch.empty(0, dtype=self._buffer.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class _Plain:
    weight: Tensor

    def times(self, x: Tensor) -> Tensor:
        return x @ self.weight

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        sums.addmm_(x, self.weight)

    def tensors(self) -> Iterator[Tensor]:
        yield self.weight


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    weight: Tensor  # [out, in]

    def times(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        sums.add_(functional.linear(x, self.weight))

    def tensors(self) -> Iterator[Tensor]:
        yield self.weight


@dataclass(frozen=True, slots=True, eq=False)
class _Packed:
    # Each column has one scale, so the product is scaled instead of the matrix. torchao's own product scales
    # the fp8 matrix in float32, which for a few rows takes many times as long.
    numbers: Tensor  # [in, out], 8 bits
    scales: Tensor  # [out]
    workspace: Workspace

    def times(self, x: Tensor) -> Tensor:
        height, width = self.numbers.shape
        product = x.new_zeros(len(x), width)
        rows = self.workspace.rows(width)
        for start in range(0, height, rows):
            piece = slice(start, start + rows)
            product.addmm_(x[:, piece], self.workspace.unpack(self.numbers[piece]))
        return product.mul_(self.scales)

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        sums.add_(self.times(x))

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.numbers, self.scales)


def join(workspace: Workspace, *linears: nn.Linear) -> Matrix:
    """Linear layers as one matrix; their weights become views of it, so that the memory is shared."""
    first = linears[0].weight
    if workspace.is_on_cpu and first.dtype in _ROWS_ARE_FASTER and not unpacked_parts(first):
        return _joined_rows(linears)
    packed = [parts for linear in linears if (parts := unpacked_parts(linear.weight))]
    weights = [numbers for numbers, _ in packed] or [linear.weight.data for linear in linears]
    joined = torch.cat([weight.t() for weight in weights], dim=1)
    scales = torch.cat([scales for _, scales in packed]) if packed else None
    start = 0
    for linear in linears:
        part = slice(start, start + linear.out_features)
        if scales is None:
            linear.weight.data = joined[:, part].t()
        else:
            replace_parts(linear.weight, joined[:, part].t(), scales[part])
        start = part.stop
    if scales is None:
        return _Plain(joined)
    workspace.reserve(*joined.shape)
    return _Packed(joined, scales, workspace)


def _joined_rows(linears: Sequence[nn.Linear]) -> Matrix:
    weights = [linear.weight.data for linear in linears]
    if len(weights) == 1:  # it may be a file that is mapped: then it takes no memory of its own
        return _Rows(weights[0])
    joined = torch.cat(weights)
    for linear, part in zip(linears, torch.split(joined, [len(each) for each in weights]), strict=True):
        linear.weight.data = part
    return _Rows(joined)
