"""The planner's desk: brings the language model into memory, and says who sits there.

Owns the planner's loading and its thread. What the planner decides is `acestep.planner`'s; what becomes of
it is `thinking`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from acestep.domain import Draft, DraftRequest, ModelState, PlannerInfo
from acestep.engine.renderer import OnLoading
from acestep.engine.tasks import loaded
from acestep.errors import PlannerUnavailableError
from acestep.planner.language_model import LanguageModel
from acestep.planner.loop import GenerationLoop
from acestep.planner.planner import Planner, Watch


@dataclass(frozen=True, slots=True)
class LoadedPlanner:
    """A language model in memory; `detail` is what people should know (another backend than asked for)."""

    model: LanguageModel
    backend: str
    detail: str = ""


LoadPlanner = Callable[[OnLoading], LoadedPlanner]
"""Brings a language model into memory, from any thread. Raises AceStepError if it cannot."""


class PlannerDesk:
    """The planner of this process, or the reason why there is none."""

    def __init__(self, info: PlannerInfo, load: LoadPlanner | None = None, closed_turn: bool = False) -> None:
        """`load` None: there is no planner, and `info` says why. `closed_turn` as `Planner` has it."""
        self._info = info
        self._load = load
        self._closed_turn = closed_turn
        self._loading: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._loop: GenerationLoop | None = None
        self._planner: Planner | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load-planner")

    def info(self) -> PlannerInfo:
        """The planner, as far as it is known by now."""
        return self._info

    async def start(self) -> None:
        """Begin to load; returns at once."""
        if self._load is None:
            self._settled.set()
        else:
            self._loading = asyncio.create_task(self._load_model(self._load))

    async def planner(self) -> Planner:
        """The planner, once it is there. Raises PlannerUnavailableError if it never will be."""
        await self._settled.wait()
        if self._planner is None:
            raise PlannerUnavailableError(f"There is no planner (5 Hz language model). {self._info.detail}")
        return self._planner

    async def draft(self, request: DraftRequest, longest: float, watch: Watch) -> Draft:
        """See `Planner.draft`."""
        return await (await self.planner()).draft(request, longest, watch)

    async def close(self) -> None:
        """Let the step at hand end and free the threads."""
        if self._loading is not None:
            self._loading.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._loop is not None:
            await asyncio.to_thread(self._loop.close)

    async def _load_model(self, load: LoadPlanner) -> None:
        try:
            there = await loaded(f"The planner {self._info.name}", self._fetch(load), self._give_up)
            if there is None:
                return
            self._loop = GenerationLoop(there.model)
            self._planner = Planner(there.model, self._loop.generate, self._closed_turn)
            self._info = replace(self._info, state="ready", detail=there.detail, backend=there.backend)
        finally:
            self._settled.set()

    async def _fetch(self, load: LoadPlanner) -> LoadedPlanner:
        return await asyncio.get_running_loop().run_in_executor(self._thread, load, self._on_loading)

    def _give_up(self, reason: str) -> None:
        self._on_loading("failed", reason)

    def _on_loading(self, state: ModelState, detail: str) -> None:
        self._info = replace(self._info, state=state, detail=detail)
