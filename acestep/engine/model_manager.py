"""The models (DiTs) of one device: which may be asked for, which are in memory, and which are in use.

Lives on one event loop; models are loaded on a thread of their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import count

from acestep.catalog.checkpoints import is_bare
from acestep.domain.models import ModelInfo, choose_model
from acestep.engine.idle import LEFT, IdlePolicy, as_on_demand, leave_when_idle
from acestep.engine.model_entry import Catalog, ModelEntry
from acestep.engine.renderer import Loaded, OnLoading
from acestep.engine.threads import Free, WatchedThread, computing_thread, load_or_give_up, try_load
from acestep.errors import CheckpointError, InvalidFieldError, ModelUnavailableError, StageStuckError

log = logging.getLogger(__name__)

PRIMARY = 1  # the slot of the default model

Undo = Callable[[], None]


class ModelManager:
    """The models by slot. PRIMARY runs when a request names none.

    With `room`, a model of the catalog is loaded when a request names it, and at most so many are in memory
    then: the least recently used leaves. Without, only the models in slots can be asked for.
    A model in memory has exactly one entry, in a slot, on demand or unlisted, until it has left memory.
    """

    def __init__(
        self,
        slots: Mapping[int, ModelEntry],
        catalog: Catalog | None = None,
        room: int = 0,
        idle_policy: IdlePolicy | None = None,
    ) -> None:
        self._slots = dict(slots)
        self._on_demand: dict[str, ModelEntry] = {}  # loaded because a request named them
        self._unlisted: dict[str, ModelEntry] = {}  # loaded for a slot, or replaced there and still in use
        self._catalog = catalog
        self._room = room
        self._idle_policy = idle_policy or IdlePolicy()
        self._unloading: asyncio.Task[None] | None = None
        self._thread = WatchedThread(computing_thread("load-model"), self._idle_policy.watchdog)
        self._is_ready = False
        self._admission = asyncio.Lock()  # requests get room in the order in which they came
        self._changed = asyncio.Event()
        self._putting = asyncio.Lock()
        self._uses = count()

    def infos(self) -> tuple[ModelInfo, ...]:
        """The models that can be asked for, the default first."""
        if not self._room:
            return tuple(entry.info for entry in self._listed())
        there = self.inventory()
        names = {info.name for info in there}
        absent = self._catalog.to_download() if self._catalog else ()
        return (*there, *(info for info in absent if info.name not in names))

    def inventory(self) -> tuple[ModelInfo, ...]:
        listed = {entry.info.name: entry.info for entry in self._listed()}
        on_disk = self._catalog.on_disk() if self._catalog else ()
        return (*listed.values(), *(info for info in on_disk if info.name not in listed))

    def occupants(self) -> tuple[ModelInfo, ...]:
        """The models that take up memory, or will be loaded again without a check for room."""
        return tuple(entry.info for entry in self._all() if self._occupies(entry))

    @property
    def primary(self) -> ModelInfo:
        return self._slots[PRIMARY].info

    async def start(self) -> None:
        """Begin to load the models in slots, in their order, unless they are loaded on demand."""
        for entry in tuple(self._listed()):
            if self._idle_policy.is_lazy and entry.load is not None:
                entry.info = as_on_demand(entry.info)
            else:
                self._begin(entry)
        watch = partial(leave_when_idle, self._idle_policy.idle_seconds, self._listed, self._leave)
        self._unloading = self._idle_policy.tasks.keep("idle model watch", watch)

    async def wait_ready(self) -> None:
        """Return once a model can serve: one in memory, or on demand once the default has been tried."""
        while not self._is_ready:
            states = {info.state for info in self.infos()}
            is_tried = self.primary.state not in ("loading", "downloading")
            self._is_ready = "ready" in states or (is_tried and "on_disk" in states)
            if not self._is_ready:
                await self._change()

    async def close(self) -> None:
        if self._unloading is not None:
            self._unloading.cancel()
        for entry in self._all():
            if entry.loading is not None:
                entry.loading.cancel()
        self._thread.close()

    async def put(self, number: int, name: str | None = None) -> ModelInfo:
        async with self._putting:
            self._idle_policy.watchdog.check()
            new = await self._wished(number, name)
            new.users += 1  # it stays in memory until it has its slot
            try:
                if not new.takes_room:
                    self._load_for(number, new)
                await self._wait_loaded(new)
                self._seat(number, new)
                return new.info
            finally:
                self._put_back(new)

    async def reload(self) -> tuple[str, ...]:
        self._idle_policy.watchdog.check()
        failed = [number for number, entry in sorted(self._slots.items()) if entry.info.state == "failed"]
        again = []
        for number in failed:
            with suppress(ModelUnavailableError, InvalidFieldError):  # its state and the log say why
                again.append((await self.put(number)).name)
        return tuple(again)

    @asynccontextmanager
    async def borrow(self, name: str | None) -> AsyncIterator[tuple[Loaded, tuple[str, ...]]]:
        """The model that runs a request for `name`, which stays in memory meanwhile, and warnings.

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
        # The entry of the model for `name`, in use from now on and settled, and why it is that one.
        async with self._admission:
            info, notes = choose_model(self.infos(), name, strict=False)
            entry = await self._find(info.name) or self._found(info.name)
            entry.users += 1
            if entry not in self._slots.values():
                self._unlisted.pop(info.name, None)
                self._on_demand[info.name] = entry
            try:
                await self._make_room(entry)
                if entry.loading is None:
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

    async def _find(self, name: str) -> ModelEntry | None:
        # The entry of this model, if it has one; waits until it is gone if another model waits for that.
        while (entry := self._known(name)) and entry.is_leaving:
            await self._change()
        return entry

    def _known(self, name: str) -> ModelEntry | None:
        return next((entry for entry in self._all() if entry.info.name == name), None)

    def _found(self, name: str) -> ModelEntry:
        assert self._catalog is not None  # which listed it
        return self._catalog.find(name)

    def _listed(self) -> Iterator[ModelEntry]:
        yield from (self._slots[number] for number in sorted(self._slots))
        yield from self._on_demand.values()

    def _all(self) -> tuple[ModelEntry, ...]:
        return (*self._listed(), *self._unlisted.values())

    def _occupies(self, entry: ModelEntry) -> bool:
        # Whether it takes up memory, or is loaded again by a request without a check for room.
        is_loaded_again = not self._room and entry.load is not None and entry.info.state == "on_disk"
        return entry.takes_room or is_loaded_again

    async def _make_room(self, new: ModelEntry) -> None:
        # Drop idle models until this one may be in memory too; waits while all are in use. Raises
        # ModelUnavailableError where there is no room even for it alone.
        while self._room and new.loading is None and (reason := self._full(new)):
            others = [entry for entry in self._all() if entry.takes_room]
            if not others:
                raise ModelUnavailableError(reason)
            idle = [entry for entry in others if entry.loaded is not None and not entry.users]
            if idle:
                self._drop(min(idle, key=lambda entry: entry.last_use))
            else:
                await self._change()

    def _full(self, new: ModelEntry) -> str:
        # Why `new` cannot be loaded beside all that are in memory; "" if it can.
        if self._catalog is None:
            return ""
        others = [entry.info for entry in self._all() if entry.takes_room]
        reason = self._catalog.no_room([*others, new.info])
        return reason or ("too many models" if 0 < self._room <= len(others) else "")

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _leave(self, entry: ModelEntry) -> None:
        self._drop(entry, LEFT)
        await self._thread.see_through("free memory", self._idle_policy.free)

    def _forget(self, entry: ModelEntry) -> None:
        # Drop a model that is out of use and has no slot; one that failed is loaded at the next request.
        if entry.users:
            return
        name = entry.info.name
        if entry.loaded is not None:
            if entry.is_leaving or self._unlisted.get(name) is entry:
                self._drop(entry)
        elif not entry.is_loading:
            for entries in (self._on_demand, self._unlisted):
                if entries.get(name) is entry:
                    del entries[name]

    def _drop(self, entry: ModelEntry, detail: str = "") -> None:
        log.info("%s is unloaded", entry.info.name)
        entry.loading = entry.loaded = None
        entry.is_leaving = False
        entry.info = replace(entry.info, state="on_disk", detail=detail)
        self._forget(entry)
        self._changed.set()

    def _begin(self, entry: ModelEntry, after: Sequence[ModelEntry] = (), undo: Undo | None = None) -> None:
        # Load a model once those of `after` have left memory; `undo` is called if that fails.
        if entry.info.state in ("on_disk", "failed") and entry.load is not None:
            entry.info = replace(entry.info, state="loading", detail="")
        entry.settled.clear()
        entry.loading = self._idle_policy.tasks.run(entry.stage, self._load(entry, after, undo))

    async def _load(self, entry: ModelEntry, after: Sequence[ModelEntry], undo: Undo | None) -> None:
        try:
            while any(other.takes_room for other in after):
                await self._change()
            entry.loaded = await load_or_give_up(
                f"The model {entry.info.name}", partial(self._fetch, entry), entry.give_up
            )
            if entry.loaded is not None:
                self._note_loaded(entry, entry.loaded)
        finally:
            entry.settled.set()
            self._forget(entry)
            self._changed.set()
        if entry.loaded is None and undo:
            undo()

    def _note_loaded(self, entry: ModelEntry, loaded: Loaded) -> None:
        entry.info = replace(
            loaded.info,
            is_default=entry.info.is_default,
            loads_on_demand=self._idle_policy.loads_on_demand or bool(self._room),
        )
        entry.has_worked, entry.used_at = True, time.monotonic()

    async def _fetch(self, entry: ModelEntry) -> Loaded:
        if entry.load is None:
            raise ModelUnavailableError(entry.info.detail)
        load = partial(entry.load, OnLoading(entry.on_loading, self._thread.beat))
        return await self._thread.see_through(
            entry.stage, partial(_fetch, entry, load, self._idle_policy.free)
        )

    async def _wished(self, number: int, name: str | None) -> ModelEntry:
        # The model to put into a slot: one in memory or on its way; without a name it is loaded again.
        old = self._slots.get(number)
        if old is not None and name in (None, old.info.name):
            if old.load is not None:
                again = name is None and old.loaded is not None
                return ModelEntry(replace(old.info, state="loading"), old.load) if again else old
            name = old.info.name
        elsewhere = [n for n, entry in self._slots.items() if n != number and entry.info.name == name]
        if elsewhere:
            raise InvalidFieldError("model", name, f"a model that is not in slot {elsewhere[0]} already")
        names = ", ".join(info.name for info in self.inventory())
        allowed = f"a published name, or one of {names}"
        if name is None or not is_bare(name) or self._catalog is None:
            raise InvalidFieldError("model", name, allowed)
        if (known := await self._find(name)) and known.load is not None:
            return known
        beside = [entry.info for entry in self._neighbours(number) if entry.info.name != name]
        try:
            found = await asyncio.to_thread(self._catalog.find, name, beside)
        except CheckpointError as error:
            log.warning("Slot %d keeps its model. %s", number, error)
            raise InvalidFieldError("model", name, allowed) from error
        known = await self._find(name)  # a request may have named it meanwhile
        return known if known and known.load is not None else found

    def _neighbours(self, number: int) -> list[ModelEntry]:
        # The models of the other slots, as far as they take up memory.
        return [entry for n, entry in self._slots.items() if n != number and self._occupies(entry)]

    def _load_for(self, number: int, new: ModelEntry) -> None:
        # Begin to load a model for a slot, beside the one that is there or, without room, after it. Raises
        # InvalidFieldError where there is no room beside the models of the other slots.
        old = self._slots.get(number)
        leaving = self._must_leave(number, new)
        for entry in leaving:
            entry.is_leaving = True
        if old is None or old is new or old.info.state == "failed" or old in leaving:
            self._seat(number, new)
        elif new not in self._all():
            self._unlisted[new.info.name] = new
        for entry in leaving:
            self._forget(entry)
        undo = partial(self._bring_back, number, old) if old and old in leaving else None
        self._begin(new, leaving, undo)

    def _must_leave(self, number: int, new: ModelEntry) -> list[ModelEntry]:
        # The models that must leave memory before this one can be loaded for a slot.
        if self._catalog is None:
            return []
        stay = self._neighbours(number)
        infos = [entry.info for entry in (*stay, new)]
        if reason := self._catalog.no_room(infos):
            remedy = "Set ACESTEP_CONFIG_PATH, ACESTEP_CONFIG_PATH2 and ACESTEP_CONFIG_PATH3, and start again"
            raise InvalidFieldError("model", new.info.name, "models that fit together", f"{reason}. {remedy}")
        others = [each for each in self._all() if each.takes_room and each not in (*stay, new)]
        return others if self._catalog.no_room([*(each.info for each in others), *infos]) else []

    def _seat(self, number: int, new: ModelEntry) -> None:
        # Give a model its slot; the one that had it is dropped when its songs end.
        old = self._slots.get(number)
        for entries in (self._on_demand, self._unlisted):
            entries.pop(new.info.name, None)
        self._slots[number] = new
        new.info = replace(new.info, is_default=number == PRIMARY)
        if old is not None and old is not new:
            old.info = replace(old.info, is_default=False)
            self._unlisted[old.info.name] = old
            self._forget(old)
        self._changed.set()

    def _bring_back(self, number: int, old: ModelEntry) -> None:
        # Give a slot back to the model that left for one that failed; it is loaded where there is room.
        entry = self._on_demand.get(old.info.name, old)
        self._seat(number, entry)
        if not entry.takes_room and not self._full(entry):
            self._begin(entry)

    async def _wait_loaded(self, new: ModelEntry) -> None:
        # Return once a model for a slot is in memory. Raises ModelUnavailableError, StageStuckError.
        try:
            await self._idle_policy.watchdog.until(new.settled, self._thread)
        except StageStuckError:
            # A model with a slot may come late; one without would be in memory for nothing.
            if self._unlisted.get(new.info.name) is new and new.loading is not None:
                new.loading.cancel()
            raise
        if new.loaded is None:
            raise _not_loaded(new.info)


def _not_loaded(info: ModelInfo) -> ModelUnavailableError:
    return ModelUnavailableError(f"{info.name} could not be loaded: {info.detail}")


def _fetch(entry: ModelEntry, load: Callable[[], Loaded], free: Free) -> Loaded:
    free()  # a model that was dropped may be held by a reference cycle
    return try_load(f"the model {entry.info.name}", load, free)
