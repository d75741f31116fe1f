"""Offloaded weights: in main memory, and on the device only while their stage runs.

The memory plan decides which weights those are. One thread at a time uses the device.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol
from weakref import ReferenceType, ref

from torch import Tensor

from acestep.memory.plan import Placement

_CHECK_SECONDS = 0.1  # between two checks of whether the waiting thread still wants the device


class Mover(Protocol):
    """Moves the data of a weight between `home`, in main memory, and the device."""

    def home(self, data: Tensor) -> Tensor: ...

    def bring(self, home: Tensor) -> Tensor: ...

    def away(self, home: Tensor) -> Tensor:
        """The data of a weight that is not on the device."""
        ...


class HasWeights(Protocol):
    """A torch module, or an object like it."""

    def parameters(self) -> Iterable[Tensor]: ...


class Workspace(Protocol):
    """Memory that a group needs on the device beside its weights, and whose content is not kept."""

    def allocate(self) -> None: ...

    def release(self) -> None: ...


class OffloadGroup:
    """Weights that are on the device together. If streamed, `layers` are there one at a time."""

    def __init__(
        self,
        placement: Placement,
        modules: Sequence[HasWeights],
        layers: Sequence[HasWeights] = (),
        workspace: Workspace | None = None,
    ) -> None:
        self.placement = placement
        self.layers = layers
        self.workspace = workspace
        self._modules = modules

    def entered(self) -> Iterator[Tensor]:
        """The weights that `enter` loads: all but streamed layers, with adapters that were loaded later."""
        streamed = set(map(id, _weights(self.layers))) if self.placement == "streamed" else set()
        yield from (weight for weight in self.everything() if id(weight) not in streamed)

    def everything(self) -> Iterator[Tensor]:
        yield from _weights(self._modules)


class OffloadManager:
    """Decides which group is on one device. All models on the device share it."""

    def __init__(self, mover: Mover) -> None:
        self._mover = mover
        self._lock = DeviceLock()
        # Weak, so that the weights of a model leave memory with it.
        self._current: ReferenceType[OffloadGroup] | None = None

    def group(
        self,
        placement: Placement,
        modules: Sequence[HasWeights],
        layers: Sequence[HasWeights] = (),
        workspace: Workspace | None = None,
    ) -> OffloadGroup:
        """Make a group of loaded modules. Unless it is resident, its weights are offloaded at once."""
        group = OffloadGroup(placement, modules, layers, workspace)
        if placement != "resident":
            # Weights with a home belong to another model too, which may be using them now.
            self._offload(weight for weight in group.everything() if _home(weight) is None)
        return group

    def request(self) -> LockRequest:
        return self._lock.request()

    @contextmanager
    def locked(self, check: Callable[[], None]) -> Iterator[None]:
        """Use the device exclusively; `check` runs now and then while this waits, and may raise."""
        request = self.request()
        try:
            while not request.wait(_CHECK_SECONDS):
                check()
            yield
        finally:
            request.release()

    def enter(self, group: OffloadGroup) -> None:
        """Load the group onto the device, and offload the one before. Out of memory, it loads none of it."""
        current = None if self._current is None else self._current()
        if group is current:
            return
        if current is not None:
            self._leave(current)
        if group.placement == "resident":
            return
        self._current = ref(group)
        try:
            self._load(group.entered())
            if group.workspace is not None:
                group.workspace.allocate()
        except BaseException:
            self._leave(group)
            raise

    def _leave(self, group: OffloadGroup) -> None:
        if group.workspace is not None:
            group.workspace.release()
        self._offload(group.everything())
        self._current = None

    def layers(self, group: OffloadGroup) -> Iterator[HasWeights]:
        """The layers of an entered group, each on the device while the caller is at it."""
        for layer in group.layers:
            if group.placement == "streamed":
                self._load(_weights([layer]))
            try:
                yield layer
            finally:
                if group.placement == "streamed":
                    self._offload(_weights([layer]))

    def _load(self, weights: Iterable[Tensor]) -> None:
        for weight in weights:
            weight.data = self._mover.bring(self._kept(weight))

    def _offload(self, weights: Iterable[Tensor]) -> None:
        for weight in weights:
            weight.data = self._mover.away(self._kept(weight))

    def _kept(self, weight: Tensor) -> Tensor:
        # The weight's data in main memory; an adapter's is there only after its group was made.
        home = _home(weight)
        if home is None:
            home = vars(weight)["home"] = self._mover.home(weight.data)
        return home


class ModulePlacement:
    """The groups of one model, by their names in the memory plan."""

    def __init__(self, offload_manager: OffloadManager, groups: Mapping[str, OffloadGroup]) -> None:
        self._offload_manager = offload_manager
        self._groups = groups

    def locked(self, check: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        return self._offload_manager.locked(check)

    def enter(self, name: str) -> None:
        self._offload_manager.enter(self._groups[name])

    def layers(self, name: str) -> Iterator[HasWeights]:
        """Enter a group, and return its layers, each on the device while the caller is at it."""
        self.enter(name)
        return self._offload_manager.layers(self._groups[name])


class OffloadedModel:
    """A group that one thread uses for as long as it has work, and then releases."""

    def __init__(self, offload_manager: OffloadManager, group: OffloadGroup) -> None:
        self._offload_manager = offload_manager
        self._group = group
        self._request: LockRequest | None = None

    def acquire(self, seconds: float) -> bool:
        """Whether the group is on the device, for this thread until `release`; waits `seconds` at most."""
        if self._request is None:
            self._request = self._offload_manager.request()
        if not self._request.wait(seconds):
            return False
        self._offload_manager.enter(self._group)
        return True

    @property
    def is_awaited(self) -> bool:
        return self._request is not None and self._request.is_awaited

    def release(self) -> None:
        """Release the device. The group stays on it until another one is entered."""
        if self._request is not None:
            self._request.release()
            self._request = None


def _weights(modules: Iterable[HasWeights]) -> Iterator[Tensor]:
    seen: set[int] = set()
    for module in modules:
        for weight in module.parameters():
            if id(weight) not in seen:
                seen.add(id(weight))
                yield from _tensors(weight)


def _tensors(weight: Tensor) -> Iterator[Tensor]:
    # The tensors inside a packed (quantized) weight; otherwise the weight.
    if not hasattr(weight, "__tensor_flatten__"):
        yield weight
        return
    names, _ = weight.__tensor_flatten__()
    yield from (getattr(weight, name) for name in names)


def _home(weight: Tensor) -> Tensor | None:
    home: Tensor | None = vars(weight).get("home")
    return home


class DeviceLock:
    """Gives a device to one thread at a time, in the order of their requests. For any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: deque[LockRequest] = deque()

    def request(self) -> LockRequest:
        """Returns at once. The caller must `release` the request, granted or not."""
        request = LockRequest(self._requests, self._changed)
        with self._changed:
            self._requests.append(request)
        return request


class LockRequest:
    def __init__(self, requests: deque[LockRequest], changed: threading.Condition) -> None:
        self._requests = requests
        self._changed = changed

    def wait(self, seconds: float) -> bool:
        """Whether it is granted; waits `seconds` at most."""
        with self._changed:
            return self._changed.wait_for(lambda: self._requests[0] is self, seconds)

    @property
    def is_awaited(self) -> bool:
        with self._changed:
            return self._requests[-1] is not self

    def release(self) -> None:
        """Give the device back, or withdraw the request."""
        with self._changed:
            self._requests.remove(self)
            self._changed.notify_all()
