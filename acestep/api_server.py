"""Builds the server from its settings, and runs it.

Heavy imports (torch) happen on the engine's thread, once the server answers.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.logging import RichHandler
from starlette.concurrency import run_in_threadpool

from acestep.audio.convert import AudioConverter
from acestep.audio.decode import AudioLimits, probe
from acestep.audio.encode import SongWriter
from acestep.audio.transcribe import WhisperTranscriber, whisper_loader
from acestep.background import BackgroundTasks
from acestep.catalog.adapters import AdapterFolder
from acestep.checks import Check, check_data, checks
from acestep.data_folder import DataFolder, load_secret, temporary_folder, webhook_secret
from acestep.errors import AceStepError, DataFolderInUseError
from acestep.files import AudioStore, FileStore
from acestep.jobs.cleaner import Cleaner
from acestep.jobs.outbox import Outbox
from acestep.jobs.queue import JobQueue
from acestep.jobs.runner import Runner
from acestep.jobs.store import JobStore
from acestep.logs import JsonFormatter
from acestep.memory.decide import Decision, table
from acestep.rest import app as http
from acestep.rest.adapters import ServerAdapters
from acestep.rest.connections import report_full, timed
from acestep.rest.deps import HttpConfig, HttpServices, provide
from acestep.rest.job_events import hook_data
from acestep.rest.middleware import Access, EndRequests, OpenRequests, is_loopback
from acestep.rest.page import Page
from acestep.server.build import Engines, Prepared, build_engines, jobs_at_once, prepare, tightest
from acestep.server.configured_models import expect
from acestep.server.loading_watch import LoadingWatch
from acestep.server.placement import gpu_watch, list_gpus, placement
from acestep.server.ports import check_port, check_port_of_uvicorn
from acestep.server.stopping import Stopping, end_process, end_supervisor, end_well_at_sigterm
from acestep.settings.command_line import parser
from acestep.settings.flags import named_as_flags
from acestep.settings.settings import Settings
from acestep.webhooks.sender import WebhookSender

log = logging.getLogger("acestep.api_server")  # also when this file is run as a script

REFUSED = 2  # exit code where a setting, the data folder or the model keeps the server from starting
_CLOSE_SECONDS = 1.0  # that the engines get to end their steps
_MB, _GB = 1024 * 1024, 1_000_000_000


def create_app(prepared: Prepared) -> FastAPI:
    """The ASGI application; its lifespan builds and closes everything else."""
    settings, requests = prepared.settings, OpenRequests()
    lifespan = _lifespan(prepared, requests)
    app = http.create_app(lifespan=lifespan, access=_access(settings), root_path=settings.root_path)
    app.add_middleware(EndRequests, requests=requests)
    return app


def _lifespan(
    prepared: Prepared, requests: OpenRequests
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    settings, folder = prepared.settings, prepared.folder

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        report_full(asyncio.get_running_loop())
        audio = AudioStore(folder.audio, load_secret(folder.secret))
        store = JobStore(
            folder.database, max_deaths=settings.max_attempts, assumed_seconds=settings.avg_job_seconds
        )

        def changed(memories: Sequence[Decision | None]) -> None:
            provide(app, replace(app.state.services, memory=tightest(memories)))

        tasks = BackgroundTasks()
        engines = build_engines(prepared, SongWriter(audio, settings.mp3_bitrate), changed, tasks)
        worker = engines.worker
        loading = LoadingWatch(worker.models, worker.planners)
        concurrency = jobs_at_once(prepared)
        devices, window = len(settings.devices), settings.avg_window
        queue = JobQueue(store, settings.queue_maxsize, devices, window, notes=loading.notes)
        keep_bytes = int(settings.keep_gb * _GB)
        cleaner = Cleaner(store, audio, settings.keep_seconds, FileStore(folder.uploads), keep_bytes)
        runner = Runner(queue, worker, cleaner, concurrency, tasks=tasks)

        async def close() -> str:
            trouble = engines.trouble()
            await asyncio.gather(requests.end(), runner.stop())
            with suppress(TimeoutError):  # a step of a large planner takes longer
                await asyncio.wait_for(engines.close(), _CLOSE_SECONDS)
            for each in watching:
                each.cancel()
            await store.close()
            folder.release()
            return trouble

        services = _services(prepared, queue, audio, engines, tasks)
        sender = _webhook_sender(prepared, store, services)
        watch, where = gpu_watch(), placement(settings)
        # Starlette's pool: the first use of it imports a backend, which would hold up a request for 60 ms.
        await run_in_threadpool(watch.refresh)
        provide(app, replace(services, placement=lambda: replace(where, gpus=watch.latest())))
        drain = partial(runner.drain, settings.drain_seconds) if settings.drain_seconds else None
        stopping = Stopping(close, drain)
        _log_start(prepared)
        await runner.start()
        await engines.start()
        watching = [
            tasks.keep("loading watch", loading.run),
            tasks.keep("webhooks", partial(sender.run, tasks)),
        ]
        with temporary_folder(settings.tmpdir), stopping.at_signals():
            try:
                yield
            finally:
                await stopping.finish()

    return lifespan


def _services(
    prepared: Prepared, queue: JobQueue, audio: AudioStore, engines: Engines, tasks: BackgroundTasks
) -> HttpServices:
    settings, memory = prepared.settings, prepared.memory
    limits = AudioLimits(settings.max_upload_seconds, settings.max_upload_channels)
    look = partial(probe, limits=limits)
    adapters = AdapterFolder(settings.lora_dir, settings.lora_roots)
    lora = ServerAdapters(adapters, memory.adapters if memory else None)
    return HttpServices(
        queue,
        engines.worker,
        audio,
        look,
        prepared.folder.uploads,
        _http_config(settings),
        lora=lora,
        memory=memory,
        keeper=engines.keeper,
        planners=engines.planners,
        background=tasks,
        convert=AudioConverter(FileStore(prepared.folder.uploads), settings.mp3_bitrate).convert,
        page=Page() if settings.page else None,
        transcriber=_transcriber(settings),
    )


def _webhook_sender(prepared: Prepared, store: JobStore, services: HttpServices) -> WebhookSender:
    settings, given = prepared.settings, prepared.settings.webhook_secret

    def secret() -> str:
        return given.get_secret_value() if given else webhook_secret(prepared.folder)

    describe = partial(hook_data, services.queue, services.links)
    return WebhookSender(Outbox(store), services.queue, describe, secret, settings.webhook_allow_private)


def _transcriber(settings: Settings) -> WhisperTranscriber | None:
    load, folder = whisper_loader(), settings.checkpoints_dir / settings.whisper_model
    model = str(folder) if folder.is_dir() else settings.whisper_model
    return WhisperTranscriber(model, load) if load else None


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
        audio_links=settings.audio_links,
        root_path=settings.root_path,
        local_roots=(Path(tempfile.gettempdir()),) if is_loopback(settings.api_host) else (),
        access=_access(settings),
        draft_timeout=settings.lm_timeout,
        generation_timeout=settings.generation_timeout,
        cancel_on_disconnect=settings.cancel_on_disconnect,
        disk_reserve=int(settings.reserve_gb * _GB),
        hooks_private=settings.webhook_allow_private,
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


def configure_logging(level: str, as_json: bool = False) -> None:
    """Log to stderr: in colour for a person at a terminal, plain lines or JSON for a file."""
    handler: logging.Handler
    form = ""
    if as_json:
        handler = logging.StreamHandler()
    elif sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False)
        form = "%(message)s"
    else:
        handler = logging.StreamHandler()
        form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter(form))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in ("acestep", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stopped; returns the exit code."""
    flags = vars(parser().parse_args(argv))
    only_check = flags.pop("check")
    if flags.pop("list_gpus"):
        sys.stdout.write(f"{list_gpus()}\n")
        return 0
    try:
        settings = Settings.load(**flags)
        if only_check:
            return _report(settings)
        configure_logging(settings.api_log_level, settings.log_format == "json")
        check_port(settings.api_host, settings.api_port)
        prepared = _prepare(settings)
    except AceStepError as error:
        return _refuse(error, flags)
    end_well_at_sigterm()
    uvicorn.run(
        create_app(prepared),
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        log_level=settings.api_log_level,
        access_log=settings.api_log_level == "debug",
        http=timed(settings.request_timeout),
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=5,
    )
    return 0


