"""Who is on the device: weights come when their stage begins, and go when another one does.

Which those are is the memory plan's decision; how a tensor moves is the mover's. Tensors are met by their
`data` alone, so that nothing here needs torch. For one thread at a time, by turns.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol
from weakref import ReferenceType, ref

from acestep.memory.plan import Placement

_PATIENCE = 0.1  # seconds between two looks at whether the turn is still wanted


class Mover(Protocol):
    """Carries the data of a weight; `home` is where it is kept for good."""

    def home(self, data: Any) -> Any:
        """The same data where it is to be kept."""
        ...

    def bring(self, home: Any) -> Any:
        """A copy of it on the device."""
        ...

    def away(self, home: Any) -> Any:
        """What a weight holds while it is not on the device."""
        ...


class Scratch(Protocol):
    """What is on the device beside weights while these are, and means nothing later: a cache."""

    def allocate(self) -> None:
        """Make it, on the device."""
        ...

    def release(self) -> None:
        """Let it go."""
        ...


class OffloadGroup:
    """Weights that come and go as one. `layers` are those of its modules that come one by one if streamed."""

    def __init__(
        self,
        placement: Placement,
        modules: Sequence[Any],
        layers: Sequence[Any] = (),
        scratch: Scratch | None = None,
    ) -> None:
        self.placement = placement
        self.layers = layers
        self.scratch = scratch
        self._modules = modules

    def weights(self) -> Iterator[Any]:
        """All, or where it is streamed those that belong to no layer; adapters that came later too."""
        apart = set(map(id, _weights(self.layers))) if self.placement == "streamed" else set()
        yield from (weight for weight in _weights(self._modules) if id(weight) not in apart)

    def everything(self) -> Iterator[Any]:
        """All of them."""
        yield from _weights(self._modules)


class OffloadManager:
    """What is on one device. Every model there shares it."""

    def __init__(self, mover: Mover) -> None:
        self._mover = mover
        self._lock = DeviceLock()
        self._inside: ReferenceType[OffloadGroup] | None = (
            None  # a model that left memory takes its part along
        )

    def group(
        self,
        placement: Placement,
        modules: Sequence[Any],
        layers: Sequence[Any] = (),
        scratch: Scratch | None = None,
    ) -> OffloadGroup:
        """Take charge of loaded modules; what does not stay goes home at once."""
        group = OffloadGroup(placement, modules, layers, scratch)
        if placement != "resident":
            # What another model shares may be at work at this moment, and is taken care of already.
            self._send(weight for weight in group.everything() if not hasattr(weight, "home"))
        return group

    def request(self) -> LockRequest:
        """Stand in line for the device."""
        return self._lock.request()

    @contextmanager
    def locked(self, check: Callable[[], None]) -> Iterator[None]:
        """Have the device; while others do, `check` is called now and then, and may raise."""
        locked = self.request()
        try:
            while not locked.came(_PATIENCE):
                check()
            yield
        finally:
            locked.end()

    def enter(self, group: OffloadGroup) -> None:
        """Begin the stage that these weights are for: whatever else came for its own stage goes.

        Where there is no room for them, none of them is there.
        """
        inside = None if self._inside is None else self._inside()
        if group is inside:
            return
        if inside is not None:
            self._leave(inside)
        if group.placement == "resident":
            return
        self._inside = ref(group)
        try:
            self._bring(group.weights())
            if group.scratch is not None:
                group.scratch.allocate()
        except BaseException:
            self._leave(group)
            raise

    def _leave(self, group: OffloadGroup) -> None:
        if group.scratch is not None:
            group.scratch.release()
        self._send(group.everything())
        self._inside = None

    def layers(self, group: OffloadGroup) -> Iterator[Any]:
        """The layers of a part that was entered, each of them on the device while it is looked at."""
        for layer in group.layers:
            if group.placement == "streamed":
                self._bring(_weights([layer]))
            try:
                yield layer
            finally:
                if group.placement == "streamed":
                    self._send(_weights([layer]))

    def _bring(self, weights: Iterable[Any]) -> None:
        for weight in weights:
            if not hasattr(weight, "home"):  # an adapter that came after its part was taken charge of
                weight.home = self._mover.home(weight.data)
            weight.data = self._mover.bring(weight.home)

    def _send(self, weights: Iterable[Any]) -> None:
        for weight in weights:
            if not hasattr(weight, "home"):
                weight.home = self._mover.home(weight.data)
            weight.data = self._mover.away(weight.home)


class OffloadedModel:
    """A part that a thread of its own works with, for as long as it has something to do."""

    def __init__(self, offload_manager: OffloadManager, group: OffloadGroup) -> None:
        self._offload_manager = offload_manager
        self._part = group
        self._turn: LockRequest | None = None

    def come(self, seconds: float) -> bool:
        """Whether the part is on the device, which is nobody else's until `go`; waits so long at most."""
        if self._turn is None:
            self._turn = self._offload_manager.request()
        if not self._turn.came(seconds):
            return False
        self._offload_manager.enter(self._part)
        return True

    @property
    def is_awaited(self) -> bool:
        """Whether somebody else waits for the device."""
        return self._turn is not None and self._turn.is_awaited

    def go(self) -> None:
        """Let others have the device. The part stays on it until one of them comes."""
        if self._turn is not None:
            self._turn.end()
            self._turn = None


class ModulePlacement:
    """The weights of one model, in groups with the names of the memory plan."""

    def __init__(self, offload_manager: OffloadManager, groups: Mapping[str, OffloadGroup]) -> None:
        self._offload_manager = offload_manager
        self._groups = groups

    def locked(self, check: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        return self._offload_manager.locked(check)

    def enter(self, name: str) -> None:
        self._offload_manager.enter(self._groups[name])

    def layers(self, name: str) -> Iterator[Any]:
        return self._offload_manager.layers(self._groups[name])


def _weights(modules: Iterable[Any]) -> Iterator[Any]:
    """Each once, also where two modules share it."""
    seen: set[int] = set()
    for module in modules:
        for weight in module.parameters():
            if id(weight) not in seen:
                seen.add(id(weight))
                yield from _tensors(weight)


def _tensors(weight: Any) -> Iterator[Any]:
    """What a weight consists of: itself, or where it is packed in fewer bits the tensors in it."""
    if not hasattr(weight, "__tensor_flatten__"):
        yield weight
        return
    names, _ = weight.__tensor_flatten__()
    yield from (getattr(weight, name) for name in names)


class DeviceLock:
    """A line of threads before one device. For any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[LockRequest] = deque()

    def request(self) -> LockRequest:
        """Stand in line; returns at once. Whoever asks must `end` the turn, come or not."""
        locked = LockRequest(self._line, self._changed)
        with self._changed:
            self._line.append(locked)
        return locked


class LockRequest:
    """A place in the line."""

    def __init__(self, line: deque[LockRequest], changed: threading.Condition) -> None:
        self._line = line
        self._changed = changed

    def came(self, seconds: float) -> bool:
        """Whether the device is ours, for which this waits so long at most."""
        with self._changed:
            return self._changed.wait_for(lambda: self._line[0] is self, seconds)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody stands behind."""
        with self._changed:
            return self._line[-1] is not self

    def end(self) -> None:
        """Leave the line, or the device."""
        with self._changed:
            self._line.remove(self)
            self._changed.notify_all()
