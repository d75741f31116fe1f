"""Strict reading of safetensors folders into modules that were built without memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError
from acestep.settings.types import Quantization
from acestep.weights.quantization import Packer

Rename = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """Where tensors go, and as what: of some models, the matrices of layers are packed in fewer bits.

    `beat` is called with each tensor that was read. It is how, not where: places are alike without it.
    """

    device: torch.device
    dtype: torch.dtype
    quantization: Quantization = "none"
    beat: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class TensorIndex:
    """Which file holds which tensor. `source` is what to name when one is missing."""

    source: Path
    files: dict[str, Path]

    @classmethod
    def of(cls, folder: Path, stem: str = "model") -> TensorIndex:
        """Index `<stem>.safetensors`, or the shards that `<stem>.safetensors.index.json` names."""
        single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
        if single.is_file():
            return cls(single, dict.fromkeys(_names(single), single))
        if not index.is_file():
            raise CheckpointError(f"{folder}: neither {single.name} nor {index.name} is there")
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        return cls(index, {name: folder / shard for shard in shards for name in _names(folder / shard)})

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor, without reading its data."""
        if name not in self.files:
            raise CheckpointError(f"{self.source}: tensor {name!r} is missing")
        with _open(self.files[name]) as tensors:
            return tuple(tensors.get_slice(name).get_shape())


@dataclass(frozen=True, slots=True)
class DeviceMover:
    """Carries weights between main memory and `device`; see `acestep.weights.offload.Mover`."""

    device: torch.device

    def home(self, data: Tensor) -> Tensor:
        """In main memory."""
        with torch.inference_mode(False):
            return data.to("cpu")

    def bring(self, home: Tensor) -> Tensor:
        """On the device."""
        with torch.inference_mode(False):
            return home.to(self.device)

    def away(self, home: Tensor) -> Tensor:
        """What is kept in main memory."""
        return home


def fill(
    module: nn.Module,
    index: TensorIndex,
    place: LoadTarget,
    stored_name: Rename = str,
    packed: str = "",
) -> None:
    """Give `module`, built on the meta device, the tensors of `index`, and make it ready for inference.

    `stored_name` turns a name of the module into the one in the files. What the module holds outside the
    meta device already is kept as it is. Of what is in its part called `packed`, matrices are stored as
    `place.quantization` has it. Raises CheckpointError for a tensor that is missing, left over or of another
    shape.
    """
    pack = Packer.of(place.quantization if packed else "none", module, packed)
    own_tensors = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_meta}
    own_names = {stored_name(name): name for name in own_tensors}
    _check_names(index, own_names)
    state: dict[str, Tensor] = {}
    for file in sorted(set(index.files.values())):
        with _open(file, place.device) as tensors:
            for name in (name for name, holder in index.files.items() if holder == file):
                tensor: Tensor = tensors.get_tensor(name)
                _check_shape(file, name, tensor, own_tensors[own_names[name]].shape)
                state[own_names[name]] = pack(own_names[name], tensor.to(place.dtype))
                place.beat()
    module.load_state_dict(state, strict=False, assign=True)
    module.to(place.device).eval().requires_grad_(False)
    pack.finish(module)


def read_tensors(file: Path, place: LoadTarget) -> dict[str, Tensor]:
    """Every tensor of one file by its name. Raises CheckpointError where the file cannot be read."""
    with _open(file, place.device) as tensors:
        return {name: tensors.get_tensor(name).to(place.dtype) for name in tensors.keys()}  # noqa: SIM118


def _check_names(index: TensorIndex, expected: Mapping[str, str]) -> None:
    for name, file in index.files.items():
        if name not in expected:
            raise CheckpointError(f"{file}: tensor {name!r} does not belong to this model")
    missing = sorted(expected.keys() - index.files.keys())
    if missing:
        rest = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CheckpointError(f"{index.source}: tensor {missing[0]!r}{rest} is missing")


def _check_shape(file: Path, name: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape:
        found, wanted = list(tensor.shape), list(shape)
        raise CheckpointError(f"{file}: tensor {name!r} has shape {found}; config.json asks for {wanted}")


def _names(file: Path) -> list[str]:
    with _open(file) as tensors:
        return list(tensors.keys())


def _open(file: Path, device: torch.device | None = None) -> Any:
    try:
        return safe_open(file, framework="pt", device=str(device or "cpu"))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from error
