"""Builds what the server runs from its settings: models, planner, memory plan, an engine a device."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import cycle

from acestep.audio.encode import SongWriter
from acestep.background import BackgroundTasks
from acestep.catalog import checkpoints
from acestep.catalog.adapters import AdapterFolder
from acestep.catalog.checkpoints import NANO_MODEL, PUBLISHED, Choice, as_choice
from acestep.catalog.hubs import any_reachable
from acestep.catalog.planner_choice import PlannerChoice, PlannerWish, choose_planner, gpu_memory_gb
from acestep.data_folder import DataFolder, make_temporary_folder
from acestep.device.probes import PROBES, device_name, has_gpu
from acestep.domain.models import ModelInfo
from acestep.domain.song import MAX_BATCH
from acestep.engine.engine import Engine
from acestep.engine.idle import IdlePolicy
from acestep.engine.model_entry import ModelEntry
from acestep.engine.model_manager import PRIMARY, ModelManager
from acestep.engine.multi_device import Fleet, FleetKeeper
from acestep.engine.renderer import Loaded, OnLoading
from acestep.engine.threads import Watchdog
from acestep.errors import CheckpointError, DataFolderError
from acestep.jobs.worker import ModelKeeper, PlannerKeeper, Worker
from acestep.memory.admission import MemoryLedger
from acestep.memory.decide import Decision, decide_for_server, planner_for_server, room_for_planner
from acestep.server.configured_models import ConfiguredModels, OnDisk, configured_models, expect
from acestep.server.downloads import Downloads
from acestep.server.imports import TORCH_MODELS, uncollected
from acestep.server.placement import gpus, place
from acestep.server.planner_manager import Changed, DevicePlanner, PlannerManager
from acestep.settings.settings import Settings, export_dotenv
from acestep.weights.shared_modules import SharedModules


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is decided before the server starts.

    `memories` are the devices' memory plans, in their order; None where the size of a model is unknown.
    """

    settings: Settings
    models: ConfiguredModels
    planner: PlannerChoice
    folder: DataFolder
    memories: tuple[Decision | None, ...]

    @property
    def memory(self) -> Decision | None:
        return tightest(self.memories)


def tightest(memories: Iterable[Decision | None]) -> Decision | None:
    """The plan that allows least, which holds for a request whatever device runs it."""
    known = [memory for memory in memories if memory]
    return min(known, key=lambda each: (each.plan.max_duration, each.plan.max_batch), default=None)


def jobs_at_once(prepared: Prepared) -> int:
    """How many jobs run at a time."""
    settings = prepared.settings
    if settings.queue_workers is not None:
        return max(settings.queue_workers, len(settings.devices))
    return sum(
        _jobs_on(device, memory) for device, memory in zip(settings.devices, prepared.memories, strict=True)
    )


def _jobs_on(device: str, memory: Decision | None) -> int:
    # So many that no stage waits for another: those in the batch that is rendered, those of the next batch or
    # on their way to a file, and the texts that the planner writes at once. On a CPU each song is a batch.
    on_gpu = memory.budget.on_gpu if memory else has_gpu(device)
    batch = 1 if not on_gpu else memory.plan.max_batch if memory else MAX_BATCH
    return 2 * batch + (memory.plan.sequences if memory else 0)


def prepare(settings: Settings) -> Prepared:
    """Choose models and planner, plan the memory, and lock the data folder, in this order.

    Raises AceStepError where the server cannot start.
    """
    export_dotenv()
    settings = place(settings, gpus)
    hub_reachable = cache(partial(any_reachable, settings.download_source))  # asked once
    try:
        default = checkpoints.choose(
            settings.config_path,
            settings.checkpoints_dir,
            has_gpu=lambda: has_gpu(settings.devices[0]),
            hub_reachable=hub_reachable,
        )
    except CheckpointError as error:
        raise CheckpointError(_with_ways_out(str(error), settings, hub_reachable)) from error
    models = configured_models(settings, default, hub_reachable)
    planner = choose_planner(
        PlannerWish(settings.init_llm, settings.lm_model_path, default.name, settings.checkpoints_dir),
        partial(room_for_planner, settings, gpu_memory_gb),
        hub_reachable,
        partial(planner_for_server, settings, models.loadable, PROBES),
    )
    memories = tuple(
        decide_for_server(settings.on(device), models.loadable, planner, PROBES)
        for device in settings.devices
    )
    for memory in filter(None, memories):  # all devices have the planner, or none
        planner = memory.admitted(planner)
    folder = DataFolder(settings.data_dir)
    folder.acquire()
    try:
        make_temporary_folder(settings.tmpdir)
    except DataFolderError:
        folder.release()
        raise
    return Prepared(settings, models, planner, folder, memories)


