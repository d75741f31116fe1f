"""The composition root: settings in, a running server out.

The only module that knows both http and the engine. Heavy imports (torch, diffusers) happen on the
engine's thread, once the server answers. Owns the order of starting and stopping, the command line, and
the exit codes: 2 where the start is refused.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.logging import RichHandler

from acestep import checkpoints, slots
from acestep.adapters import AdapterFolder
from acestep.audio.decode import AudioLimits, probe
from acestep.checkpoints import Choice, as_choice
from acestep.domain import ModelInfo, ModelState, PlannerInfo
from acestep.download import fetch_for_server, order_for
from acestep.engine.desk import LoadedPlanner, PlannerDesk
from acestep.engine.engine import Engine
from acestep.engine.models import PRIMARY, ModelShelf, Slot
from acestep.engine.renderer import Loaded, OnLoading
from acestep.engine.upkeep import Upkeep
from acestep.engine.watchdog import Watchdog
from acestep.engine.write import SongWriter
from acestep.errors import AceStepError, DataFolderInUseError
from acestep.files import AudioStore, DataFolder, FileStore, load_secret
from acestep.http import app as http
from acestep.http.deps import HttpConfig, HttpServices, provide
from acestep.http.lora import ServerAdapters
from acestep.hubs import any_reachable
from acestep.jobs.cleaner import Cleaner
from acestep.jobs.queue import JobQueue
from acestep.jobs.runner import Runner
from acestep.jobs.store import JobStore
from acestep.memory.decide import Decision, decide_for_server, room_for_planner, table
from acestep.memory.probes import PROBES
from acestep.parts import SharedParts
from acestep.planners import PlannerChoice, PlannerWish, choose_planner, gpu_memory_gb
from acestep.settings import Settings, export_dotenv
from acestep.slots import Secondaries

log = logging.getLogger("acestep.api_server")  # also when this file is run as a script

STUCK = 1  # exit code where a thread never came back from its work
REFUSED = 2  # exit code where a setting, the data folder or the model keeps the server from starting
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is settled before the server starts: settings, the models, the data folder (locked)."""

    settings: Settings
    choice: Choice
    secondaries: Secondaries
    planner: PlannerChoice
    folder: DataFolder
    memory: Decision | None = None


def prepare(**flags: str | None) -> Prepared:
    """Settle what can refuse the start; `flags` are settings by name and win, None is not given.

    Raises AceStepError; takes the lock on the data folder last.
    """
    settings = Settings.load(**flags)
    export_dotenv()
    hub_reachable = partial(any_reachable, settings.download_source)
    choice = checkpoints.choose(
        settings.config_path,
        settings.checkpoints_dir,
        has_gpu=lambda: checkpoints.gpu_present(settings.device),
        hub_reachable=hub_reachable,
    )
    secondaries = slots.secondaries(settings, choice.name, hub_reachable)
    wish = PlannerWish(settings.init_llm, settings.lm_model_path, choice.name, settings.checkpoints_dir)
    there = partial(room_for_planner, settings, gpu_memory_gb)
    planner = choose_planner(wish, there, hub_reachable)
    choices = [choice, *(each.choice for each in secondaries.models if each.choice)]
    memory = decide_for_server(settings, choices, planner, PROBES)
    planner = memory.admitted(planner) if memory else planner
    folder = DataFolder(settings.data_dir)
    folder.acquire()
    return Prepared(settings, choice, secondaries, planner, folder, memory)


def create_app(prepared: Prepared) -> FastAPI:
    """The ASGI application; everything that lives and dies with it is built in its lifespan."""
    return http.create_app(lifespan=_lifespan(prepared), cors_origins=prepared.settings.cors_origins)


