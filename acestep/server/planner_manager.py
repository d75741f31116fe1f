"""How planners (5 Hz language models) come into memory: at the start, and others while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
from acestep.engine.planner_host import LoadedPlanner, LoadPlanner, PlannerHost
from acestep.engine.planner_pool import PlannerPool
from acestep.engine.renderer import OnLoading
from acestep.engine.threads import WatchedThread
from acestep.errors import AceStepError, CheckpointError, InvalidFieldError
from acestep.memory.admission import MemoryLedger
from acestep.memory.decide import Decision, room_for_planner
from acestep.memory.search import on_all_devices
from acestep.settings.settings import Settings
from acestep.weights.shared_modules import SharedModules

log = logging.getLogger(__name__)

_FIELD = "lm_model_path"

Changed = Callable[[Sequence[Decision | None]], None]
"""Hears of the devices' memory plans, in their order."""


class DevicePlanner:
    """The planner of one device. It takes turns there with the models that have the same `shared` parts."""

    def __init__(
        self,
        settings: Settings,
        choice: PlannerChoice,
        ledger: MemoryLedger,
        shared: SharedModules,
        idle_policy: IdlePolicy,
        models: Callable[[], Sequence[ModelInfo]] = tuple,
    ) -> None:
        """`models` says which ones are in memory on the device, or may come back."""
        self._settings = settings
        self._ledger = ledger
        self._models = models
        self._shared = shared
        self._idle_policy = idle_policy
        self._watchdog = idle_policy.watchdog
        self._patrol = idle_policy.watchdog.apart()  # songs are made while this thread is stuck
        executor = ThreadPoolExecutor(1, thread_name_prefix="fetch-planner")
        self._thread = WatchedThread(executor, self._patrol)
        self._fetching = asyncio.Lock()
        self._refused: dict[str, str] = {}  # what the log was told last of planners that cannot come
        self.choice = choice
        load = self._loader(choice, ledger.decision) if choice.name else None
        own = PlannerHost(_expect(choice), load, settings.lm_closed_turn, idle_policy)
        self.planner_pool = PlannerPool(own, self if settings.on_demand_model_load else None)

    @property
    def memory(self) -> Decision | None:
        """The memory plan with the planner that is there."""
        return self._ledger.decision

    def names(self) -> tuple[str, ...]:
        return on_disk(self._settings.checkpoints_dir)

    def host(self, name: str) -> PlannerHost | None:
        try:
            choice = find_planner(name, self._settings.checkpoints_dir) if is_bare(name) else None
            if choice is None:
                return None
            self.planned(choice)
            self._refused.pop(name, None)
        except AceStepError as error:
            if self._refused.get(name) != str(error):  # whoever lists the models asks again and again
                log.warning("%s does not come. %s", name, error)
                self._refused[name] = str(error)
            return None

        def load(on_loading: OnLoading) -> LoadedPlanner:
            return self._loader(choice, self.planned(choice))(on_loading)  # by what is in memory then

        idle_policy = replace(self._idle_policy, is_lazy=True)
        return PlannerHost(as_on_demand(_expect(choice)), load, self._settings.lm_closed_turn, idle_policy)

    def default_planner(self, documented: str) -> str | None:
        """The published planner that comes by itself, see `largest_planner`; None where no plan can say."""
        return self._ledger.default_planner(self._settings, documented, self._models())

    def planned(self, choice: PlannerChoice) -> Decision | None:
        """The memory plan with this planner. Raises as `with_planner` does."""
        return self._ledger.with_planner(choice, self._settings, self._models())

    def check(self) -> None:
        """Raises StageStuckError where a thread of this device is stuck."""
        self._watchdog.check()

    async def fetched(self, choice: PlannerChoice) -> PlannerChoice:
        """The planner once its files are there. Raises StageStuckError where no more bytes come."""
        async with self._fetching:
            self._patrol.check()
            heard = OnLoading(_log_progress, self._thread.beat)
            work = partial(_fetch, choice, self._settings, heard)
            return replace(choice, folder=await self._thread.run(f"download {choice.name}", work))

    async def put(self, choice: PlannerChoice) -> PlannerInfo:
        memory = await asyncio.to_thread(self.planned, choice)
        before, self._ledger.decision = self._ledger.decision, memory  # models that come meanwhile see it
        try:
            info = await self.planner_pool.put(_expect(choice), self._loader(choice, memory))
        except BaseException:
            self._ledger.decision = before
            raise
        self.choice = choice
        return info

    def _loader(self, choice: PlannerChoice, memory: Decision | None) -> LoadPlanner:
        settings, plan = self._settings, memory.plan if memory else None

        def load(on_loading: OnLoading) -> LoadedPlanner:
            folder = choice.folder or _fetch(choice, settings, on_loading)
            on_loading("loading", "")
            from acestep.engine.torch_models import load_planner

            device = settings.lm_device or settings.device
            return load_planner(folder, device, settings.lm_backend, plan, self._shared, on_loading.beat)

        return load


