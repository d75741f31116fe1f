import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from acestep.errors import UnusableAudioError
from acestep.files import AudioStore
from acestep.jobs.queue import JobQueue
from acestep.jobs.store import JobStore
from acestep.rest.app import create_app
from acestep.rest.deps import HttpServices, provide
from acestep.rest.middleware import Access, ErrorGuard
from acestep.rest.request.body import BodyReader
from acestep.rest.request.sounds import Probed
from tests.rest.conftest import CONFIG, TURBO, FakeWorker, Server, assert_error


def test_services_may_come_from_the_lifespan(tmp_path: Path):
    async def probe(path: Path) -> Probed:
        raise UnusableAudioError(f"{path.name} is nothing")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = JobStore(tmp_path / "jobs.sqlite3")
        audio = AudioStore(tmp_path / "audio", b"s" * 32)
        provide(app, HttpServices(JobQueue(store), FakeWorker(), audio, probe, tmp_path, CONFIG))
        yield
        await store.close()

    with TestClient(create_app(lifespan=lifespan, access=Access(("local",)))) as client:
        answer = client.get("/health", headers={"Origin": "http://localhost:3000"})
        assert answer.json()["data"]["loaded_model"] == TURBO.name
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        refused = client.post("/release_task", files={"src_audio": ("../my song.OGG", b"x")})
        assert (refused.status_code, refused.json()["error"]) == (415, "src_audio: my song.OGG is nothing")


async def test_a_client_that_goes_away_while_it_sends():
    messages: list[Message] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(Exception, match="The connection ended before the body did"):
        await BodyReader(100, 100).read(Request(scope, receive))


async def test_an_error_in_the_middle_of_an_answer_ends_it():
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise OSError("disk")

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(OSError, match="disk"):
        await ErrorGuard(app)(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]


def test_the_interface_loads_without_torch():
    script = "import sys, acestep.rest.app; sys.exit(int('torch' in sys.modules or 'av' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


class TestRoutes:
    @pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/release_task/x", "/v1/audio/../health"])
    async def test_unknown_paths(self, server: Server, path: str):
        assert_error(await server.client.get(path), 404)

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("GET", "/release_task", "POST"),
            ("GET", "/query_result", "POST"),
            ("POST", "/v1/stats", "GET"),
            ("DELETE", "/v1/audio", "GET"),
            ("PUT", "/health", "GET"),
            ("OPTIONS", "/release_task", "POST"),
        ],
    )
    async def test_wrong_methods(self, server: Server, method: str, path: str, allowed: str):
        answer = await server.client.request(method, path)
        assert_error(answer, 405)
        assert allowed in answer.headers["allow"]