def _lifespan(prepared: Prepared) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    settings, folder = prepared.settings, prepared.folder

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        audio = AudioStore(folder.audio, load_secret(folder.secret))
        store = JobStore(folder.database)
        queue = JobQueue(store, settings.queue_maxsize, settings.avg_job_seconds, settings.avg_window)
        writer = SongWriter(audio, settings.mp3_bitrate)
        upkeep = _upkeep(settings)
        shelf = _shelf(prepared, upkeep)
        engine = Engine(shelf, writer, _desk(prepared, upkeep), upkeep)
        cleaner = Cleaner(store, audio, settings.keep_seconds, FileStore(folder.uploads))
        runner = Runner(queue, engine, cleaner, settings.queue_workers)
        limits = AudioLimits(settings.max_upload_seconds, settings.max_upload_channels)
        look = partial(probe, limits=limits)
        lora = ServerAdapters(AdapterFolder(settings.lora_dir))
        config, memory = _http_config(settings), prepared.memory
        services = HttpServices(queue, engine, audio, look, folder.uploads, config, lora=lora, memory=memory)
        provide(app, replace(services, keeper=shelf))
        _say_what_is_up(prepared)
        await runner.start()
        await engine.start()
        try:
            yield
        finally:
            trouble = engine.trouble()
            await runner.stop()
            await engine.close()
            await store.close()
            folder.release()
            if trouble:
                _leave_stuck_threads(trouble)

    return lifespan


def _leave_stuck_threads(trouble: str) -> None:
    """End the process here: Python would wait for a thread that never comes back. All is saved."""
    log.critical("Ending without the thread that is stuck. %s", trouble)
    logging.shutdown()
    os._exit(STUCK)


def _upkeep(settings: Settings) -> Upkeep:
    return Upkeep(
        watchdog=Watchdog(settings.stage_timeout),
        free=_free_memory,
        idle_seconds=settings.idle_unload_seconds,
        is_lazy=settings.no_init,
    )


def _free_memory() -> None:
    from acestep.engine.loading import free_memory

    free_memory()


def _shelf(prepared: Prepared, upkeep: Upkeep) -> ModelShelf:
    """The shelf with every model that the server is set up with, none of them in memory yet."""
    settings = prepared.settings
    catalogue = _Catalogue(settings, prepared.memory)
    models = {PRIMARY: catalogue.slot(prepared.choice, is_default=True)}
    for secondary in prepared.secondaries.models:
        choice = secondary.choice
        models[secondary.number] = catalogue.slot(choice) if choice else Slot(secondary.info)
    room = settings.models_in_memory if settings.on_demand_model_load else 0
    return ModelShelf(models, catalogue, room, upkeep)


class _Catalogue:
    """See `Catalogue`: the checkpoints folder, and how what is there is loaded."""

    def __init__(self, settings: Settings, memory: Decision | None) -> None:
        self._settings = settings
        self._memory = memory
        self._shared = SharedParts()

    def on_disk(self) -> tuple[ModelInfo, ...]:
        """See `Catalogue.on_disk`."""
        found = slots.on_disk(self._settings.checkpoints_dir)
        return tuple(replace(slots.expect(as_choice(each)), state="on_disk") for each in found)

    def find(self, name: str) -> Slot:
        """See `Catalogue.find`."""
        hub_reachable = partial(any_reachable, self._settings.download_source)
        return self.slot(
            checkpoints.choose(name, self._settings.checkpoints_dir, lambda: False, hub_reachable)
        )

    def slot(self, choice: Choice, is_default: bool = False) -> Slot:
        """How a model that was chosen gets into memory: download it if need be, then load it."""
        settings, memory, info = self._settings, self._memory, slots.expect(choice, is_default)
        info = memory.limited(info) if memory else info

        def load(on_loading: OnLoading) -> Loaded:
            checkpoint = choice.checkpoint
            if checkpoint is None:
                fetch_for_server(order_for(choice.name, settings), on_loading)
                checkpoint = checkpoints.require(choice.name, settings.checkpoints_dir)
            on_loading("loading", "")
            from acestep.engine.loading import load_model

            adapters = AdapterFolder(settings.lora_dir)
            plan = memory.plan if memory else None
            return load_model(checkpoint, settings.device, info, adapters, self._shared, plan)

        return Slot(info, load)


def _desk(prepared: Prepared, upkeep: Upkeep) -> PlannerDesk:
    """The planner's desk, which brings its model into memory once the server answers."""
    settings, choice = prepared.settings, prepared.planner
    if not choice.name:
        return PlannerDesk(PlannerInfo(detail=choice.detail), upkeep=upkeep)

    def load(on_loading: OnLoading) -> LoadedPlanner:
        folder = choice.folder
        if folder is None:
            fetch_for_server(order_for(choice.name, settings), on_loading)
            folder = settings.checkpoints_dir / choice.name
        on_loading("loading", "")
        from acestep.engine.loading import load_planner

        plan = prepared.memory.plan if prepared.memory else None
        return load_planner(folder, settings.lm_device or settings.device, settings.lm_backend, plan)

    state: ModelState = "loading" if choice.folder else "downloading"
    return PlannerDesk(PlannerInfo(choice.name, state), load, settings.lm_closed_turn, upkeep)


