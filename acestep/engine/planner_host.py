"""The planners (5 Hz language models) of one device. At most one is in memory; requests borrow it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from enum import Enum, auto
from functools import partial

from acestep.domain.draft import Draft, DraftRequest
from acestep.engine.idle import LEFT, IdlePolicy, as_on_demand, leave_when_idle
from acestep.engine.planner_entry import KnownPlanners, OnDemandPlanners, PlannerEntry
from acestep.engine.renderer import LoadedPlanner, OnLoading
from acestep.engine.threads import WatchedThread, load_or_give_up, try_load
from acestep.errors import (
    AceStepError,
    ModelUnavailableError,
    NotEnoughMemoryError,
    PlannerUnavailableError,
    StageStuckError,
)
from acestep.planner.language_model import Generation
from acestep.planner.loop import Cancelled, GenerationLoop, OnTokens
from acestep.planner.planner import Planner, PlannerCallbacks

_EVICTED = "It was evicted for another planner, and is loaded again when a request needs it."


class HostState(Enum):
    """The state of the one planner that may be in memory."""

    EMPTY = auto()
    LOADING = auto()
    READY = auto()
    DRAINING = auto()  # requests that have borrowed it end, and no other gets it
    UNLOADING = auto()


_NEXT = {
    HostState.EMPTY: {HostState.LOADING},
    HostState.LOADING: {HostState.READY, HostState.EMPTY},  # EMPTY: loading failed
    HostState.READY: {HostState.DRAINING},
    HostState.DRAINING: {HostState.UNLOADING, HostState.READY},  # READY: a thread is stuck, or cancelled
    HostState.UNLOADING: {HostState.EMPTY},
}


class PlannerHost:
    """Loads, lends and unloads planners. Lives on one event loop.

    Requests take turns in the order in which they come, and each has its planner loaded in its turn. A turn
    ends when the planner is borrowed, so that requests for the same planner share it. Loading and unloading
    are tasks of the host: a request that is cancelled stops only its own waiting.
    """

    stage = "plan"  # for the watchdog

    def __init__(
        self,
        own: PlannerEntry,
        on_demand: OnDemandPlanners | None = None,
        closed_turn: bool = False,
        idle_policy: IdlePolicy | None = None,
    ) -> None:
        self.known = KnownPlanners(own, on_demand)
        self._closed_turn = closed_turn
        self._idle_policy = idle_policy or IdlePolicy()
        self._watchdog = self._idle_policy.watchdog
        self._tasks = self._idle_policy.tasks
        self.state = HostState.EMPTY
        self._current: PlannerEntry | None = None  # None if and only if EMPTY
        self._loop: GenerationLoop | None = None  # this and `_planner` while READY or DRAINING
        self._planner: Planner | None = None
        self._change: asyncio.Task[None] | None = None  # while LOADING or UNLOADING
        self._turn = asyncio.Lock()
        self._borrowers = 0
        self._returned = asyncio.Event()  # set while nothing is borrowed
        self._returned.set()
        self._last_use = 0.0
        self._has_started = False
        self._background: set[asyncio.Task[None]] = set()
        self._thread = WatchedThread(ThreadPoolExecutor(1, thread_name_prefix="load-planner"), self._watchdog)

    def silence(self) -> float:
        loop = self._loop
        return loop.silence() if loop else 0.0

    async def start(self) -> None:
        """Begin to load the own planner, unless it is loaded on demand. Engines may share a host."""
        if self._has_started:
            return
        self._has_started = True
        idle_seconds = self._idle_policy.idle_seconds
        watch = partial(leave_when_idle, idle_seconds, lambda: [self], PlannerHost._leave)
        self._in_background(self._tasks.keep("idle planner watch", watch))
        if self.known.own.load is None:
            return
        if self._is_lazy(self.known.own):
            self.known.own.info = as_on_demand(self.known.own.info)
        else:
            self._begin_load(self.known.own)

    async def close(self) -> None:
        """Wait for the step of the language model, unless it is stuck, and end the threads."""
        for task in (*self._background, *filter(None, [self._change])):
            task.cancel()
        self._thread.close()
        self._watchdog.forget(self)
        if self._loop is not None and not self._watchdog.is_stuck(self):
            await asyncio.to_thread(self._loop.close)

    @asynccontextmanager
    async def borrow(self, name: str = "") -> AsyncIterator[Planner]:
        """The planner, which stays in memory meanwhile.

        Raises PlannerUnavailableError if it cannot be loaded, StageStuckError if a thread is stuck.
        """
        async with self._turn:
            planner = await self._bring(self.known.entry(name))
            self._borrowers += 1
            self._returned.clear()
        try:
            yield planner
        finally:
            self._borrowers -= 1
            self._last_use = time.monotonic()
            if not self._borrowers:
                self._returned.set()

    async def draft(self, request: DraftRequest, longest: float, callbacks: PlannerCallbacks) -> Draft:
        async with self.borrow(request.options.model) as planner:
            try:
                return await planner.draft(request, longest, callbacks)
            except NotEnoughMemoryError:
                await self.free()
            return await planner.draft(request, longest, callbacks)

    async def free(self) -> None:
        """Give unused memory back to the device."""
        await asyncio.to_thread(self._idle_policy.free)

    async def put(self, entry: PlannerEntry) -> PlannerEntry:
        """Replace the own planner, and return the one before, for `restore`.

        Raises ModelUnavailableError if the new one cannot be loaded, StageStuckError if a thread is stuck.
        Then the one before is back, and is being loaded again unless it is loaded on demand.
        """
        async with self._turn:
            await self._unload(_EVICTED)
            before, self.known.own = self.known.own, entry
            self.known.forget(entry.info.name)
            self._begin_load(entry)
            try:
                await self._settle()
                if self._planner is None:
                    what = f"The planner {entry.info.name}"
                    raise ModelUnavailableError(f"{what} could not be loaded: {entry.info.detail}")
            except AceStepError:
                if self._change is not None:
                    self._change.cancel()
                    await asyncio.wait({self._change})
                self._bring_back(before)
                raise
            return before

    async def restore(self, entry: PlannerEntry) -> None:
        """Undo a `put`, which returned this entry. Raises StageStuckError if a thread is stuck."""
        async with self._turn:
            await self._unload(_EVICTED)
            self._bring_back(entry)

    @property
    def idle_since(self) -> float | None:
        """When the planner was last used (monotonic); None: in use, or not in memory."""
        return self._last_use if self._is_idle and not self._turn.locked() else None

    @property
    def _is_idle(self) -> bool:
        return self.state is HostState.READY and not self._borrowers and not self.silence()

    def _failure(self) -> str:
        return self._loop.failure if self._loop else ""

    def _is_lazy(self, entry: PlannerEntry) -> bool:
        return entry is not self.known.own or self._idle_policy.is_lazy or entry.info.only_if_needed

    async def _bring(self, entry: PlannerEntry) -> Planner:
        # Have this planner in memory. The caller has the turn, as for all that load or unload.
        if self._current not in (None, entry):
            await self._unload(_EVICTED)
        await self._settle()
        if failure := self._failure():
            await self._unload(failure)
        if self.state is HostState.EMPTY and entry.can_load:
            self._begin_load(entry)
            await self._settle()
        if self._planner is not None:
            return self._planner
        if entry is not self.known.own:  # the next request for it looks for it anew
            self.known.forget(entry.info.name)
        raise PlannerUnavailableError(f"There is no planner (5 Hz language model). {entry.info.detail}")

    def _bring_back(self, before: PlannerEntry) -> None:
        self.known.own = before
        if before.has_worked and not self._is_lazy(before):
            self._begin_load(before)

    async def _settle(self) -> None:
        # Wait until nothing is loaded or unloaded. Raises StageStuckError if the thread is stuck at it.
        if self._change is None or self._current is None:
            return
        stage = self._stage(self._current)  # the thread may be stuck at another, which is not waited for
        ended = asyncio.ensure_future(asyncio.wait({self._change}))
        await self._watchdog.watch(ended, self._thread, lambda: self._thread.stage == stage)

    def _stage(self, entry: PlannerEntry) -> str:
        return f"{'load' if self.state is HostState.LOADING else 'unload'} {entry.info.name}"

    def _become(self, state: HostState) -> None:
        # The one place where the state changes.
        assert state in _NEXT[self.state], f"{self.state} to {state}"
        self.state = state
        if state is HostState.EMPTY:
            self._current = self._change = None

    def _begin_load(self, entry: PlannerEntry) -> None:
        self._become(HostState.LOADING)
        self._current = entry
        if entry.info.state == "on_disk":
            entry.say("loading", "")
        self._change = self._tasks.run(self._stage(entry), self._load(entry))

    async def _load(self, entry: PlannerEntry) -> None:
        there, fetch = None, partial(self._fetch, entry)
        try:
            there = await load_or_give_up(f"The planner {entry.info.name}", fetch, entry.give_up)
        finally:
            if there is None:
                self._become(HostState.EMPTY)
        if there is None:
            return
        self._loop = GenerationLoop(there.model)
        self._planner = Planner(there.model, partial(self._generate, self._loop), self._closed_turn)
        self._last_use = time.monotonic()
        entry.has_worked = True
        entry.info = replace(
            entry.info,
            state="ready",
            detail=there.detail,
            backend=there.backend,
            loads_on_demand=entry is not self.known.own or self._idle_policy.loads_on_demand,
        )
        self._change = None
        self._become(HostState.READY)
        self._watchdog.add(self)

    async def _fetch(self, entry: PlannerEntry) -> LoadedPlanner:
        assert entry.load is not None
        load = partial(entry.load, OnLoading(entry.say, self._thread.beat))
        fetch = partial(try_load, f"the planner {entry.info.name}", load, self._idle_policy.free)
        return await self._thread.see_through(self._stage(entry), fetch)

    async def _unload(self, why: str) -> None:
        # Wait until the planner is not used, and unload it. Raises StageStuckError if a thread is stuck.
        self._watchdog.check()
        await self._settle()
        if self.state is HostState.EMPTY:
            return
        self._become(HostState.DRAINING)
        try:
            await self._returned.wait()
            await self._watchdog.until_quiet(self)  # a step whose request was cancelled
        except BaseException:  # stuck, or the request that waits was cancelled: it stays as it was
            self._become(HostState.READY)
            raise
        self._become(HostState.UNLOADING)
        assert self._current is not None and self._loop is not None
        entry, held = self._current, [self._loop]
        self._loop = self._planner = None
        self._watchdog.forget(self)
        entry.info = replace(entry.info, state="on_disk", detail=why, backend="", loads_on_demand=True)
        stage = self._stage(entry)
        self._change = self._tasks.run(stage, self._end(stage, held))
        await self._settle()

    async def _end(self, stage: str, held: list[GenerationLoop]) -> None:
        try:
            await self._thread.see_through(stage, partial(_end, held, self._idle_policy.free))
        finally:
            self._become(HostState.EMPTY)

    async def _leave(self) -> None:
        # Unload the planner if it is idle. Nothing is unloaded while a thread is stuck.
        await self._watchdog.wait_healthy()
        await self._unload_because(lambda: LEFT if self._is_idle else "")

    async def _unload_because(self, why: Callable[[], str]) -> None:
        # Take a turn, and unload the planner if there is a reason then.
        async with self._turn:
            if reason := why():
                with suppress(StageStuckError):  # which is in the log, and at /health
                    await self._unload(reason)

    async def _generate(
        self, loop: GenerationLoop, generation: Generation, on_tokens: OnTokens, cancelled: Cancelled
    ) -> str:
        text = asyncio.ensure_future(loop.generate(generation, on_tokens, cancelled))
        try:
            return await self._watchdog.watch(text, self)
        finally:
            if loop.failure:
                unload = self._unload_because(self._failure)
                self._in_background(self._tasks.run("unload failed planner", unload))

    def _in_background(self, task: asyncio.Task[None]) -> None:
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _end(held: list[GenerationLoop], free: Callable[[], None]) -> None:
    # Close the loop in `held`, the last reference to it, and free its memory.
    loop = held.pop()
    loop.close()
    loop.free_model()
    del loop
    free()
