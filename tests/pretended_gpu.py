"""GPUs that are not there: tensors say that they are on one, and what a real one would refuse is refused.

The numbers are computed by the CPU, so that they can be compared with what it makes by itself. Operands on
different devices, a wait for the GPU while a graph is recorded, and a graph of what runs on another GPU than
its stream are errors, as they are in CUDA, or worse. Holds for the thread that entered it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from acestep.networks import layers

CPU = torch.device("cpu")
# What tells the CPU something that only the GPU knows, and so waits for it.
_ASKS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "bincount", "equal", "is_nonzero"}
_CARRIES = {"to", "_to_copy", "copy_", "lift_fresh"}


class Held(Tensor):
    """A tensor on a device in the books alone; `numbers` are what is in it."""

    numbers: Tensor
    place: torch.device
    goal: torch.device  # what C++ believes

    @staticmethod
    def __new__(cls, real: Tensor, where: torch.device, goal: torch.device | None = None) -> Held:
        with torch.inference_mode(False):  # views of weights are counted with the weights' versions
            held: Held = Tensor._make_wrapper_subclass(
                cls, real.shape, strides=real.stride(), dtype=real.dtype, device=goal or where
            )
        held.numbers, held.place, held.goal = real, where, goal or where
        return held

    def __init__(self, *_: object) -> None:
        super().__init__()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func}: no GPU is pretended here")

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    @property
    def data(self) -> Tensor:
        return Held(self.numbers, self.place, self.goal)

    @data.setter
    def data(self, data: Tensor) -> None:
        self.numbers, self.place = _numbers(data), data.device

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        # C++ would find that it is there already.
        return self.numbers.to(*args, **kwargs) if self.place == CPU else super().to(*args, **kwargs)

    def numpy(self, *_: Any, **__: Any) -> Any:
        if self.place != CPU:
            raise TypeError(f"can't convert {self.place} device type tensor to numpy")
        return self.numbers.numpy()

    def tolist(self) -> Any:
        return self.cpu().tolist()


def kernels_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute as for a GPU on the CPU too, where some layers have another way that rounds otherwise."""

    def norm(self: layers.RMSNorm, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)

    monkeypatch.setattr(layers.RMSNorm, "forward", norm)
    monkeypatch.setattr(layers, "_BLOCK_ON_CPU", layers._BLOCK)


@dataclass(frozen=True)
class Wait:
    """The CPU waited for the GPU: what for, and the line of ours that made it."""

    what: str
    line: str