class PlannerManager:
    """See `PlannerKeeper`: all devices have the same planner."""

    def __init__(
        self, settings: Settings, dit: str, device_planners: Sequence[DevicePlanner], changed: Changed
    ) -> None:
        """`dit` is the default model's name, by which a planner is chosen that was not named."""
        self._settings = settings
        self._dit = dit
        self._device_planners = tuple(device_planners)
        self._changed = changed

    async def check(self, name: str | None) -> None:
        if not self._is_there(name):
            await asyncio.to_thread(self._choose, name)

    async def put(self, name: str | None) -> PlannerInfo:
        if self._is_there(name):
            for device_planner in self._device_planners:
                async with device_planner.planner_pool.borrow():  # it may be on its way
                    pass
            return self._info
        self._check_threads()
        choice = await asyncio.to_thread(self._choose, name)
        if choice.folder is None and any(
            device_planner.planner_pool.info().is_usable for device_planner in self._device_planners
        ):
            choice = await self._device_planners[0].fetched(choice)
        before, done = self._memories, []
        try:
            for device_planner in self._device_planners:
                old = device_planner.choice
                await device_planner.put(choice)
                done.append((device_planner, old))
        except AceStepError:
            for device_planner, old in done:
                if old.name:
                    await device_planner.put(old)
            raise
        if self._memories != before:
            self._changed(self._memories)
        return self._info

    async def reload(self) -> tuple[str, ...]:
        self._check_threads()
        if self._info.state != "failed":
            return ()
        return ((await self.put(self._info.name)).name,)

    @property
    def _memories(self) -> tuple[Decision | None, ...]:
        return tuple(device_planner.memory for device_planner in self._device_planners)

    @property
    def _info(self) -> PlannerInfo:
        return self._device_planners[0].planner_pool.info()

    def _check_threads(self) -> None:
        for device_planner in self._device_planners:
            device_planner.check()

    def _is_there(self, name: str | None) -> bool:
        infos = [device_planner.planner_pool.info() for device_planner in self._device_planners]
        # One that keeps to what cannot be done without it becomes one that fills in as well.
        return all(info.fills_in and name in (None, info.name) for info in infos)

    def _choose(self, name: str | None) -> PlannerChoice:
        """The planner of this name, or where none is named the one that the settings mean.

        Raises InvalidFieldError where it cannot be had, or has no room beside the models.
        """
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
                    each.default_planner(documented) for each in self._device_planners
                ),
            )
            for device_planner in self._device_planners:
                device_planner.planned(choice)
        except CheckpointError as error:
            log.warning("The planner stays as it is. %s", error)
            raise InvalidFieldError(_FIELD, wanted, allowed) from error
        return choice


def _expect(choice: PlannerChoice) -> PlannerInfo:
    """What is known of a planner before it is loaded."""
    if not choice.name:
        return PlannerInfo(detail=choice.detail)
    state: ModelState = "loading" if choice.folder else "downloading"
    return PlannerInfo(choice.name, state, only_if_needed=choice.only_if_needed)


def _fetch(choice: PlannerChoice, settings: Settings, on_loading: OnLoading) -> Path:
    """The folder of a planner once its files are there."""
    fetch_for_server(order_for(choice.name, settings), on_loading, on_loading.beat)
    return settings.checkpoints_dir / choice.name


def _log_progress(state: ModelState, detail: str) -> None:
    log.info("%s %s", state, detail)
