"""How weights are stored: as they are computed with, or the matrices of layers in fewer bits.

Owns the names of the ways, the bytes that each takes, and which of them a device can have. What is packed is
the matrices of the DiT's and the planner's layers: nine tenths of their weights. Embeddings, norms, biases,
tables and convolutions stay. Knows nothing of torch; `acestep.quantization` does the packing.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from acestep.errors import SettingError
from acestep.setting_kinds import Quantization

VARIABLE = "ACESTEP_QUANTIZATION"
_REMEDY = "none, or any after `uv sync --extra quantization`, which installs torchao"
# A row has a scale in float32, and in int8 a zero point, which is 0, of one byte.
_PER_ROW = {"int8": 5, "fp8": 4}
_FLOAT = 4
_PIECE = 2**18  # numbers that the planner unpacks at a time on a CPU (planner.backends.matrices)
_NO_FP8 = ("mps", "xpu")  # Metal knows no such number; on Intel's GPUs nobody has tried it


@dataclass(frozen=True, slots=True)
class Matrices:
    """What may be packed: all weights of these matrices, all their rows, and the weights of the largest."""

    weights: int
    rows: int
    largest: int

    def times(self, count: int) -> Matrices:
        """As many matrices in each of `count` layers."""
        return Matrices(count * self.weights, count * self.rows, self.largest)


@dataclass(frozen=True, slots=True)
class Stored:
    """`number` is the bytes of a weight as it is computed with, and as it is stored unless it is packed."""

    number: int
    quantization: Quantization = "none"

    def size(self, weights: int, matrices: Matrices) -> int:
        """Bytes of so many weights, `matrices` among them."""
        if self.quantization == "none":
            return weights * self.number
        packed = matrices.weights + matrices.rows * _PER_ROW[self.quantization]
        return packed + (weights - matrices.weights) * self.number

    def unpacking(self, weights: int) -> int:
        """Bytes that torchao needs to compute with a matrix of so many weights, beside the matrix."""
        if self.quantization == "none":
            return 0
        if self.quantization == "int8":
            return weights * self.number
        # To float32, there with the scales in it, and the result.
        return weights * (2 * _FLOAT + (self.number if self.number != _FLOAT else 0))

    def bench(self, matrices: Iterable[tuple[int, int]], by_pieces: bool) -> int:
        """Bytes in which the planner unpacks matrices of so many rows and columns, one by one.

        It unpacks them whole, or on a CPU by pieces of whole rows.
        """
        if self.quantization == "none":
            return 0
        numbers = (
            columns * (min(rows, max(1, _PIECE // columns)) if by_pieces else rows)
            for rows, columns in matrices
        )
        return max(numbers) * self.number


def check_quantization(quantization: Quantization, devices: Iterable[str]) -> None:
    """Whether models on `devices` (as ACESTEP_DEVICE) can be packed so. Raises SettingError."""
    if quantization == "none":
        return
    if find_spec("torchao") is None:
        raise SettingError(VARIABLE, quantization, _REMEDY)
    for name in devices:
        device = "mps" if name == "auto" and platform.system() == "Darwin" else name
        if quantization == "fp8" and device in _NO_FP8:
            raise SettingError(VARIABLE, quantization, f"int8 or none on {device}")