def _with_ways_out(error: str, settings: Settings, hub_reachable: Callable[[], bool]) -> str:
    # Why the default model is not available, with what else keeps the server from starting, and two command
    # lines: one gets all that is missing, one tries the server with nano.
    folder, wanted = settings.checkpoints_dir, settings.lm_model_path if settings.init_llm else None
    names = {settings.config_path, settings.config_path2, settings.config_path3, *settings.models, wanted}
    missing = [name for name in PUBLISHED if name in names and not checkpoints.find_folder(name, folder)]
    said, without = [error], f"ACESTEP_CONFIG_PATH={NANO_MODEL}"
    if settings.config_path in missing and len(missing) > 1:
        size = sum(part.size for part in {part for name in missing for part in PUBLISHED[name].needs})
        said = [
            f"{' and '.join(missing)} are not in {folder} and the hub cannot be reached. To get them (about "
            f"{size / 1e9:.0f} GB): `uv run acestep-download {' '.join(missing)}`."
        ]
    if wanted:
        try:
            choose_planner(PlannerWish(True, wanted, "", folder), lambda: 0.0, hub_reachable)
        except CheckpointError as other:
            said += [] if wanted in missing else [str(other)]
            # The launch scripts ask for no planner beside nano.
            without += "" if settings.launched_by else " ACESTEP_INIT_LLM=auto"
    command = settings.launched_by or "uv run acestep-api"
    return " ".join([*said, f"To try the server with the small bundled model: `{without} {command}`."])


def build_engines(
    prepared: Prepared, writer: SongWriter, changed: Changed, tasks: BackgroundTasks
) -> Engines:
    """An engine for each device; no model is in memory yet.

    `changed` is called with the devices' memory plans when the planner was replaced.
    """
    devices = [
        _DeviceContext(prepared, device, memory, tasks)
        for device, memory in zip(prepared.settings.devices, prepared.memories, strict=True)
    ]
    device_planners = [
        device.device_planner(prepared.planner) for device in _with_planner(devices, prepared.settings)
    ]
    engines = [
        Engine(device.model_manager, writer, device_planner.host, device.idle_policy)
        for device, device_planner in zip(devices, cycle(device_planners), strict=False)
    ]
    planners = PlannerManager(prepared.settings, prepared.models.default.name, device_planners, changed)
    return Engines(engines, [device.model_manager for device in devices], planners)


class Engines:
    """The engines of all devices behind one `worker`, one `keeper` of models and one of `planners`."""

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
        for engine in self._engines:
            await engine.start()

    async def close(self) -> None:
        await self._planner_manager.close()
        for engine in self._engines:
            await engine.close()

    def trouble(self) -> str:
        return " ".join(filter(None, (engine.trouble() for engine in self._engines)))


def _with_planner(devices: Sequence[_DeviceContext], settings: Settings) -> Sequence[_DeviceContext]:
    # The devices with a planner: all, unless ACESTEP_LM_DEVICE names one, whose planner all share. Its
    # memory is planned with the models of that device, if there are any.
    if not settings.lm_device:
        return devices
    name = device_name(settings.lm_device)
    same = (device for device in devices if device_name(device.settings.device) == name)
    return [next(same, devices[0])]


