"""A server without an engine: real queue, store and audio files, a worker that only knows its models."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from acestep.domain.draft import Draft, DraftRequest
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import Sampling, Song, SongPlan, SongRequest
from acestep.errors import InvalidFieldError, UnusableAudioError
from acestep.examples import Examples
from acestep.files import AudioStore
from acestep.jobs.model import Job
from acestep.jobs.queue import JobQueue
from acestep.jobs.store import JobStore
from acestep.jobs.worker import Cancelled, OnProgress
from acestep.limits import BASE_TASKS, TURBO_TASKS
from acestep.rest.app import create_app
from acestep.rest.deps import HttpConfig, HttpServices

TURBO = ModelInfo(
    name="acestep-v15-turbo",
    is_turbo=True,
    steps=8,
    guidance_scale=1.0,
    shift=3.0,
    max_steps=8,
    max_duration=240.0,
    max_batch=4,
    tasks=TURBO_TASKS,
    is_default=True,
    state="ready",
)
BASE = ModelInfo(
    name="acestep-v15-base",
    is_turbo=False,
    steps=50,
    guidance_scale=7.0,
    shift=1.0,
    max_steps=100,
    tasks=BASE_TASKS,
    state="loading",
    detail="reading weights",
    notice="large",
)


CONFIG = HttpConfig(
    api_key="",
    strict=False,
    strict_model=False,
    audio_needs_key=False,
    unknown_task_status=2,
    body_limit=4 * 1024**2,
    upload_limit=200 * 1024**2,
    draft_timeout=120.0,
    generation_timeout=600.0,
    audio_roots=(),
)
NO_PLANNER = PlannerInfo(detail="This server runs without one. Set ACESTEP_INIT_LLM=true.")
PLANNER = PlannerInfo("acestep-5Hz-lm-1.7B", "ready", backend="pt")

Drafter = Callable[[DraftRequest, Cancelled], Awaitable[Draft]]


async def echo(request: DraftRequest, cancelled: Cancelled) -> Draft:
    """A planner without ideas: what it is given is what it gives."""
    return Draft(replace(request.metadata, caption=request.caption), request.lyrics)


@dataclass
class FakeWorker:
    infos: tuple[ModelInfo, ...] = (TURBO, BASE)
    planner_info: PlannerInfo = NO_PLANNER
    guests: tuple[PlannerInfo, ...] = ()
    drafter: Drafter = echo
    asked: list[DraftRequest] = field(default_factory=list)
    puts: list[tuple[int, str | None]] = field(default_factory=list)
    in_trouble: str = ""

    def models(self) -> tuple[ModelInfo, ...]:
        return self.infos

    def planner(self, name: str = "") -> PlannerInfo:
        return next((info for info in self.guests if info.name == name), self.planner_info)

    def planners(self) -> tuple[PlannerInfo, ...]:
        return (self.planner_info, *self.guests)

    async def draft(self, request: DraftRequest, cancelled: Cancelled) -> Draft:
        self.asked.append(request)
        return await self.drafter(request, cancelled)

    async def wait_ready(self) -> None:
        """Ready at once."""

    def trouble(self) -> str:
        return self.in_trouble

    def inventory(self) -> tuple[ModelInfo, ...]:
        return (*self.infos, replace(BASE, name="acestep-v15-sft", state="on_disk"))

    async def put(self, number: int, name: str | None = None) -> ModelInfo:
        """Only what is in the inventory can be put anywhere."""
        self.puts.append((number, name))
        if name is None:
            return self.infos[0]
        for info in self.inventory():
            if info.name == name:
                self.infos = (*self.infos[: number - 1], replace(info, state="ready"), *self.infos[number:])
                return self.infos[number - 1]
        raise InvalidFieldError("model", name, "another")

    async def reload(self) -> tuple[str, ...]:
        was = self.infos
        self.infos = tuple(replace(info, state="ready") for info in was)
        return tuple(info.name for info in was if info.state == "failed")

    async def run(
        self, request: SongRequest, on_progress: OnProgress, cancelled: Cancelled
    ) -> tuple[Song, ...]:
        raise NotImplementedError


@dataclass
class FakePlanners:
    """A `PlannerKeeper` of two names, of which the first comes where none is named."""

    worker: FakeWorker
    puts: list[str | None] = field(default_factory=list)
    names = (PLANNER.name, "acestep-5Hz-lm-0.6B")

    async def check(self, name: str | None) -> None:
        if name not in (None, *self.names):
            raise InvalidFieldError("lm_model_path", name, ", ".join(self.names))

    async def put(self, name: str | None) -> PlannerInfo:
        await self.check(name)
        self.puts.append(name)
        self.worker.planner_info = replace(PLANNER, name=name or self.names[0])
        return self.worker.planner_info

    async def reload(self) -> tuple[str, ...]:
        failed = self.worker.planner_info.state == "failed"
        return ((await self.put(self.worker.planner_info.name)).name,) if failed else ()


@dataclass(frozen=True)
class Facts:
    seconds: float = 20.0
    warnings: tuple[str, ...] = ()


def riff_only(path: Path) -> Facts:
    """A probe that takes what begins like a WAV file, and says that it lasts 20 s."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            raise UnusableAudioError("the file is not audio")
    return Facts()


