"""The matrices of the decoder, plain or packed in 8 bits; those that share an input are one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from acestep.weights.quantization import replace_parts, unpacked_parts

# Numbers that a CPU unpacks at a time: they stay in its caches until they are multiplied with.
_CPU_PIECE = 2**18


class Matrix(Protocol):
    """`[in, out]`, which a CPU multiplies faster for few rows than `[out, in]`."""

    def times(self, x: Tensor) -> Tensor:
        """The product of `[n, in]` with it, `[n, out]`."""
        ...

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        """Add that product to `sums`."""
        ...

    def tensors(self) -> Iterator[Tensor]:
        """What it consists of; their data may move."""
        ...


class Bench:
    """Room for one unpacked matrix, or on a CPU a piece of it; there between `allocate` and `release`."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._size = 0
        self._room = torch.empty(0, dtype=dtype)

    def rows(self, width: int) -> int:
        """How many rows of so many numbers are unpacked at a time."""
        return max(1, self._size // width)

    def reserve(self, rows: int, width: int) -> None:
        """Be large enough for a matrix, from the next `allocate` on."""
        numbers = (
            min(rows, max(1, _CPU_PIECE // width)) * width if self._device.type == "cpu" else rows * width
        )
        self._size = max(self._size, numbers)

    @property
    def nbytes(self) -> int:
        """Its bytes, now."""
        return self._room.nbytes

    def unpack(self, piece: Tensor) -> Tensor:
        """The numbers of `piece` as they are computed with, until the next is unpacked."""
        return self._room[: piece.numel()].view(piece.shape).copy_(piece)

    def allocate(self) -> None:
        """Make it, on the device."""
        self._room = torch.empty(self._size, dtype=self._room.dtype, device=self._device)

    def release(self) -> None:
        """Let it go."""
        self._room = torch.empty(0, dtype=self._room.dtype)


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
class _Packed:
    """`numbers` `[in, out]` of 8 bits, whose columns are to be multiplied by `scales` `[out]`.

    As every column has one scale, the product is scaled instead of the matrix; torchao's own product scales
    the matrix in fp8, in float32, which for a few rows takes many times as long.
    """

    numbers: Tensor
    scales: Tensor
    bench: Bench

    def times(self, x: Tensor) -> Tensor:
        height, width = self.numbers.shape
        product = x.new_zeros(len(x), width)
        rows = self.bench.rows(width)
        for start in range(0, height, rows):
            piece = slice(start, start + rows)
            product.addmm_(x[:, piece], self.bench.unpack(self.numbers[piece]))
        return product.mul_(self.scales)

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        sums.add_(self.times(x))

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.numbers, self.scales)


def join(bench: Bench, *linears: Any) -> Matrix:
    """Linear layers as one; each keeps a view of its part, so that nothing is held twice."""
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
    bench.reserve(*joined.shape)
    return _Packed(joined, scales, bench)