@dataclass
class _Recording:
    """What ran between the begin and the end of a capture; runs again on the same memory."""

    device: torch.device
    ran: list[tuple[Any, Any, Any, Any]] = field(default_factory=list)

    def replay(self) -> None:
        for func, args, kwargs, result in self.ran:
            again = _tensors(func(*args, **kwargs))
            for old, new in zip(_tensors(result), again, strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    def spoil(self) -> None:
        """Nothing is computed while a graph is recorded."""
        given = {
            tensor.untyped_storage().data_ptr()
            for _, args, kwargs, _ in self.ran
            for tensor in _tensors((args, kwargs))
        }
        for *_, result in self.ran:
            for tensor in _tensors(result):
                if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in given:
                    tensor.fill_(torch.nan)


class Gpu(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """All GPUs of a machine, while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[Wait] = []
        self.unfused: list[str] = []
        self.recording: _Recording | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        tensors = list(_tensors((args, kwargs)))
        where = self._where(name, func, tensors)
        target = _target(given, where)
        if "cuda" in (where.type, target.type):
            self._check(name, given, tensors, where, target)
            result = self._ran(name, func, args, kwargs)
            if name in ("to", "_to_copy") and target != where and result is _numbers(tensors[0]):
                result = result.clone()
        else:
            result = func(*_numbers(args), **_numbers(kwargs))
        movable = next((tensor for tensor in tensors if isinstance(tensor, Held)), None)
        if movable is None and "cuda" not in (where.type, target.type):
            return result
        goal = target if movable is None or target != CPU else movable.goal
        known = {id(_numbers(tensor)): tensor for tensor in tensors if tensor.device == target}
        plain = target == CPU != where  # what came from a GPU is of the CPU's own

        def held(tensor: Tensor) -> Tensor:
            if id(tensor) in known:
                return known[id(tensor)]
            return tensor if plain else Held(tensor, target, goal)

        return _mapped(held, Tensor, result)

    def _ran(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = (_mapped(lambda _: CPU, torch.device, _numbers(each)) for each in (args, kwargs))
        if name == "cumsum" and args[0].dtype == torch.float32 and args[0].numel() == args[0].shape[-1]:
            result = _summed_in_parts(args[0]) if kwargs.get("dtype") is None else func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        if self.recording is not None:
            self.recording.ran.append((func, args, kwargs, result))
        return result

    def _where(self, name: str, func: Any, tensors: Sequence[Tensor]) -> torch.device:
        """The device of what goes in, which must be one; numbers without dimensions may come from the CPU."""
        if name == "copy_":
            return tensors[1].device
        places = {tensor.device for tensor in tensors if tensor.device != CPU}
        if len(places) > 1:
            raise RuntimeError(f"{func}: tensors on {places}")
        if not places:
            return CPU
        left = [tensor for tensor in tensors if tensor.device == CPU and tensor.dim() > 0]
        indices = name in ("index", "index_put_", "_index_put_impl_") and tensors[0].device != CPU
        if left and not indices and name not in _CARRIES:
            raise RuntimeError(f"{func}: {left[0].shape} is on the CPU, and others are on {places.pop()}")
        if left and indices:
            self._wait(f"{name} carries indices over")
        return places.pop()

    def _check(
        self, name: str, given: dict[str, Any], tensors: Sequence[Tensor], where: Any, target: Any
    ) -> None:
        goal = tensors[0].device if name == "copy_" else target
        flies = goal != CPU and given.get("non_blocking") and self.recording is None
        if name in _CARRIES and where != goal and not flies:
            self._wait(f"{where.type} to {goal.type}")
        if name in _ASKS or (name == "index" and _asks_by_mask(given)):
            self._wait(name)
        if given.get("generator") is not None and given["generator"].device != target:
            raise RuntimeError(f"{name}: a generator on the CPU for a tensor on {target}")
        if name.startswith("rand") and given.get("generator") is None:
            raise RuntimeError(f"{name}: chance of the GPU's own")
        masked = name == "scaled_dot_product_attention" and given.get("attn_mask") is not None
        if masked and given.get("enable_gqa"):  # CUDA has no kernel for both that keeps no scores
            self.unfused.append(_line())
        if self.recording is not None and target != self.recording.device:
            raise RuntimeError(f"{name} runs on {target}; what is recorded is {self.recording.device}")

    def _wait(self, what: str) -> None:
        if self.recording is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        self.waits.append(Wait(what, _line()))


def movable(module: nn.Module, device: torch.device) -> nn.Module:
    """The module, with weights in main memory that a mover can carry to `device`."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None and not isinstance(weight, Held):
                with torch.inference_mode(False):
                    part._parameters[name] = _weight(weight.data, device)
    return module


def _weight(real: Tensor, device: torch.device) -> Any:
    weight: Any = Held(real, CPU, device)
    weight._is_param = True  # a parameter to PyTorch, whatever its class
    return weight


@contextmanager
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """GPUs, for what is done inside."""
    gpu = Gpu()
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "_lazy_init", lambda: None)
        # A module that moves gets other weights, since its own are no `Held`.
        patched.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
        _pretend_graphs(gpu, patched)
        torch._C._ensureCUDADeviceGuardSet()  # PyTorch's own guards do nothing then, where there is no GPU
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            with gpu:
                yield gpu
        finally:
            torch._C._set_only_lift_cpu_tensors(before)


def _pretend_graphs(gpu: Gpu, patched: pytest.MonkeyPatch) -> None:
    current = [torch.device("cuda:0")]

    class Stream:
        def __init__(self, device: Any = None) -> None:
            self.device = current[0] if device is None else torch.device(device)

        def wait_stream(self, other: Stream) -> None:
            """There is one thread."""

    class Graph:
        recording: _Recording

        def replay(self) -> None:
            assert gpu.recording is None
            self.recording.replay()

    @contextmanager
    def on(device: Any) -> Iterator[None]:
        before, current[0] = current[0], torch.device(device)
        try:
            yield
        finally:
            current[0] = before

    @contextmanager
    def record(graph: Graph, pool: object = None, stream: Any = None, **_: str) -> Iterator[None]:
        with on((stream or Stream()).device):
            gpu.recording = graph.recording = _Recording(current[0])
            try:
                yield
            finally:
                gpu.recording = None
            graph.recording.spoil()

    patched.setattr(torch.cuda, "Stream", Stream)
    patched.setattr(torch.cuda, "current_stream", Stream)
    patched.setattr(torch.cuda, "device", on)
    patched.setattr(torch.cuda, "stream", lambda stream: on(stream.device))
    patched.setattr(torch.cuda, "CUDAGraph", Graph)
    patched.setattr(torch.cuda, "graph", record)
    patched.setattr(torch.cuda, "empty_cache", lambda: None)


def _target(given: dict[str, Any], where: torch.device) -> torch.device:
    """Where what comes out is."""
    device = given.get("device")
    if device is None:
        return where
    found = torch.device(device)
    return torch.device("cuda:0") if found == torch.device("cuda") else found


def _asks_by_mask(given: dict[str, Any]) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in given["indices"])


def _mapped(change: Callable[[Any], Any], kind: type, given: Any) -> Any:
    """`given` with every `kind` in its lists, tuples and dictionaries changed."""
    if isinstance(given, kind):
        return change(given)
    if isinstance(given, (list, tuple)):
        return type(given)([_mapped(change, kind, each) for each in given])
    if isinstance(given, dict):
        return {key: _mapped(change, kind, each) for key, each in given.items()}
    return given


def _tensors(given: Any) -> Iterator[Tensor]:
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, (list, tuple, dict)):
        for each in given.values() if isinstance(given, dict) else given:
            yield from _tensors(each)


def _numbers(given: Any) -> Any:
    """What is computed with: no `Held`."""
    if isinstance(given, Held):
        return given.numbers
    return given if isinstance(given, Tensor) else _mapped(_numbers, Tensor, given)


def _summed_in_parts(row: Tensor) -> Tensor:
    """Running sums as a GPU may add them: within parts, and the sums of parts in another order."""
    flat = row.flatten()
    parts = [part.cumsum(0) for part in torch.split(flat, 5)]
    totals = torch.stack([part[-1] for part in parts])
    before = torch.stack([totals[:n].flip(0).sum() for n in range(len(parts))])
    return torch.cat([total + part for total, part in zip(before, parts, strict=True)]).view(row.shape)


def _line() -> str:
    """The nearest line of ours."""
    frame: Any = sys._getframe(1)
    while frame is not None and "/acestep/" not in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is None:
        return "elsewhere"
    return f"{frame.f_code.co_filename.rpartition('/acestep/')[2]}:{frame.f_code.co_name}"
