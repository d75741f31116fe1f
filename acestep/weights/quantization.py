"""Matrices packed in 8 bits, by torchao."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard

import torch
from torch import Tensor, nn

from acestep.settings.types import Quantization

Pack = Callable[[Tensor], nn.Parameter]


class PackedTensor(Protocol):  # torchao's `Int8Tensor` and `Float8Tensor`
    qdata: Tensor  # [rows, columns]
    scale: Tensor  # [rows, 1]
    device: torch.device
    shape: torch.Size

    def stride(self) -> tuple[int, ...]: ...

    def __tensor_flatten__(self) -> tuple[list[str], object]: ...

    @staticmethod
    def __tensor_unflatten__(
        parts: dict[str, Tensor], attributes: object, shape: torch.Size, stride: tuple[int, ...]
    ) -> Tensor: ...


def is_packed(weight: object) -> TypeGuard[PackedTensor]:
    return hasattr(weight, "__tensor_flatten__")


@dataclass(frozen=True, slots=True)
class Packer:
    """Packs tensors one at a time while they are read, so that a whole model is never in memory unpacked."""

    names: frozenset[str]  # of the tensors to pack, in the module that is filled
    pack: Pack = field(repr=False)

    @classmethod
    def of(cls, quantization: Quantization, module: nn.Module, part: str) -> Packer:
        """A packer of the linear layers' weights in the submodule of `module` called `part`."""
        if quantization == "none":
            return cls(frozenset(), nn.Parameter)
        found = (
            f"{name}.weight"
            for name, layer in module.named_modules()
            if name.startswith(f"{part}.") and type(layer) is nn.Linear
        )
        return cls(frozenset(found), packing(quantization))

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        return self.pack(tensor) if name in self.names else tensor

    def finish(self, module: nn.Module) -> None:
        """Prepare the layers of `module` for parts that move between devices."""
        for name in self.names:
            layer = module.get_submodule(name.removesuffix(".weight"))
            layer.register_forward_pre_hook(_refresh_before_forward)


def packing(quantization: Quantization) -> Pack:
    """A function that packs a matrix `[rows, columns]`."""
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    # Its settings for torch.compile would be the whole process's, and nothing here is compiled.
    configs = {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}
    config = configs[quantization](set_inductor_config=False)

    def pack(tensor: Tensor) -> nn.Parameter:
        linear = nn.Linear(1, 1, bias=False, device="meta")
        linear.weight = nn.Parameter(tensor, requires_grad=False)
        quantize_(linear, config)
        return linear.weight

    return pack


def unpacked_parts(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """The numbers `[rows, columns]` and the scales `[rows]` of a packed matrix; None if it is not packed."""
    packed: object = weight
    return (packed.qdata, packed.scale.flatten()) if is_packed(packed) else None


def replace_parts(weight: Tensor, numbers: Tensor, scales: Tensor) -> None:
    packed: object = weight
    assert is_packed(packed)
    packed.qdata, packed.scale = numbers, scales[:, None]


def refresh_device(linear: nn.Module) -> None:
    """Make a packed matrix anew if its parts were moved, since torchao stores its device when it is made."""
    weight: object = linear.weight
    if not is_packed(weight) or weight.device == weight.qdata.device:
        return
    names, attributes = weight.__tensor_flatten__()
    parts: dict[str, Tensor] = {name: getattr(weight, name) for name in names}
    with torch.inference_mode(False):
        again = type(weight).__tensor_unflatten__(parts, attributes, weight.shape, weight.stride())
        refreshed = nn.Parameter(again, requires_grad=False)
    for name, part in parts.items():
        setattr(refreshed, name, part)  # nn.Parameter makes copies, which `OffloadManager` does not move
    linear.weight = refreshed


def _refresh_before_forward(linear: nn.Module, inputs: object) -> None:
    refresh_device(linear)
