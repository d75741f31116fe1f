"""Weights in fewer bits, by torchao: which of a model's, and how they are reached there.

Bytes and names of the ways are in `memory.sizes`. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from acestep.settings.types import Quantization

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

    def finish(self, module: nn.Module) -> None:
        """Let the layers of `module`, which holds all tensors now, find what moved."""
        for name in self.names:
            module.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(_seat_before)


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


def seat(linear: nn.Module) -> None:
    """Let a packed matrix know where its parts are, which may have been moved one by one.

    torchao computes on what it believes; and who asks for the device of a layer is told that.
    """
    weight: Any = linear.weight
    if unpacked_parts(weight) is None or weight.device == weight.qdata.device:
        return
    names, attributes = weight.__tensor_flatten__()
    parts = {name: getattr(weight, name) for name in names}
    with torch.inference_mode(False):
        again = type(weight).__tensor_unflatten__(parts, attributes, weight.shape, weight.stride())
        seated = nn.Parameter(again, requires_grad=False)
    for name, part in parts.items():
        setattr(seated, name, part)  # the parameter has made others of them, which nobody would move
    linear.weight = seated


def _seat_before(linear: nn.Module, inputs: object) -> None:
    seat(linear)
