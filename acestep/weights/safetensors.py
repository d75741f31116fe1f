"""Strict reading of safetensors folders into modules that were built without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError
from acestep.settings.types import Quantization
from acestep.weights.quantization import Packer

Rename = Callable[[str], str]

# What modules fill their parameters with; their `tensor` is returned.
_DRAWING = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)

_ALIGNMENT = 64  # bytes; torch aligns its own memory so


class TensorSlice(Protocol):
    def get_shape(self) -> list[int]: ...


class TensorFile(Protocol):
    def keys(self) -> list[str]: ...

    def get_tensor(self, name: str) -> Tensor: ...

    def get_slice(self, name: str) -> TensorSlice: ...


@dataclass(frozen=True, slots=True)
class LoadTarget:
    device: torch.device
    dtype: torch.dtype
    quantization: Quantization = "none"  # of matrices in layers
    beat: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)  # after each tensor


@dataclass(frozen=True, slots=True)
class TensorIndex:
    source: Path  # named in errors about missing tensors
    files: dict[str, Path]  # by the names of their tensors

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
        if name not in self.files:
            raise CheckpointError(f"{self.source}: tensor {name!r} is missing")
        with _open(self.files[name]) as tensors:
            return tuple(tensors.get_slice(name).get_shape())


@dataclass(frozen=True, slots=True)
class DeviceMover:
    """The `acestep.weights.offload.Mover` between main memory and `device`."""

    device: torch.device

    def home(self, data: Tensor) -> Tensor:
        with torch.inference_mode(False):
            return data.to("cpu")

    def bring(self, home: Tensor) -> Tensor:
        with torch.inference_mode(False):
            return home.to(self.device)

    def away(self, home: Tensor) -> Tensor:
        return home


class _WithoutDrawing(TorchFunctionMode):
    # Drawing numbers on the meta device runs Python code of torch's compiler, whose import takes seconds.
    def __torch_function__(
        self, func: Callable[..., object], _: object, args: Sequence[object] = (), kwargs: object = None
    ) -> object:
        named = cast("dict[str, object]", kwargs or {})
        return named["tensor"] if func in _DRAWING else func(*args, **named)


@contextmanager
def without_memory() -> Iterator[None]:
    """Build modules on the meta device, for `fill`; their numbers are not drawn."""
    with torch.device("meta"), _WithoutDrawing():
        yield


def fill(
    module: nn.Module,
    index: TensorIndex,
    target: LoadTarget,
    stored_name: Rename = str,
    packed: str = "",
) -> None:
    """Load the tensors of `index` into those of `module` that are on the meta device.

    `stored_name` turns a name in the module into the one in the files; matrices in the submodule `packed` are
    quantized. Raises CheckpointError for a tensor that is missing, left over or of another shape.
    """
    pack = Packer.of(target.quantization if packed else "none", module, packed)
    own_tensors = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_meta}
    own_names = {stored_name(name): name for name in own_tensors}
    _check_names(index, own_names)
    state: dict[str, Tensor] = {}
    for file in sorted(set(index.files.values())):
        with _open(file, target.device) as tensors:
            for name in (name for name, holder in index.files.items() if holder == file):
                tensor = tensors.get_tensor(name)
                _check_shape(file, name, tensor, own_tensors[own_names[name]].shape)
                state[own_names[name]] = pack(own_names[name], _aligned(tensor.to(target.dtype)))
                target.beat()
    module.load_state_dict(state, strict=False, assign=True)
    module.to(target.device).eval().requires_grad_(False)
    pack.finish(module)


def read_tensors(file: Path, target: LoadTarget) -> dict[str, Tensor]:
    """All tensors of one file by their names. Raises CheckpointError if it cannot be read."""
    with _open(file, target.device) as tensors:
        names = tensors.keys()
        return {name: _aligned(tensors.get_tensor(name).to(target.dtype)) for name in names}


def _aligned(tensor: Tensor) -> Tensor:
    # A tensor that is mapped begins anywhere, and some CPUs round a product by where (decision 0010), but not
    # one in bfloat16 or float16: such tensors stay mapped, so that their memory can be reclaimed.
    if tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.data_ptr() % _ALIGNMENT:
        return tensor.clone()
    return tensor


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


def _open(file: Path, device: torch.device | None = None) -> AbstractContextManager[TensorFile]:
    try:
        opened: AbstractContextManager[TensorFile] = safe_open(
            file, framework="pt", device=str(device or "cpu")
        )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from error
    return opened
