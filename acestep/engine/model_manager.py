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
from acestep.engine.idle import LEFT, Upkeep, leave_when_idle, when_wanted
from acestep.engine.model_entry import Place, nothing
from acestep.engine.oom_retry import Free, load_thriftily
from acestep.engine.renderer import Load, Loaded, OnLoading
from acestep.engine.tasks import loaded
from acestep.engine.threads import WatchedThread, computing_thread
from acestep.errors import CheckpointError, InvalidFieldError, ModelUnavailableError, StageStuckError
from acestep.limits import choose_model

log = logging.getLogger(__name__)

PRIMARY = 1  # the slot of the default model


@dataclass(frozen=True, slots=True)
class Slot:
    """A model as far as it is known before it is loaded; without `load` it cannot be, and `info` says why."""

    info: ModelInfo
    load: Load | None = None


class Catalogue(Protocol):
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


class ModelShelf:
    """The models of this process by their slot; PRIMARY is the one that runs when none is named.

    With `room`, models in the catalogue are loaded when a request names them, and at most so many are in
    memory then: who was not used for longest leaves. Without, what is in the slots is all there is.
    """

    def __init__(
        self,
        slots: Mapping[int, Slot],
        catalogue: Catalogue | None = None,
        room: int = 0,
        upkeep: Upkeep | None = None,
    ) -> None:
        self._slots = {number: Place(slot.info, slot.load) for number, slot in slots.items()}
        self._guests: dict[str, Place] = {}  # loaded because a request named them
        self._catalogue = catalogue
        self._room = room
        self._upkeep = upkeep or Upkeep()
        self._leaving: asyncio.Task[None] | None = None
        self._thread = WatchedThread(computing_thread("load-model"), self._upkeep.watchdog)
        self._ready = asyncio.Event()
        self._door = asyncio.Lock()  # whoever needs room waits for it before those who came later
        self._changed = asyncio.Event()
        self._putting = asyncio.Lock()
        self._uses = count()

    def infos(self) -> tuple[ModelInfo, ...]:
        """The models that can be asked for, the default first."""
        shelved = tuple(place.info for place in self._places())
        if not self._room or self._catalogue is None:
            return shelved
        return (*shelved, *self._others(self._catalogue))

    def inventory(self) -> tuple[ModelInfo, ...]:
        shelved = tuple(place.info for place in self._places())
        return (*shelved, *self._others(self._catalogue)) if self._catalogue else shelved

    def occupants(self) -> tuple[ModelInfo, ...]:
        """The models that take up memory, or come back into it without asking who else is there."""
        return tuple(place.info for place in self._occupied())

    @property
    def primary(self) -> ModelInfo:
        """The default model, as far as it is known by now."""
        return self._slots[PRIMARY].info

    async def start(self) -> None:
        """Begin to load what is in the slots, in their order, or say that it comes later; returns at once."""
        for place in tuple(self._places()):
            if self._upkeep.is_lazy and place.load is not None:
                place.info = when_wanted(place.info)
            else:
                self._begin(place)
        if self._upkeep.is_lazy:
            self._ready.set()
        if seconds := self._upkeep.idle_seconds:
            self._leaving = asyncio.create_task(leave_when_idle(seconds, self._places, self._leave))

    async def wait_ready(self) -> None:
        """Return once the default model is in memory; never, if it cannot be loaded."""
        await self._ready.wait()

    async def close(self) -> None:
        """Stop loading and free the thread."""
        if self._leaving is not None:
            self._leaving.cancel()
        for place in self._places():
            if place.loading is not None:
                place.loading.cancel()
        self._thread.close()

    async def put(self, number: int, name: str | None = None) -> ModelInfo:
        async with self._putting:
            old = self._slots.get(number)
            self._upkeep.watchdog.check()
            wished = await self._wished(number, name)
            new = Place(replace(wished.info, is_default=number == PRIMARY), wished.load)
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
            self._guests.pop(new.info.name, None)
            if number == PRIMARY:
                self._ready.set()
            return new.info

    async def _arrival(self, number: int, new: Place) -> None:
        """Return once a model for a slot is settled. Raises StageStuckError where the thread is stuck before.

        A model that has its slot already may come late; of another, nobody would know.
        """
        try:
            await self._upkeep.watchdog.until(new.settled, self._thread)
        except StageStuckError:
            if self._slots.get(number) is not new and new.loading is not None:
                new.loading.cancel()
            raise

    async def _leaves_first(self, old: Place | None, new: Place) -> bool:
        """Whether the model in a slot must leave before another comes there.

        Raises InvalidFieldError where there is no room for the other even then.
        """
        if self._catalogue is None:
            return False
        others = self._neighbours(old, new.info.name)
        reason = await asyncio.to_thread(self._catalogue.no_room, [*others, new.info])
        if reason:
            remedy = "Set ACESTEP_CONFIG_PATH, ACESTEP_CONFIG_PATH2 and ACESTEP_CONFIG_PATH3, and start again"
            raise InvalidFieldError("model", new.info.name, "models that fit together", f"{reason}. {remedy}")
        if old is None or not old.takes_room:
            return False
        return bool(await asyncio.to_thread(self._catalogue.no_room, [*others, old.info, new.info]))

    async def _load_after(self, old: Place, new: Place) -> None:
        """Load a model once the songs of another have ended, which leaves then."""
        while old.users or (old.loading is not None and not old.settled.is_set()):
            self._changed.clear()
            await self._changed.wait()
        self._drop(old)
        await self._load(new)

    def _bring_back(self, number: int, old: Place) -> None:
        """Load a model again that left for one that did not come."""
        self._slots[number] = old
        self._begin(old)

    async def reload(self) -> tuple[str, ...]:
        self._upkeep.watchdog.check()
        failed = [number for number, place in sorted(self._slots.items()) if place.info.state == "failed"]
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
        elsewhere = [n for n, place in self._slots.items() if n != number and place.info.name == name]
        if elsewhere:
            raise InvalidFieldError("model", name, f"a model that is not in slot {elsewhere[0]} already")
        names = ", ".join(info.name for info in self.inventory())
        allowed = f"a published name, or one of {names}"
        if name is None or not is_bare(name) or self._catalogue is None:
            raise InvalidFieldError("model", name, allowed)
        try:
            return await asyncio.to_thread(self._catalogue.find, name, self._neighbours(old, name))
        except CheckpointError as error:
            log.warning("Slot %d stays as it is. %s", number, error)
            raise InvalidFieldError("model", name, allowed) from error

    @asynccontextmanager
    async def borrow(self, name: str | None) -> AsyncIterator[tuple[Loaded, tuple[str, ...]]]:
        """The model that runs a request for `name`, which stays in memory meanwhile, and sentences about it.

        Waits while it is loaded. Where that fails, it is the default; raises ModelUnavailableError where that
        one is not to be had, StageStuckError where loading does not get on.
        """
        place, notes = await self._take(name)
        if place.loaded is None and place is not self._slots[PRIMARY]:
            failed = place.info
            self._put_back(place)
            place, _ = await self._take(None)
            used = f"{place.info.name} is used instead of {failed.name}"
            notes = (f"model: {used}, which could not be loaded: {failed.detail}",)
        try:
            if place.loaded is None:
                raise ModelUnavailableError(f"{place.info.name} could not be loaded: {place.info.detail}")
            yield place.loaded, notes
        finally:
            self._put_back(place)

    async def _take(self, name: str | None) -> tuple[Place, tuple[str, ...]]:
        """The place of the model for `name`, once it is settled if it can be used, and why it is that one.

        It counts as in use from now on.
        """
        async with self._door:
            info, notes = choose_model(self.infos(), name, strict=False)
            place = self._find(info.name)
            place.users += 1
            try:
                if place.loading is None:
                    await self._make_room(place)
                    self._begin(place)
            except BaseException:
                self._put_back(place)
                raise
        try:
            watchdog, thread = self._upkeep.watchdog, self._thread
            await watchdog.until(place.settled, thread, lambda: thread.stage == place.stage)
        except BaseException:
            self._put_back(place)
            raise
        return place, notes

    def _put_back(self, place: Place) -> None:
        place.users -= 1
        place.last_use = next(self._uses)
        place.used_at = time.monotonic()
        self._forget(place)
        self._changed.set()

    def _forget(self, place: Place) -> None:
        """Let a guest go that did not come, so that the next request for it tries again."""
        name = place.info.name
        if not place.users and not place.takes_room and self._guests.get(name) is place:
            del self._guests[name]

    def _places(self) -> Iterator[Place]:
        yield from (self._slots[number] for number in sorted(self._slots))
        yield from self._guests.values()

    def _occupied(self) -> Iterator[Place]:
        """Those in memory, or on their way; and those that come back there without asking who else is."""
        for place in self._places():
            comes_back = not self._room and place.load is not None and place.info.state == "on_disk"
            if place.takes_room or comes_back:
                yield place

    def _neighbours(self, old: Place | None, name: str) -> list[ModelInfo]:
        """Whom the model `name` meets in memory in place of `old`; it may be there as a guest already."""
        return [each.info for each in self._occupied() if each is not old and each.info.name != name]

    def _others(self, catalogue: Catalogue) -> Iterator[ModelInfo]:
        known = {place.info.name for place in self._places()}
        yield from (info for info in catalogue.on_disk() if info.name not in known)

    def _find(self, name: str) -> Place:
        for place in self._places():
            if place.info.name == name:
                return place
        assert self._catalogue is not None  # who told of it
        slot = self._catalogue.find(name)
        self._guests[name] = Place(slot.info, slot.load)
        return self._guests[name]

    async def _make_room(self, new: Place) -> None:
        """Let models leave until this one may be in memory too; waits while all of them are in use.

        Raises ModelUnavailableError where there is no room even for it alone.
        """
        while self._room and self._catalogue is not None:
            there = [place for place in self._places() if place.takes_room]
            reason = self._catalogue.no_room([*(place.info for place in there), new.info])
            if len(there) < self._room and not reason:
                return
            if not there:
                raise ModelUnavailableError(reason)
            idle = [place for place in there if place.loaded is not None and not place.users]
            if idle:
                self._drop(min(idle, key=lambda place: place.last_use))
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _leave(self, place: Place) -> None:
        """Let an idle model go, and the memory that it had."""
        self._drop(place, LEFT)
        await self._thread.see_through("free memory", self._upkeep.free)

    def _drop(self, place: Place, detail: str = "") -> None:
        log.info("%s leaves memory", place.info.name)
        place.loading = place.loaded = None
        place.info = replace(place.info, state="on_disk", detail=detail)
        self._guests.pop(place.info.name, None)

    def _begin(self, place: Place, after: Place | None = None) -> None:
        """Load a model; `after` another has left."""
        if place.info.state == "on_disk":
            place.info = replace(place.info, state="loading", detail="")
        place.settled.clear()
        loading = self._load_after(after, place) if after else self._load(place)
        place.loading = asyncio.create_task(loading)

    async def _load(self, place: Place) -> None:
        try:
            place.loaded = await loaded(f"The model {place.info.name}", self._fetch(place), place.give_up)
            if place.loaded is None:
                return
            place.info = replace(
                place.loaded.info,
                is_default=place.info.is_default,
                comes_when_wanted=self._upkeep.comes_when_wanted or bool(self._room),
            )
            place.has_worked, place.used_at = True, time.monotonic()
            place.on_failure = nothing
            if place is self._slots[PRIMARY]:
                self._ready.set()
        finally:
            place.settled.set()
            self._forget(place)
            self._changed.set()

    async def _fetch(self, place: Place) -> Loaded:
        if place.load is None:
            raise ModelUnavailableError(place.info.detail)
        load = partial(place.load, OnLoading(place.on_loading, self._thread.beat))
        return await self._thread.see_through(place.stage, partial(_fetch, place, load, self._upkeep.free))


def _fetch(place: Place, load: Callable[[], Loaded], free: Free) -> Loaded:
    free()  # a model that left may hold itself in a cycle
    return load_thriftily(f"the model {place.info.name}", load, free)
