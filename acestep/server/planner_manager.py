"""Which planner (5 Hz language model) the server has: at the start, and after it is replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath

from acestep.catalog.checkpoints import PUBLISHED, is_bare
from acestep.catalog.download import fetch_for_server, order_for
from acestep.catalog.hubs import any_reachable
from acestep.catalog.planner_choice import (
    NANO_PLANNER,
    PlannerChoice,
    PlannerWish,
    choose_planner,
    find_planner,
    gpu_memory_gb,
    on_disk,
)
from acestep.domain.models import ModelInfo, ModelState, PlannerInfo
from acestep.engine.idle import IdlePolicy, as_on_demand
from acestep.engine.planner_entry import PlannerEntry
from acestep.engine.planner_host import PlannerHost
from acestep.engine.renderer import LoadedPlanner, LoadPlanner, OnLoading
from acestep.engine.threads import Watchdog, WatchedThread
from acestep.errors import AceStepError, CheckpointError, InvalidFieldError, StageStuckError
from acestep.memory.admission import MemoryLedger
from acestep.memory.configs import planner_size
from acestep.memory.decide import Decision, room_for_planner
from acestep.memory.search import on_all_devices
from acestep.server.imports import TORCH_MODELS, uncollected
from acestep.settings.settings import Settings
from acestep.weights.shared_modules import SharedModules

log = logging.getLogger(__name__)

_FIELD = "lm_model_path"

Changed = Callable[[Sequence[Decision | None]], None]
"""Called with the memory plans of the devices, in their order."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A planner on disk that is not available: why, and the state of the server that decided it."""

    reason: str
    decided_by: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Replaced:
    """The state of a device before its planner was replaced."""

    choice: PlannerChoice
    memory: Decision | None
    entry: PlannerEntry


class DevicePlanner:
    """The planner of one device, and the memory plan that includes it."""

    def __init__(
        self,
        settings: Settings,
        choice: PlannerChoice,
        ledger: MemoryLedger,
        shared: SharedModules,
        idle_policy: IdlePolicy,
        models: Callable[[], Sequence[ModelInfo]] = tuple,
    ) -> None:
        """`models` are those in memory on the device, or that may be loaded again."""
        self._settings = settings
        self._choice = choice
        self._ledger = ledger
        self._shared = shared
        self._models = models
        self._watchdog = idle_policy.watchdog
        self._refused: dict[str, Refused] = {}
        own = PlannerEntry(_expect(choice), self._loader(choice, ledger.decision) if choice.name else None)
        on_demand = self if settings.on_demand_model_load else None
        self.host = PlannerHost(own, on_demand, settings.lm_closed_turn, idle_policy)

    @property
    def memory(self) -> Decision | None:
        return self._ledger.decision

    def names(self) -> tuple[str, ...]:
        return on_disk(self._settings.checkpoints_dir)

    def find(self, name: str) -> PlannerEntry | None:
        before = self._refused.get(name)
        decided_by: tuple[object, ...] = ()
        try:
            choice = find_planner(name, self._settings.checkpoints_dir) if is_bare(name) else None
            if choice is None:
                return None
            # The search takes tens of milliseconds, and each list of models needs its result.
            decided_by = self._memory_state(choice)
            if before is not None and before.decided_by == decided_by:
                return None
            self.planned(choice)
            self._refused.pop(name, None)
        except AceStepError as error:
            if before is None or before.reason != str(error):
                log.warning("%s is not available. %s", name, error)
            self._refused[name] = Refused(str(error), decided_by)
            return None

        def load(on_loading: OnLoading) -> LoadedPlanner:
            return self._loader(choice, self.planned(choice))(on_loading)  # the models may be others by then

        return PlannerEntry(as_on_demand(_expect(choice)), load)

    def _memory_state(self, choice: PlannerChoice) -> tuple[object, ...]:
        # Everything that `planned` depends on.
        limits = tuple((info.name, info.max_batch, info.max_duration) for info in self._models())
        return planner_size(choice), self._ledger.decision, limits

    def default_planner(self, documented: str) -> str | None:
        """The published planner that is the default, see `largest_planner`; None if no plan can say."""
        return self._ledger.default_planner(self._settings, documented, self._models())

    def planned(self, choice: PlannerChoice) -> Decision | None:
        """The memory plan with this planner. Raises as `with_planner` does."""
        return self._ledger.with_planner(choice, self._settings, self._models())

    def check(self) -> None:
        self._watchdog.check()

    async def put(self, choice: PlannerChoice) -> Replaced:
        """Replace planner and memory plan. If that fails, both are as before."""
        memory = await asyncio.to_thread(self.planned, choice)
        before, self._ledger.decision = self._ledger.decision, memory  # for models that are loaded meanwhile
        try:
            entry = await self.host.put(PlannerEntry(_expect(choice), self._loader(choice, memory)))
        except AceStepError:
            self._ledger.decision = before
            raise
        replaced, self._choice = Replaced(self._choice, before, entry), choice
        return replaced

    async def restore(self, before: Replaced) -> None:
        """Undo a `put`. Raises StageStuckError if a thread is stuck; then nothing changes."""
        await self.host.restore(before.entry)
        self._ledger.decision, self._choice = before.memory, before.choice

    def _loader(self, choice: PlannerChoice, memory: Decision | None) -> LoadPlanner:
        settings, plan = self._settings, memory.plan if memory else None

        def load(on_loading: OnLoading) -> LoadedPlanner:
            folder = choice.folder or _fetch(choice, settings, on_loading)
            on_loading("loading", "")
            with uncollected(TORCH_MODELS):
                from acestep.engine.torch_models import LoadContext, load_planner

            device, dtype = settings.lm_device or settings.device, settings.dtype
            context = LoadContext(shared=self._shared, plan=plan, dtype=dtype, beat=on_loading.beat)
            return load_planner(folder, device, settings.lm_backend, context)

        return load