@dataclass
class Server:
    client: httpx.AsyncClient
    queue: JobQueue
    audio: AudioStore
    uploads: Path
    app: FastAPI

    async def release(self, **fields: Any) -> str:
        """Submit a request and return its task id."""
        answer = await self.client.post("/release_task", json=fields or {"prompt": "pop"})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["data"]["task_id"])

    async def query(self, *ids: str) -> list[dict[str, Any]]:
        answer = await self.client.post("/query_result", json={"task_id_list": list(ids)})
        assert answer.status_code == 200, answer.text
        entries: list[dict[str, Any]] = answer.json()["data"]
        return entries

    async def submitted(self, **fields: Any) -> SongRequest:
        """Submit a request and return what was queued."""
        (view,) = await self.queue.find([await self.release(**fields)])
        assert view is not None
        return view.job.request

    async def finish_next(
        self,
        extension: str = "mp3",
        content: bytes = b"0123456789",
        lm_model: str = "",
        decided: Mapping[str, Any] = MappingProxyType({}),
    ) -> Job:
        """Do the next job: write one file of `content` for each song, planned by `lm_model` as `decided`."""
        job = await self.queue.take()
        made = (self._song(job.request, index, extension, content) for index in range(len(job.request.seeds)))
        songs = tuple(replace(song, lm_model=lm_model, plan=replace(song.plan, **decided)) for song in made)
        await self.queue.finish(job.id, songs)
        return job

    async def plan_next(self) -> Job:
        """End the next job as one that asked for a plan alone: a song without a file."""
        job = await self.queue.take()
        song = self._song(job.request, 0, "mp3", b"")
        self.audio.delete(song.file)
        await self.queue.finish(job.id, (replace(song, file=""),))
        return job

    def _song(self, request: SongRequest, index: int, extension: str, content: bytes) -> Song:
        with self.audio.new_file(extension) as new:
            new.path.write_bytes(content)
        plan = SongPlan(
            caption=request.caption,
            lyrics=request.lyrics or "[Instrumental]",
            language=request.language,
            duration=request.duration or 30.0,
            seed=request.seeds[index],
            instruction="Fill",
            sampling=Sampling(steps=8, guidance_scale=1.0, shift=3.0),
            bpm=request.bpm,
            key_scale=request.key_scale,
            time_signature=request.time_signature,
            audio_codes=request.audio_codes,
        )
        return Song(new.name, plan, request.audio_format, request.model or "", timings={"render": 1.5})


Serve = Callable[..., AbstractAsyncContextManager[Server]]


@asynccontextmanager
async def running(
    folder: Path,
    config: HttpConfig | None = None,
    models: tuple[ModelInfo, ...] = (TURBO, BASE),
    max_waiting: int = 200,
    worker: FakeWorker | None = None,
    examples: Examples | None = None,
) -> AsyncIterator[Server]:
    """Run a server on an empty folder."""
    store = JobStore(folder / "jobs.sqlite3")
    queue = JobQueue(store, max_waiting=max_waiting)
    audio = AudioStore(folder / "audio", b"s" * 32)
    uploads = folder / "uploads"
    uploads.mkdir()
    worker = worker or FakeWorker(models)
    services = HttpServices(
        queue,
        worker,
        audio,
        riff_only,
        uploads,
        config or CONFIG,
        keeper=worker,
        planners=FakePlanners(worker),
    )
    app = create_app(replace(services, examples=examples) if examples else services)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield Server(client, queue, audio, uploads, app)
    await store.close()


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Start a server of one's own."""
    return partial(running, tmp_path)


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Server]:
    async with serve() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One server for a whole module, where nothing that is left behind matters; it is quicker."""
    async with running(tmp_path_factory.mktemp("shared")) as started:
        yield started


def failed(model: ModelInfo) -> ModelInfo:
    return replace(model, state="failed", detail="config.json is missing")


OPENAI_PATHS = ("/v1/chat/", "/v1/audio/", "/v1/models/")


def assert_error(answer: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """See that an error has the shape of its route, says `words`, and shows nothing of the inside."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    path, asked = answer.url.path, answer.url.query
    is_list = path == "/api/v1/models" or asked == b"format=openai"
    if is_list or path.removeprefix("/api").startswith(OPENAI_PATHS):
        return assert_openai_error(answer, *words)
    assert set(body) == {"data", "code", "error", "detail", "timestamp", "extra"}
    assert (body["data"], body["code"]) == (None, status)
    assert body["error"] == body["detail"]
    assert isinstance(body["timestamp"], int)
    for word in words:
        assert word in body["error"]
    assert "Traceback" not in answer.text
    return body


def assert_openai_error(answer: httpx.Response, *words: str) -> dict[str, Any]:
    """See that an error is what OpenAI's libraries show; returns it."""
    body: dict[str, Any] = answer.json()
    assert set(body) == {"error", "detail"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] == body["detail"]
    for word in words:
        assert word in error["message"]
    assert "Traceback" not in answer.text
    return {**error, "error": error["message"]}
