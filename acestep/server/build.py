"""Builds what the server runs from its settings: models, planner, memory plan, an engine a device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import cycle

from acestep.catalog import checkpoints
from acestep.catalog.adapters import AdapterFolder
from acestep.catalog.checkpoints import Choice, as_choice
from acestep.catalog.download import fetch_for_server, order_for
from acestep.catalog.hubs import any_reachable
from acestep.catalog.planner_choice import PlannerChoice, PlannerWish, choose_planner, gpu_memory_gb
from acestep.device.probes import PROBES, device_meant, gpu_present
from acestep.domain.models import ModelInfo
from acestep.engine.engine import Engine
from acestep.engine.idle import IdlePolicy
from acestep.engine.model_manager import PRIMARY, ModelManager, Slot
from acestep.engine.multi_device import Fleet, FleetKeeper
from acestep.engine.pipeline import SongWriter
from acestep.engine.renderer import Loaded, OnLoading
from acestep.engine.threads import Watchdog
from acestep.files import DataFolder
from acestep.jobs.worker import ModelKeeper, PlannerKeeper, Worker
from acestep.memory.admission import MemoryLedger
from acestep.memory.decide import Decision, decide_for_server, planner_for_server, room_for_planner
from acestep.server import configured_models
from acestep.server.configured_models import Secondaries
from acestep.server.planner_manager import Changed, DevicePlanner, PlannerManager
from acestep.settings.settings import Settings, export_dotenv
from acestep.weights.shared_modules import SharedModules


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is settled before the server starts: settings, the models, the data folder (locked).

    `memories` are the memory plans of the devices, in their order; None where it is not known what a model
    takes up.
    """

    settings: Settings
    choice: Choice
    secondaries: Secondaries
    planner: PlannerChoice
    folder: DataFolder
    memories: tuple[Decision | None, ...]

    @property
    def memory(self) -> Decision | None:
        """The plan that allows least: what a request may ask for wherever it is made."""
        return tightest(self.memories)


def tightest(memories: Iterable[Decision | None]) -> Decision | None:
    """The plan that allows least."""
    known = [memory for memory in memories if memory]
    return min(known, key=lambda each: (each.plan.max_duration, each.plan.max_batch), default=None)


def prepare(**flags: str | None) -> Prepared:
    """Settle what can refuse the start; `flags` are settings by name and win, None is not given.

    Raises AceStepError; takes the lock on the data folder last.
    """
    settings = Settings.load(**flags)
    export_dotenv()
    hub_reachable = cache(partial(any_reachable, settings.download_source))  # a start asks once
    choice = checkpoints.choose(
        settings.config_path,
        settings.checkpoints_dir,
        has_gpu=lambda: gpu_present(settings.devices[0]),
        hub_reachable=hub_reachable,
    )
    secondaries = configured_models.secondaries(settings, choice.name, hub_reachable)
    wish = PlannerWish(settings.init_llm, settings.lm_model_path, choice.name, settings.checkpoints_dir)
    there = partial(room_for_planner, settings, gpu_memory_gb)
    choices = [choice, *(each.choice for each in secondaries.models if each.choice)]
    planned = partial(planner_for_server, settings, choices, PROBES)
    planner = choose_planner(wish, there, hub_reachable, planned)
    memories = tuple(
        decide_for_server(settings.on(device), choices, planner, PROBES) for device in settings.devices
    )
    for memory in filter(None, memories):  # all of them have the planner, or none
        planner = memory.admitted(planner)
    folder = DataFolder(settings.data_dir)
    folder.acquire()
    return Prepared(settings, choice, secondaries, planner, folder, memories)


class Engines:
    """An engine for each device, behind one `worker`, one `keeper` of their models and one of `planners`."""

    def __init__(
        self, engines: Sequence[Engine], model_managers: Sequence[ModelManager], planners: PlannerManager
    ) -> None:
        self.planners: PlannerKeeper = planners
        self._planner_manager = planners
        self._engines = tuple(engines)
        one = len(engines) == 1
        self.worker: Worker = engines[0] if one else Fleet(engines)
        self.keeper: ModelKeeper = model_managers[0] if one else FleetKeeper(model_managers)

    async def start(self) -> None:
        """Begin to load the models; returns at once."""
        for engine in self._engines:
            await engine.start()

    async def close(self) -> None:
        """Let running work end and free the threads."""
        await self._planner_manager.close()
        for engine in self._engines:
            await engine.close()

    def trouble(self) -> str:
        """What is wrong with any of them."""
        return " ".join(filter(None, (engine.trouble() for engine in self._engines)))


