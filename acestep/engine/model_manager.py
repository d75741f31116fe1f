"""The shelf of models: which may be asked for, which are in memory, and who keeps one there.

How a model is loaded is the slots' affair; which model a request means is decided in `limits`. Lives on one
event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Protocol

from acestep.catalog.checkpoints import is_bare
from acestep.domain.models import ModelInfo
from acestep.engine.idle import LEFT, IdlePolicy, as_on_demand, leave_when_idle
from acestep.engine.model_entry import ModelEntry, nothing
from acestep.engine.renderer import Load, Loaded, OnLoading
from acestep.engine.threads import Free, WatchedThread, computing_thread, load_or_give_up, try_load
from acestep.errors import CheckpointError, InvalidFieldError, ModelUnavailableError, StageStuckError
from acestep.limits import choose_model

log = logging.getLogger(__name__)

PRIMARY = 1  # the slot of the default model


@dataclass(frozen=True, slots=True)
class Slot:
    """A model as far as it is known before it is loaded; without `load` it cannot be, and `info` says why."""

    info: ModelInfo
    load: Load | None = None


class Catalog(Protocol):
    """The models that lie on disk."""

    def on_disk(self) -> tuple[ModelInfo, ...]:
        """All that are whole, as far as they are known without loading them; cheap."""
        ...

    def find(self, name: str, beside: Sequence[ModelInfo] | None = None) -> Slot:
        """The model of this name or folder, with the limits that hold while those `beside` are in memory.

        None: others leave for it. Raises CheckpointError that says how to get it.
        """
        ...

    def no_room(self, infos: Sequence[ModelInfo]) -> str:
        """Why these models cannot be in memory at once, with their limits; "" if they can, as is known."""
        ...


class ModelManager:
    """The models of this process by their slot; PRIMARY is the one that runs when none is named.

    With `room`, models in the catalogue are loaded when a request names them, and at most so many are in
    memory then: who was not used for longest leaves. Without, what is in the slots is all there is.
    """

    def __init__(
        self,
        slots: Mapping[int, Slot],
        catalog: Catalog | None = None,
        room: int = 0,
        idle_policy: IdlePolicy | None = None,
    ) -> None:
        self._slots = {number: ModelEntry(slot.info, slot.load) for number, slot in slots.items()}
        self._on_demand: dict[str, ModelEntry] = {}  # loaded because a request named them
        self._catalog = catalog
        self._room = room
        self._idle_policy = idle_policy or IdlePolicy()
        self._leaving: asyncio.Task[None] | None = None
        self._thread = WatchedThread(computing_thread("load-model"), self._idle_policy.watchdog)
        self._is_ready = False
        self._admission = asyncio.Lock()  # whoever needs room waits for it before those who came later
        self._changed = asyncio.Event()
        self._putting = asyncio.Lock()
        self._uses = count()

    def infos(self) -> tuple[ModelInfo, ...]:
        """The models that can be asked for, the default first."""
        shelved = tuple(entry.info for entry in self._entries())
        if not self._room or self._catalog is None:
            return shelved
        return (*shelved, *self._others(self._catalog))

    def inventory(self) -> tuple[ModelInfo, ...]:
        shelved = tuple(entry.info for entry in self._entries())
        return (*shelved, *self._others(self._catalog)) if self._catalog else shelved

    def occupants(self) -> tuple[ModelInfo, ...]:
        """The models that take up memory, or come back into it without asking who else is there."""
        return tuple(entry.info for entry in self._occupied())

    @property
    def primary(self) -> ModelInfo:
        """The default model, as far as it is known by now."""
        return self._slots[PRIMARY].info

    async def start(self) -> None:
        """Begin to load what is in the slots, in their order, or say that it comes later; returns at once."""
        for entry in tuple(self._entries()):
            if self._idle_policy.is_lazy and entry.load is not None:
                entry.info = as_on_demand(entry.info)
            else:
                self._begin(entry)
        if seconds := self._idle_policy.idle_seconds:
            self._leaving = asyncio.create_task(leave_when_idle(seconds, self._entries, self._leave))

    async def wait_ready(self) -> None:
        """Return once a model can serve: one in memory, or on demand once the default has been tried."""
        while not self._is_ready:
            states = {info.state for info in self.infos()}
            is_tried = self.primary.state not in ("loading", "downloading")
            self._is_ready = "ready" in states or (is_tried and "on_disk" in states)
            if not self._is_ready:
                self._changed.clear()
                await self._changed.wait()

    async def close(self) -> None:
        """Stop loading and free the thread."""
        if self._leaving is not None:
            self._leaving.cancel()
        for entry in self._entries():
            if entry.loading is not None:
                entry.loading.cancel()
        self._thread.close()

    async def put(self, number: int, name: str | None = None) -> ModelInfo:
        async with self._putting:
            old = self._slots.get(number)
            self._idle_policy.watchdog.check()
            wished = await self._wished(number, name)
            new = ModelEntry(replace(wished.info, is_default=number == PRIMARY), wished.load)
            leaves = await self._leaves_first(old, new)
            if leaves and old is not None:
                self._slots[number] = new
                new.on_failure = partial(self._bring_back, number, old)
                self._begin(new, after=old)
            else:
                if old is None or old.info.state == "failed":
                    self._slots[number] = new  # so that all see how far it is
                self._begin(new)
            await self._arrival(number, new)
            if new.loaded is None:
                raise ModelUnavailableError(f"{new.info.name} could not be loaded: {new.info.detail}")
            self._slots[number] = new
            self._on_demand.pop(new.info.name, None)
            return new.info

    async def _arrival(self, number: int, new: ModelEntry) -> None:
        """Return once a model for a slot is settled. Raises StageStuckError where the thread is stuck before.

        A model that has its slot already may come late; of another, nobody would know.
        """
        try:
            await self._idle_policy.watchdog.until(new.settled, self._thread)
        except StageStuckError:
            if self._slots.get(number) is not new and new.loading is not None:
                new.loading.cancel()
            raise

    async def _leaves_first(self, old: ModelEntry | None, new: ModelEntry) -> bool:
        """Whether the model in a slot must leave before another comes there.

        Raises InvalidFieldError where there is no room for the other even then.
        """
        if self._catalog is None:
            return False
        others = self._neighbours(old, new.info.name)
        reason = await asyncio.to_thread(self._catalog.no_room, [*others, new.info])
        if reason:
            remedy = "Set ACESTEP_CONFIG_PATH, ACESTEP_CONFIG_PATH2 and ACESTEP_CONFIG_PATH3, and start again"
            raise InvalidFieldError("model", new.info.name, "models that fit together", f"{reason}. {remedy}")
        if old is None or not old.takes_room:
            return False
        return bool(await asyncio.to_thread(self._catalog.no_room, [*others, old.info, new.info]))

    async def _load_after(self, old: ModelEntry, new: ModelEntry) -> None:
        """Load a model once the songs of another have ended, which leaves then."""
        while old.users or (old.loading is not None and not old.settled.is_set()):
            self._changed.clear()
            await self._changed.wait()
        self._drop(old)
        await self._load(new)

    def _bring_back(self, number: int, old: ModelEntry) -> None:
        """Load a model again that left for one that did not come."""
        self._slots[number] = old
        self._begin(old)

    async def reload(self) -> tuple[str, ...]:
        self._idle_policy.watchdog.check()
        failed = [number for number, entry in sorted(self._slots.items()) if entry.info.state == "failed"]
        again = []
        for number in failed:
            with suppress(ModelUnavailableError, InvalidFieldError):  # its state and the log say why
                again.append((await self.put(number)).name)
        return tuple(again)

    async def _wished(self, number: int, name: str | None) -> Slot:
        """The model to put into a slot; what is there already, where no other is named."""
        old = self._slots.get(number)
        if old is not None and name in (None, old.info.name):
            if old.load is not None:
                return Slot(replace(old.info, state="loading", detail=""), old.load)
            name = old.info.name
        elsewhere = [n for n, entry in self._slots.items() if n != number and entry.info.name == name]
        if elsewhere:
            raise InvalidFieldError("model", name, f"a model that is not in slot {elsewhere[0]} already")
        names = ", ".join(info.name for info in self.inventory())
        allowed = f"a published name, or one of {names}"
        if name is None or not is_bare(name) or self._catalog is None:
            raise InvalidFieldError("model", name, allowed)
        try:
            return await asyncio.to_thread(self._catalog.find, name, self._neighbours(old, name))
        except CheckpointError as error:
            log.warning("Slot %d stays as it is. %s", number, error)
            raise InvalidFieldError("model", name, allowed) from error

    @asynccontextmanager
    async def borrow(self, name: str | None) -> AsyncIterator[tuple[Loaded, tuple[str, ...]]]:
        """The model that runs a request for `name`, which stays in memory meanwhile, and sentences about it.

        Waits while it is loaded. Where that fails, it is the default. Raises ModelUnavailableError with the
        reason where that one failed too, StageStuckError where loading makes no progress.
        """
        entry, notes = await self._take(name)
        failed = entry.info
        if entry.loaded is None and entry is not self._slots[PRIMARY]:
            self._put_back(entry)
            if self.primary.state == "failed":
                raise _not_loaded(failed)
            entry, _ = await self._take(None)
            used = f"{entry.info.name} is used instead of {failed.name}"
            notes = (f"model: {used}, which could not be loaded: {failed.detail}",)
        try:
            if entry.loaded is None:
                raise _not_loaded(failed)
            yield entry.loaded, notes
        finally:
            self._put_back(entry)

    async def _take(self, name: str | None) -> tuple[ModelEntry, tuple[str, ...]]:
        """The place of the model for `name`, once it is settled if it can be used, and why it is that one.

        It counts as in use from now on.
        """
        async with self._admission:
            info, notes = choose_model(self.infos(), name, strict=False)
            entry = self._find(info.name)
            entry.users += 1
            try:
                if entry.loading is None:
                    await self._make_room(entry)
                    self._begin(entry)
            except BaseException:
                self._put_back(entry)
                raise
        try:
            watchdog, thread = self._idle_policy.watchdog, self._thread
            await watchdog.until(entry.settled, thread, lambda: thread.stage == entry.stage)
        except BaseException:
            self._put_back(entry)
            raise
        return entry, notes

    def _put_back(self, entry: ModelEntry) -> None:
        entry.users -= 1
        entry.last_use = next(self._uses)
        entry.used_at = time.monotonic()
        self._forget(entry)
        self._changed.set()

    def _forget(self, entry: ModelEntry) -> None:
        """Let a guest go that did not come, so that the next request for it tries again."""
        name = entry.info.name
        if not entry.users and not entry.takes_room and self._on_demand.get(name) is entry:
            del self._on_demand[name]

    def _entries(self) -> Iterator[ModelEntry]:
        yield from (self._slots[number] for number in sorted(self._slots))
        yield from self._on_demand.values()

    def _occupied(self) -> Iterator[ModelEntry]:
        """Those in memory, or on their way; and those that come back there without asking who else is."""
        for entry in self._entries():
            comes_back = not self._room and entry.load is not None and entry.info.state == "on_disk"
            if entry.takes_room or comes_back:
                yield entry

    def _neighbours(self, old: ModelEntry | None, name: str) -> list[ModelInfo]:
        """Whom the model `name` meets in memory in place of `old`; it may be there as a guest already."""
        return [each.info for each in self._occupied() if each is not old and each.info.name != name]

    def _others(self, catalog: Catalog) -> Iterator[ModelInfo]:
        known = {entry.info.name for entry in self._entries()}
        yield from (info for info in catalog.on_disk() if info.name not in known)

    def _find(self, name: str) -> ModelEntry:
        for entry in self._entries():
            if entry.info.name == name:
                return entry
        assert self._catalog is not None  # who told of it
        slot = self._catalog.find(name)
        self._on_demand[name] = ModelEntry(slot.info, slot.load)
        return self._on_demand[name]

    async def _make_room(self, new: ModelEntry) -> None:
        """Let models leave until this one may be in memory too; waits while all of them are in use.

        Raises ModelUnavailableError where there is no room even for it alone.
        """
        while self._room and self._catalog is not None:
            there = [entry for entry in self._entries() if entry.takes_room]
            reason = self._catalog.no_room([*(entry.info for entry in there), new.info])
            if len(there) < self._room and not reason:
                return
            if not there:
                raise ModelUnavailableError(reason)
            idle = [entry for entry in there if entry.loaded is not None and not entry.users]
            if idle:
                self._drop(min(idle, key=lambda entry: entry.last_use))
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _leave(self, entry: ModelEntry) -> None:
        """Let an idle model go, and the memory that it had."""
        self._drop(entry, LEFT)
        await self._thread.see_through("free memory", self._idle_policy.free)

    def _drop(self, entry: ModelEntry, detail: str = "") -> None:
        log.info("%s leaves memory", entry.info.name)
        entry.loading = entry.loaded = None
        entry.info = replace(entry.info, state="on_disk", detail=detail)
        self._on_demand.pop(entry.info.name, None)

    def _begin(self, entry: ModelEntry, after: ModelEntry | None = None) -> None:
        """Load a model; `after` another has left."""
        if entry.info.state == "on_disk":
            entry.info = replace(entry.info, state="loading", detail="")
        entry.settled.clear()
        loading = self._load_after(after, entry) if after else self._load(entry)
        entry.loading = asyncio.create_task(loading)

    async def _load(self, entry: ModelEntry) -> None:
        try:
            entry.loaded = await load_or_give_up(
                f"The model {entry.info.name}", self._fetch(entry), entry.give_up
            )
            if entry.loaded is None:
                return
            entry.info = replace(
                entry.loaded.info,
                is_default=entry.info.is_default,
                loads_on_demand=self._idle_policy.loads_on_demand or bool(self._room),
            )
            entry.has_worked, entry.used_at = True, time.monotonic()
            entry.on_failure = nothing
        finally:
            entry.settled.set()
            self._forget(entry)
            self._changed.set()

    async def _fetch(self, entry: ModelEntry) -> Loaded:
        if entry.load is None:
            raise ModelUnavailableError(entry.info.detail)
        load = partial(entry.load, OnLoading(entry.on_loading, self._thread.beat))
        return await self._thread.see_through(
            entry.stage, partial(_fetch, entry, load, self._idle_policy.free)
        )


def _not_loaded(info: ModelInfo) -> ModelUnavailableError:
    return ModelUnavailableError(f"{info.name} could not be loaded: {info.detail}")


def _fetch(entry: ModelEntry, load: Callable[[], Loaded], free: Free) -> Loaded:
    free()  # a model that left may hold itself in a cycle
    return try_load(f"the model {entry.info.name}", load, free)