class _DeviceContext:
    def __init__(
        self, prepared: Prepared, device: str, memory: Decision | None, tasks: BackgroundTasks
    ) -> None:
        self.settings = prepared.settings.on(device)
        self.idle_policy = _idle_policy(self.settings, tasks)
        self._shared = SharedModules()
        self._ledger = MemoryLedger(memory)
        catalog = _Catalog(self.settings, self._ledger, self._shared)
        self.model_manager = _model_manager(prepared, catalog, self.idle_policy)

    def device_planner(self, planner: PlannerChoice) -> DevicePlanner:
        return DevicePlanner(
            self.settings, planner, self._ledger, self._shared, self.idle_policy, self.model_manager.occupants
        )


def _idle_policy(settings: Settings, tasks: BackgroundTasks) -> IdlePolicy:
    return IdlePolicy(
        watchdog=Watchdog(settings.stage_timeout),
        tasks=tasks,
        free=_free_memory,
        idle_seconds=settings.idle_unload_seconds,
        is_lazy=settings.no_init,
    )


def _free_memory() -> None:
    if TORCH_MODELS in sys.modules:  # otherwise there is nothing to free
        from acestep.engine.torch_models import free_memory

        free_memory()


def _model_manager(prepared: Prepared, catalog: _Catalog, idle_policy: IdlePolicy) -> ModelManager:
    settings = prepared.settings
    slots = {
        number: catalog.configured(choice, is_default=number == PRIMARY)
        for number, choice in prepared.models.by_slot.items()
    }
    room = settings.models_in_memory if settings.on_demand_model_load else 0
    return ModelManager(slots, catalog, room, idle_policy)


class _Catalog:
    # The `Catalog` of ACESTEP_CHECKPOINTS_DIR, and how its models are loaded onto one device.
    def __init__(self, settings: Settings, ledger: MemoryLedger, shared: SharedModules) -> None:
        self._settings = settings
        self._on_disk = OnDisk(settings.checkpoints_dir)
        self._downloads = Downloads(settings)
        self._ledger = ledger
        self._shared = shared

    def on_disk(self) -> tuple[ModelInfo, ...]:
        found = [as_choice(each) for each in self._on_disk.models()]
        for choice in found:
            self._ledger.know(choice)
        return tuple(self._ledger.limited(replace(expect(each), state="on_disk")) for each in found)

    def to_download(self) -> tuple[ModelInfo, ...]:
        return self._downloads.infos({each.name for each in self._on_disk.models()})

    def find(self, name: str, beside: Sequence[ModelInfo] | None = None) -> ModelEntry:
        def hub_reachable() -> bool:
            # A request does not wait for a probe: its download fails by itself.
            return beside is None or any_reachable(self._settings.download_source)

        choice = checkpoints.choose(name, self._settings.checkpoints_dir, lambda: False, hub_reachable)
        self._ledger.know(choice)
        info = replace(expect(choice), loads_on_demand=beside is None)
        return self._entry(choice, self._ledger.limited(info, beside))

    def no_room(self, infos: Sequence[ModelInfo]) -> str:
        return self._ledger.why_not_together(infos)

    def configured(self, choice: Choice, is_default: bool = False) -> ModelEntry:
        """A model that the server starts with: the plan was made for all of these together."""
        if choice.problem:
            return ModelEntry(expect(choice, is_default))
        self._ledger.know(choice)
        memory, info = self._ledger.decision, expect(choice, is_default)
        return self._entry(choice, memory.limited(info) if memory else info)

    def _entry(self, choice: Choice, info: ModelInfo) -> ModelEntry:
        # The model with what loads it, and downloads it first if need be.
        settings, memory = self._settings, self._ledger.decision

        def load(on_loading: OnLoading) -> Loaded:
            checkpoint = choice.checkpoint
            if checkpoint is None:
                self._downloads.fetch(choice.name, on_loading)
                checkpoint = checkpoints.require(choice.name, settings.checkpoints_dir)
            on_loading("loading", "")
            with uncollected(TORCH_MODELS):
                from acestep.engine.torch_models import LoadContext, load_model

            adapters = AdapterFolder(settings.lora_dir, settings.lora_roots)
            plan = memory.plan if memory else None
            context = LoadContext(adapters, self._shared, plan, settings.dtype, on_loading.beat)
            return load_model(checkpoint, settings.device, info, context)

        return ModelEntry(info, load)