def _prepare(settings: Settings) -> Prepared:
    prepared = prepare(settings)
    try:
        check_data(prepared.folder)
    except AceStepError:
        prepared.folder.release()
        raise
    return prepared


def _report(settings: Settings) -> int:
    # One line for each part of the data folder, for --check.
    found = [Check("settings", "valid"), *checks(DataFolder(settings.data_dir))]
    for check in found:
        sys.stdout.write(f"{'ok ' if check.is_good else 'BAD'} {check.what}: {check.found}\n")
    for sentence in (*settings.unknown, *settings.without_effect):
        sys.stdout.write(f"    {sentence}\n")
    return 0 if all(check.is_good for check in found) else REFUSED


def _refuse(error: AceStepError, flags: Mapping[str, object] | None = None) -> int:
    text = named_as_flags(str(error), flags or {}, {"api_host": "--host", "api_port": "--port"})
    sys.stderr.write(f"acestep-api: {text}\n")
    return REFUSED


def run() -> None:
    end_process(main())


def __getattr__(name: str) -> FastAPI:
    """Build `app` when a server asks for it, not when this module is imported."""
    if name != "app":
        raise AttributeError(name)
    return _app_of_uvicorn()


@cache  # uvicorn's command asks twice, and the data folder can be locked once
def _app_of_uvicorn() -> FastAPI:
    try:
        settings = Settings.load()
        configure_logging(settings.api_log_level, settings.log_format == "json")
        check_port_of_uvicorn(sys.argv)
        return create_app(_prepare(settings))
    except DataFolderInUseError as error:
        code = _refuse(error)
        end_supervisor()  # it would restart a second worker process for ever
        sys.exit(code)
    except AceStepError as error:
        sys.exit(_refuse(error))


if __name__ == "__main__":
    run()
