"""The number formats that the models on one device compute in."""

from __future__ import annotations

from dataclasses import dataclass

from acestep.settings.types import NumberFormat, NumberFormatWish

_BYTES: dict[NumberFormat, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

# The least width of published networks, and of networks that are faster in bfloat16 only with AMX: narrower
# ones spend their time beside the products. Measured, see docs/performance.md.
PUBLISHED_WIDTH, _AMX_WIDTH = 1024, 256

_AMX, _AVX = "amx_bf16", "avx512_bf16"


@dataclass(frozen=True, slots=True)
class NumberFormats:
    """`wish` is ACESTEP_DTYPE; `cpu` the flags of the CPU that models run on, None on a GPU."""

    wish: NumberFormatWish = "auto"
    cpu: frozenset[str] | None = None

    def of(self, width: int = PUBLISHED_WIDTH) -> NumberFormat:
        """The format of a network with hidden states of so many numbers."""
        if self.wish != "auto":
            return self.wish
        least = 0 if self.cpu is None else _least_width(self.cpu)
        return "bfloat16" if least is not None and width >= least else "float32"

    @property
    def of_vae(self) -> NumberFormat:
        # Its convolutions in bfloat16 change the sound audibly on random weights, and save a CPU little.
        return self.of() if self.cpu is None else "float32"

    def bytes_of(self, width: int = PUBLISHED_WIDTH) -> int:
        return _BYTES[self.of(width)]

    @property
    def bytes_of_vae(self) -> int:
        return _BYTES[self.of_vae]


def _least_width(flags: frozenset[str]) -> int | None:
    if _AMX in flags:
        return _AMX_WIDTH
    return PUBLISHED_WIDTH if _AVX in flags else None