def _http_config(settings: Settings) -> HttpConfig:
    return HttpConfig(
        api_key=settings.api_key.get_secret_value() if settings.api_key else "",
        strict=settings.strict,
        strict_model=settings.strict_model,
        audio_needs_key=settings.audio_needs_key,
        unknown_task_status=settings.unknown_task_status,
        body_limit=settings.max_body_mb * _MB,
        upload_limit=settings.max_upload_mb * _MB,
        audio_roots=settings.audio_roots,
        cors_origins=settings.cors_origins,
        draft_timeout=settings.lm_timeout,
        generation_timeout=settings.generation_timeout,
    )


def _say_what_is_up(prepared: Prepared) -> None:
    info = slots.expect(prepared.choice)
    log.info("Model %s, data in %s", info.name, prepared.folder.root)
    for secondary in prepared.secondaries.models:
        log.info("Model %s, for requests that name it", secondary.info.name)
    for sentence in prepared.secondaries.notes:
        log.warning("%s", sentence)
    planner = prepared.planner
    log.info("Planner %s", planner.name or f"(5 Hz language model): none. {planner.detail}")
    notes = prepared.memory.notes if prepared.memory else ()
    for line in table(prepared.memory) if prepared.memory else ():
        log.info("%s", line)
    if info.notice:
        log.warning("%s", info.notice)
    for sentence in (*prepared.settings.unknown, *prepared.settings.without_effect, *notes):
        log.warning("%s", sentence)


def configure_logging(level: str) -> None:
    """Log to stderr: in colour for a person at a terminal, plain lines for a file."""
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False)
        form = "%(message)s"
    else:
        handler = logging.StreamHandler()
        form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(logging.Formatter(form))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in ("acestep", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stopped; returns the exit code."""
    flags = _parser().parse_args(argv)
    try:
        prepared = prepare(**vars(flags))
    except AceStepError as error:
        return _refuse(error)
    settings = prepared.settings
    configure_logging(settings.api_log_level)
    uvicorn.run(
        create_app(prepared),
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        log_level=settings.api_log_level,
        access_log=settings.api_log_level == "debug",
        timeout_graceful_shutdown=5,
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="acestep-api",
        description="Serve music generation with ACE-Step 1.5 over HTTP.",
        epilog="Everything else is set by ACESTEP_* variables, in the environment or in .env: "
        "see docs/configuration.md.",
    )
    parser.add_argument("--host", dest="api_host", help="address to listen on (ACESTEP_API_HOST, 127.0.0.1)")
    parser.add_argument("--port", dest="api_port", help="port to listen on (ACESTEP_API_PORT, 8001)")
    parser.add_argument("--api-key", help="key that clients must send (ACESTEP_API_KEY, none)")
    parser.add_argument("--download-source", help="where models come from (ACESTEP_DOWNLOAD_SOURCE, auto)")
    parser.add_argument(
        "--init-llm", nargs="?", const="true", help="load the planner: true, false (ACESTEP_INIT_LLM, auto)"
    )
    parser.add_argument("--lm-model-path", help="planner to load (ACESTEP_LM_MODEL_PATH)")
    return parser


def _refuse(error: AceStepError) -> int:
    sys.stderr.write(f"acestep-api: {error}\n")
    return REFUSED


def run() -> None:
    """The console script `acestep-api`."""
    sys.exit(main())


def __getattr__(name: str) -> FastAPI:
    """Build `app` when a server asks for it, not when this module is imported."""
    if name != "app":
        raise AttributeError(name)
    try:
        prepared = prepare()
    except DataFolderInUseError as error:
        if multiprocessing.parent_process() is not None:
            # A second worker process. Its supervisor would restart it for ever: stop that instead.
            os.kill(os.getppid(), signal.SIGTERM)
        sys.exit(_refuse(error))
    except AceStepError as error:
        sys.exit(_refuse(error))
    configure_logging(prepared.settings.api_log_level)
    return create_app(prepared)


if __name__ == "__main__":
    run()
