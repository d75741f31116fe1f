"""The planner's desk: brings the language model into memory, and says who sits there.

What the planner decides is `acestep.planner`'s; what becomes of it is `thinking`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

from acestep.domain.models import ModelState, PlannerInfo
from acestep.domain.song import Draft, DraftRequest
from acestep.engine.idle import LEFT, IdlePolicy, as_on_demand, leave_when_idle
from acestep.engine.oom_retry import load_with_retry
from acestep.engine.renderer import OnLoading
from acestep.engine.tasks import loaded
from acestep.engine.threads import WatchedThread
from acestep.errors import (
    ModelUnavailableError,
    NotEnoughMemoryError,
    PlannerUnavailableError,
    StageStuckError,
)
from acestep.planner.language_model import Generation, LanguageModel
from acestep.planner.loop import Cancelled, GenerationLoop, OnTokens
from acestep.planner.planner import Planner, Watch


@dataclass(frozen=True, slots=True)
class LoadedPlanner:
    """A language model in memory; `detail` is what people should know (another backend than asked for)."""

    model: LanguageModel
    backend: str
    detail: str = ""


LoadPlanner = Callable[[OnLoading], LoadedPlanner]
"""Brings a language model into memory, from any thread. Raises AceStepError if it cannot."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Who sat at the desk before another came."""

    info: PlannerInfo
    load: LoadPlanner | None
    has_worked: bool
    was_there: bool