class PlannerManager:
    """See `PlannerKeeper`. All devices have the same planner.

    A replacement that has begun is finished, or undone on all devices: it runs in a task of the manager, and
    a caller that is cancelled only stops waiting for it.
    """

    def __init__(
        self, settings: Settings, dit: str, devices: Sequence[DevicePlanner], changed: Changed
    ) -> None:
        """`dit` is the default model's name, which decides on the default planner."""
        self._settings = settings
        self._dit = dit
        self._devices = tuple(devices)
        self._changed = changed
        self._turn = asyncio.Lock()  # one replacement at a time
        self._replacements: set[asyncio.Task[PlannerInfo]] = set()
        executor = ThreadPoolExecutor(1, thread_name_prefix="fetch-planner")
        self._download_watchdog = Watchdog(settings.stage_timeout)  # its own: a stuck download stops no song
        self._download = WatchedThread(executor, self._download_watchdog)

    async def check(self, name: str | None) -> None:
        if not self._has(name):
            await asyncio.to_thread(self._choose, name)

    async def put(self, name: str | None) -> PlannerInfo:
        task = asyncio.create_task(self._put(name))
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)
        return await asyncio.shield(task)

    async def reload(self) -> tuple[str, ...]:
        self._check_threads()
        if self._info.state != "failed":
            return ()
        return ((await self.put(self._info.name)).name,)

    async def close(self) -> None:
        """Begin nothing more. Before the hosts are closed."""
        for task in self._replacements:
            task.cancel()
        self._download.close()

    async def _put(self, name: str | None) -> PlannerInfo:
        async with self._turn:
            if self._has(name):
                for device in self._devices:
                    async with device.host.borrow():  # it may be loading
                        pass
                return self._info
            self._check_threads()
            choice = await asyncio.to_thread(self._choose, name)
            if choice.folder is None and any(device.host.known.info().is_usable for device in self._devices):
                choice = await self._fetched(choice)  # before the one that works leaves memory
            await self._replace(choice)
            return self._info

    async def _fetched(self, choice: PlannerChoice) -> PlannerChoice:
        # The planner, downloaded. Raises StageStuckError if no more bytes come.
        self._download_watchdog.check()
        work = partial(_fetch, choice, self._settings, OnLoading(_log_progress, self._download.beat))
        return replace(choice, folder=await self._download.run(f"download {choice.name}", work))

    async def _replace(self, choice: PlannerChoice) -> None:
        # Replace the planner on all devices, or on none.
        before, done = self._memories, list[tuple[DevicePlanner, Replaced]]()
        try:
            for device in self._devices:
                done.append((device, await device.put(choice)))
        except AceStepError:
            for device, replaced in done:
                try:
                    await device.restore(replaced)
                except StageStuckError as error:
                    log.error("One device keeps the planner %s. %s", choice.name, error)
            raise
        finally:
            if self._memories != before:
                self._changed(self._memories)

    @property
    def _memories(self) -> tuple[Decision | None, ...]:
        return tuple(device.memory for device in self._devices)

    @property
    def _info(self) -> PlannerInfo:
        return self._devices[0].host.known.info()

    def _check_threads(self) -> None:
        for device in self._devices:
            device.check()

    def _has(self, name: str | None) -> bool:
        # Whether all devices have this planner. One that is used only if needed is not enough.
        infos = [device.host.known.info() for device in self._devices]
        return all(info.fills_in and name in (None, info.name) for info in infos)

    def _choose(self, name: str | None) -> PlannerChoice:
        # The planner of this name; None: the present one, or that of the settings. Raises InvalidFieldError
        # if it is unknown, or has no room beside the models.
        settings = self._settings
        wanted = name or self._info.name or settings.lm_model_path
        known = [each for each, published in PUBLISHED.items() if published.kind == "planner"]
        allowed = f"the name of a planner, such as {', '.join([*known, NANO_PLANNER])}"
        if name is not None and not is_bare(name):
            raise InvalidFieldError(_FIELD, name, allowed)
        if settings.lm_model_path and wanted == PurePath(settings.lm_model_path).name:
            wanted = settings.lm_model_path
        wish = PlannerWish(True, wanted, self._dit, settings.checkpoints_dir)
        try:
            choice = choose_planner(
                wish,
                partial(room_for_planner, settings, gpu_memory_gb),
                partial(any_reachable, settings.download_source),
                lambda documented: on_all_devices(
                    device.default_planner(documented) for device in self._devices
                ),
            )
            for device in self._devices:
                device.planned(choice)
        except CheckpointError as error:
            log.warning("The planner is not replaced. %s", error)
            raise InvalidFieldError(_FIELD, wanted, allowed) from error
        return choice


def _expect(choice: PlannerChoice) -> PlannerInfo:
    if not choice.name:
        return PlannerInfo(detail=choice.detail)
    state: ModelState = "loading" if choice.folder else "downloading"
    return PlannerInfo(choice.name, state, only_if_needed=choice.only_if_needed)


def _fetch(choice: PlannerChoice, settings: Settings, on_loading: OnLoading) -> Path:
    fetch_for_server(order_for(choice.name, settings), on_loading, on_loading.beat)
    return settings.checkpoints_dir / choice.name


def _log_progress(state: ModelState, detail: str) -> None:
    log.info("The planner is %s. %s", state, detail)
