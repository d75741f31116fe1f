"""Weights in fewer bits, by torchao: which of a model's, and how they are reached there.

Owns the choice of torchao's settings: a scale for each row of a matrix, nothing for what a layer computes
on (weight-only). Bytes and names of the ways are in `memory.stored`. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from acestep.setting_kinds import Quantization

Pack = Callable[[Tensor], nn.Parameter]


@dataclass(frozen=True, slots=True)
class Packer:
    """Packs tensors while they are read, one at a time: a whole model is never in memory unpacked.

    `names` are those of the tensors to pack, in the module that is filled.
    """

    names: frozenset[str]
    pack: Pack = field(repr=False)

    @classmethod
    def of(cls, quantization: Quantization, module: nn.Module, part: str) -> Packer:
        """Packs the weights of the linear layers in the part of `module` that is called `part`."""
        if quantization == "none":
            return cls(frozenset(), nn.Parameter)
        found = (
            f"{name}.weight"
            for name, layer in module.named_modules()
            if name.startswith(f"{part}.") and type(layer) is nn.Linear
        )
        return cls(frozenset(found), packing(quantization))

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """`tensor`, packed if it is to be."""
        return self.pack(tensor) if name in self.names else tensor


def packing(quantization: Quantization) -> Pack:
    """What packs a matrix `[rows, columns]`; the parameter behaves as if it still had its dtype."""
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    # Settings for torch.compile concern the whole process, and nothing here is compiled.
    configs = {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}
    config = configs[quantization](set_inductor_config=False)

    def pack(tensor: Tensor) -> nn.Parameter:
        around = nn.Linear(1, 1, bias=False, device="meta")
        around.weight = nn.Parameter(tensor, requires_grad=False)
        quantize_(around, config)
        return around.weight

    return pack


def unpacked_parts(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """The numbers `[rows, columns]` and the scales `[rows]` of a packed matrix; None if it is not packed."""
    if not hasattr(weight, "__tensor_flatten__"):
        return None
    packed: Any = weight
    return packed.qdata, packed.scale.flatten()


def replace_parts(weight: Tensor, numbers: Tensor, scales: Tensor) -> None:
    """Let a packed matrix consist of these from now on, which are equal to its `unpacked_parts`."""
    packed: Any = weight
    packed.qdata, packed.scale = numbers, scales[:, None]


def lies_on(weight: Tensor) -> torch.device:
    """Where a weight's numbers are. A packed one whose parts were moved does not know it itself."""
    parts = unpacked_parts(weight)
    return weight.device if parts is None else parts[0].device
