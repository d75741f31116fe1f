"""Builds the server from its settings, and runs it.

Heavy imports (torch, diffusers) happen on the engine's thread, once the server answers.
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
from dataclasses import replace
from functools import partial

import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.logging import RichHandler

from acestep.audio.decode import AudioLimits, probe
from acestep.background import BackgroundTasks
from acestep.catalog.adapters import AdapterFolder
from acestep.engine.pipeline import SongWriter
from acestep.errors import AceStepError, DataFolderInUseError
from acestep.files import AudioStore, FileStore, load_secret
from acestep.jobs.cleaner import Cleaner
from acestep.jobs.queue import JobQueue
from acestep.jobs.runner import Runner
from acestep.jobs.store import JobStore
from acestep.memory.decide import Decision, table
from acestep.rest import app as http
from acestep.rest.access import Access, is_loopback
from acestep.rest.adapters import ServerAdapters
from acestep.rest.deps import HttpConfig, HttpServices, provide
from acestep.server.build import Prepared, build_engines, prepare, tightest
from acestep.server.configured_models import expect
from acestep.settings.settings import Settings

log = logging.getLogger("acestep.api_server")  # also when this file is run as a script

STUCK = 1  # exit code where a thread is stuck at the end
REFUSED = 2  # exit code where a setting, the data folder or the model keeps the server from starting
_MB = 1024 * 1024


def create_app(prepared: Prepared) -> FastAPI:
    """The ASGI application; its lifespan builds and closes everything else."""
    return http.create_app(lifespan=_lifespan(prepared), access=_access(prepared.settings))


def _lifespan(prepared: Prepared) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    settings, folder = prepared.settings, prepared.folder

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        audio = AudioStore(folder.audio, load_secret(folder.secret))
        store = JobStore(folder.database)
        queue = JobQueue(store, settings.queue_maxsize, settings.avg_job_seconds, settings.avg_window)

        def changed(memories: Sequence[Decision | None]) -> None:
            provide(app, replace(app.state.services, memory=tightest(memories)))

        tasks = BackgroundTasks()
        engines = build_engines(prepared, SongWriter(audio, settings.mp3_bitrate), changed, tasks)
        worker = engines.worker
        cleaner = Cleaner(store, audio, settings.keep_seconds, FileStore(folder.uploads))
        concurrency = max(settings.queue_workers, len(settings.devices))
        runner = Runner(queue, worker, cleaner, concurrency, tasks=tasks)
        limits = AudioLimits(settings.max_upload_seconds, settings.max_upload_channels)
        look = partial(probe, limits=limits)
        config, memory = _http_config(settings), prepared.memory
        lora = ServerAdapters(AdapterFolder(settings.lora_dir), memory.adapters if memory else None)
        services = HttpServices(queue, worker, audio, look, folder.uploads, config, lora=lora, memory=memory)
        services = replace(services, keeper=engines.keeper, planners=engines.planners, background=tasks)
        provide(app, services)
        _log_start(prepared)
        await runner.start()
        await engines.start()
        try:
            yield
        finally:
            trouble = engines.trouble()
            await runner.stop()
            await engines.close()
            await store.close()
            folder.release()
            if trouble:
                _leave_stuck_threads(trouble)

    return lifespan


def _leave_stuck_threads(trouble: str) -> None:
    # End the process: Python would wait for the stuck thread for ever. All jobs are saved.
    log.critical("Ending without the thread that is stuck. %s", trouble)
    logging.shutdown()
    os._exit(STUCK)


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
        model_list=settings.model_list,
        access=_access(settings),
        draft_timeout=settings.lm_timeout,
        generation_timeout=settings.generation_timeout,
        dcw_on_turbo=settings.dcw == "auto",
    )


def _access(settings: Settings) -> Access:
    return Access(settings.cors_origins, settings.allowed_hosts, is_loopback(settings.api_host))


def _log_start(prepared: Prepared) -> None:
    models = prepared.models
    info = expect(models.default)
    log.info("Model %s, data in %s", info.name, prepared.folder.root)
    for choice in models.by_slot.values():
        if choice is not models.default:
            log.info("Model %s, for requests that name it", choice.name)
    for sentence in models.notes:
        log.warning("%s", sentence)
    planner = prepared.planner
    log.info("Planner %s", planner.name or f"(5 Hz language model): none. {planner.detail}")
    notes: dict[str, None] = {}
    for device, memory in zip(prepared.settings.devices, prepared.memories, strict=True):
        if memory is None:
            continue
        if len(prepared.memories) > 1:
            log.info("Device %s:", device)
        for line in table(memory):
            log.info("%s", line)
        notes |= dict.fromkeys(memory.notes)
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
    # It warns of checkpoints that torchao has written, where torchao is there; this server reads none.
    logging.getLogger("diffusers.quantizers").setLevel(logging.ERROR)


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