def build_engines(prepared: Prepared, writer: SongWriter, changed: Changed) -> Engines:
    """The engines, with every model that the server is set up with; none of them is in memory yet.

    `changed` is called with the memory plans of the devices when the planner has become another.
    """
    devices = [
        _DeviceContext(prepared, device, memory)
        for device, memory in zip(prepared.settings.devices, prepared.memories, strict=True)
    ]
    with_planner = devices
    # One that has a device of its own is one for all, and knows of the models there if there are any.
    if own := prepared.settings.lm_device:
        there = (home for home in devices if device_meant(home.settings.device) == device_meant(own))
        with_planner = [next(there, devices[0])]
    device_planners = [home.device_planner(prepared.planner) for home in with_planner]
    engines = [
        Engine(home.model_manager, writer, device_planner.host, home.idle_policy)
        for home, device_planner in zip(devices, cycle(device_planners), strict=False)
    ]
    planners = PlannerManager(prepared.settings, prepared.choice.name, device_planners, changed)
    return Engines(engines, [home.model_manager for home in devices], planners)


class _DeviceContext:
    """One device, and the models there."""

    def __init__(self, prepared: Prepared, device: str, memory: Decision | None) -> None:
        self.settings = prepared.settings.on(device)
        self.idle_policy = _idle_policy(self.settings)
        self._shared = SharedModules()
        self._ledger = MemoryLedger(memory)
        catalog = _Catalog(self.settings, self._ledger, self._shared)
        self.model_manager = _model_manager(prepared, catalog, self.idle_policy)

    def device_planner(self, planner: PlannerChoice) -> DevicePlanner:
        """The planner beside these models, whether it is on their device or has one of its own."""
        return DevicePlanner(
            self.settings, planner, self._ledger, self._shared, self.idle_policy, self.model_manager.occupants
        )


def _idle_policy(settings: Settings) -> IdlePolicy:
    return IdlePolicy(
        watchdog=Watchdog(settings.stage_timeout),
        free=_free_memory,
        idle_seconds=settings.idle_unload_seconds,
        is_lazy=settings.no_init,
    )


def _free_memory() -> None:
    from acestep.engine.torch_models import free_memory

    free_memory()


def _model_manager(prepared: Prepared, catalog: _Catalog, idle_policy: IdlePolicy) -> ModelManager:
    settings = prepared.settings
    models = {PRIMARY: catalog.slot(prepared.choice, is_default=True)}
    for secondary in prepared.secondaries.models:
        choice = secondary.choice
        models[secondary.number] = catalog.slot(choice) if choice else Slot(secondary.info)
    room = settings.models_in_memory if settings.on_demand_model_load else 0
    return ModelManager(models, catalog, room, idle_policy)


class _Catalog:
    """See `Catalogue`: the checkpoints folder, and how what is there is loaded."""

    def __init__(self, settings: Settings, ledger: MemoryLedger, shared: SharedModules) -> None:
        self._settings = settings
        self._on_disk = configured_models.OnDisk(settings.checkpoints_dir)
        self._ledger = ledger
        self._shared = shared

    def on_disk(self) -> tuple[ModelInfo, ...]:
        found = [as_choice(each) for each in self._on_disk.models()]
        for choice in found:
            self._ledger.know(choice)
        return tuple(
            self._ledger.limited(replace(configured_models.expect(each), state="on_disk")) for each in found
        )

    def find(self, name: str, beside: Sequence[ModelInfo] | None = None) -> Slot:
        hub_reachable = partial(any_reachable, self._settings.download_source)
        choice = checkpoints.choose(name, self._settings.checkpoints_dir, lambda: False, hub_reachable)
        self._ledger.know(choice)
        return self._slot(choice, self._ledger.limited(configured_models.expect(choice), beside))

    def no_room(self, infos: Sequence[ModelInfo]) -> str:
        return self._ledger.why_not_together(infos)

    def slot(self, choice: Choice, is_default: bool = False) -> Slot:
        """A model that the server starts with: the plan was made for all of these together."""
        self._ledger.know(choice)
        memory, info = self._ledger.decision, configured_models.expect(choice, is_default)
        return self._slot(choice, memory.limited(info) if memory else info)

    def _slot(self, choice: Choice, info: ModelInfo) -> Slot:
        """How a model that was chosen gets into memory: download it if need be, then load it."""
        settings, memory = self._settings, self._ledger.decision

        def load(on_loading: OnLoading) -> Loaded:
            checkpoint = choice.checkpoint
            if checkpoint is None:
                fetch_for_server(order_for(choice.name, settings), on_loading, on_loading.beat)
                checkpoint = checkpoints.require(choice.name, settings.checkpoints_dir)
            on_loading("loading", "")
            from acestep.engine.torch_models import LoadContext, load_model

            adapters, plan = AdapterFolder(settings.lora_dir), memory.plan if memory else None
            context = LoadContext(adapters, self._shared, plan, on_loading.beat)
            return load_model(checkpoint, settings.device, info, context)

        return Slot(info, load)