class PlannerHost:
    """The planner of this process, or the reason why there is none. Lives on one event loop."""

    def __init__(
        self,
        info: PlannerInfo,
        load: LoadPlanner | None = None,
        closed_turn: bool = False,
        idle_policy: IdlePolicy | None = None,
    ) -> None:
        """`load` None: there is no planner, and `info` says why. `closed_turn` as `Planner` has it."""
        self._info = info
        self._load = load
        self._closed_turn = closed_turn
        self._idle_policy = idle_policy or IdlePolicy()
        self._loading: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._loop: GenerationLoop | None = None
        self._planner: Planner | None = None
        self._users = 0
        self._last_use = 0.0
        self._has_worked = False
        self._has_started = False
        self._at_work = 0  # of the users, those that have the planner
        self._ended = asyncio.Event()  # one of them has done with it
        self._putting = asyncio.Lock()
        self._ending = asyncio.Lock()  # held until what leaves has gone
        self._replacing: asyncio.Task[PlannerInfo] | None = None
        self._dropping: asyncio.Task[None] | None = None
        self._open = asyncio.Event()  # not while it is being replaced
        self._open.set()
        self._watchdog = self._idle_policy.watchdog
        executor = ThreadPoolExecutor(1, thread_name_prefix="load-planner")
        self._thread = WatchedThread(executor, self._watchdog)
        self._watchdog.add(self)

    stage = "plan"

    def silence(self) -> float:
        loop = self._loop
        return loop.silence() if loop else 0.0

    def info(self) -> PlannerInfo:
        """The planner, as far as it is known by now."""
        return self._info

    async def start(self) -> None:
        """Begin to load, unless it is to come when it is wanted; returns at once.

        Engines may share a desk: it begins with the first.
        """
        if self._has_started:
            return
        self._has_started = True
        if seconds := self._idle_policy.idle_seconds:
            self._leaving = asyncio.create_task(leave_when_idle(seconds, lambda: [self], _leave))
        if self._load is None:
            self._settled.set()
            return
        if self._idle_policy.is_lazy or self._info.only_if_needed:
            self._info = as_on_demand(self._info)
        else:
            self._begin(self._load)

    async def put(self, info: PlannerInfo, load: LoadPlanner) -> PlannerInfo:
        """Have another planner from now on; returns once it is there.

        What is being planned ends first, with the planner that is there; who comes meanwhile waits for the
        other. Where that cannot be loaded, the one that was there comes again, and ModelUnavailableError is
        raised; StageStuckError where a thread is stuck that has to come to an end first, or loads the other.
        """
        # Whoever asked for it may leave, but half of it would leave no planner at all.
        self._replacing = asyncio.create_task(self._put(info, load))
        return await asyncio.shield(self._replacing)

    async def _put(self, info: PlannerInfo, load: LoadPlanner) -> PlannerInfo:
        async with self._putting:
            return await self._replace(info, load)

    async def _replace(self, info: PlannerInfo, load: LoadPlanner) -> PlannerInfo:
        self._open.clear()
        try:
            await self._rest()
            before = _Place(self._info, self._load, self._has_worked, self._planner is not None)
            await self.leave()
            self._info, self._load, self._has_worked = info, load, False
            self._begin(load)
            try:
                await self._watchdog.until(self._settled, self._thread)
            except StageStuckError:
                await self._bring_back(before)
                raise
            if self._planner is not None:
                return self._info
            reason = self._info.detail
            await self._bring_back(before)
            raise ModelUnavailableError(f"The planner {info.name} could not be loaded: {reason}")
        finally:
            self._open.set()

    async def unload_when_idle(self) -> None:
        """Leave memory once nobody needs it any more; who wants the planner next waits until it is back.

        Raises StageStuckError where a thread is stuck.
        """
        await self._open.wait()
        await self._rest()
        await self.leave()

    async def _rest(self) -> None:
        """Return once nothing is loaded and nobody writes. Raises StageStuckError where that does not end."""
        self._watchdog.check()
        if self._loading is not None:
            await self._watchdog.until(self._settled, self._thread)
        while self._at_work:
            self._ended.clear()
            await self._ended.wait()
        await self._watchdog.until_quiet(self)  # a step that nobody waits for any more

    async def _bring_back(self, before: _Place) -> None:
        """Have the planner again that left for one that did not come."""
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait([self._loading])
        self._info, self._load, self._has_worked = before.info, before.load, before.has_worked
        self._loading = None
        if before.was_there and self._load is not None:
            self._info = replace(self._info, state="on_disk")
            self._begin(self._load)

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Planner]:
        """The planner, which stays in memory meanwhile; waits while it is loaded.

        Raises PlannerUnavailableError if it cannot be had, StageStuckError where loading does not get on.
        """
        self._users += 1
        try:
            await self._settle()
            if self._planner is None:
                raise PlannerUnavailableError(
                    f"There is no planner (5 Hz language model). {self._info.detail}"
                )
            self._at_work += 1
            try:
                yield self._planner
            finally:
                self._at_work -= 1
                self._ended.set()
        finally:
            self._users -= 1
            self._last_use = time.monotonic()

    async def _settle(self) -> None:
        """Return once the planner is there, or it is known that there is none."""
        while True:
            await self._open.wait()
            if self._load is not None and self._loading is None:
                self._begin(self._load)
            await self._watchdog.until(self._settled, self._thread, self._is_loading)
            if self._open.is_set() and self._settled.is_set():  # still
                return

    def _is_loading(self) -> bool:
        """Whether the thread is at the planner that is wanted now."""
        return self._thread.stage == self._loading_stage

    @property
    def _loading_stage(self) -> str:
        return f"load {self._info.name}"

    async def draft(self, request: DraftRequest, longest: float, watch: Watch) -> Draft:
        async with self.borrow() as planner:
            try:
                return await planner.draft(request, longest, watch)
            except NotEnoughMemoryError:
                await self.free()
            return await planner.draft(request, longest, watch)

    async def free(self) -> None:
        """Give memory back that nobody uses."""
        await asyncio.to_thread(self._idle_policy.free)

    async def close(self) -> None:
        """Let the step at hand end and free the threads; a step that is stuck is left alone."""
        for task in (self._replacing, self._dropping, self._loading, self._leaving):
            if task is not None:
                task.cancel()
        self._thread.close()
        self._watchdog.forget(self)
        if self._loop is not None and not self._watchdog.is_stuck(self):
            await asyncio.to_thread(self._loop.close)

    @property
    def idle_since(self) -> float | None:
        return None if self._users or self._planner is None or self.silence() else self._last_use

    async def leave(self, why: str = LEFT) -> None:
        """Leave memory; who wants the planner next waits until it is there again."""
        async with self._ending:
            loop = self._loop
            if loop is None:
                return
            self._loop = self._planner = self._loading = None
            self._settled.clear()
            self._info = replace(self._info, state="on_disk", detail=why, backend="", loads_on_demand=True)
            held = [loop]
            del loop
            # On the thread that loads, so that it is gone before it comes again.
            await self._thread.run("end planner", partial(_end, held, self._idle_policy.free))

    def _begin(self, load: LoadPlanner) -> None:
        if self._info.state == "on_disk":
            self._on_loading("loading", "")
        self._settled.clear()
        self._loading = asyncio.create_task(self._load_model(load))

    async def _load_model(self, load: LoadPlanner) -> None:
        try:
            there = await loaded(f"The planner {self._info.name}", self._fetch(load), self._give_up)
            if there is None:
                return
            self._loop = GenerationLoop(there.model)
            self._planner = Planner(there.model, self._generate, self._closed_turn)
            self._has_worked, self._last_use = True, time.monotonic()
            self._info = replace(
                self._info,
                state="ready",
                detail=there.detail,
                backend=there.backend,
                loads_on_demand=self._idle_policy.loads_on_demand,
            )
        finally:
            self._settled.set()

    async def _generate(self, generation: Generation, on_tokens: OnTokens, cancelled: Cancelled) -> str:
        loop = self._loop
        assert loop is not None  # as long as anybody has the planner
        writing = asyncio.ensure_future(loop.generate(generation, on_tokens, cancelled))
        try:
            return await self._watchdog.watch(writing, self)
        finally:
            if loop.failure and (self._dropping is None or self._dropping.done()):
                self._dropping = asyncio.create_task(self._drop())

    async def _drop(self) -> None:
        """Let go of a planner that failed, once nobody has it; who wants it next waits until it is loaded."""
        async with self._putting:
            failure = self._loop.failure if self._loop else ""
            if not failure:  # another came meanwhile
                return
            self._open.clear()
            try:
                await self._rest()
                await self.leave(failure)
            except StageStuckError:  # which the log and /health say; whoever writes next brings this here
                return
            finally:
                self._open.set()

    async def _fetch(self, load: LoadPlanner) -> LoadedPlanner:
        what, sources = f"the planner {self._info.name}", OnLoading(self._on_loading, self._thread.beat)
        fetch = partial(load_with_retry, what, partial(load, sources), self._idle_policy.free)
        return await self._thread.see_through(self._loading_stage, fetch)

    def _give_up(self, reason: str) -> None:
        """Loading failed. What was in memory once may be there again when there is more room."""
        self._on_loading("on_disk" if self._has_worked else "failed", reason)
        if self._has_worked:
            self._loading = None

    def _on_loading(self, state: ModelState, detail: str) -> None:
        self._info = replace(self._info, state=state, detail=detail)


async def _leave(host: PlannerHost) -> None:
    with suppress(StageStuckError):  # which is in the log, and at /health
        await host.leave()


def _end(held: list[GenerationLoop], free: Callable[[], None]) -> None:
    """Close the loop in `held`, which nobody else has, and give its memory back."""
    loop = held.pop()
    loop.close()
    loop.let_go()
    del loop
    free()
