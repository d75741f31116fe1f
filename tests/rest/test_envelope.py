import json
import logging
from http import HTTPStatus

import pytest

from acestep.domain.models import ModelInfo
from acestep.errors import CheckpointError, DataFolderError
from tests.rest.conftest import FakeWorker, Serve, Server, assert_error


class BrokenWorker(FakeWorker):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def models(self) -> tuple[ModelInfo, ...]:
        raise self.error


class TestWhatNobodyForesaw:
    @pytest.mark.parametrize(
        "error", [RuntimeError("/home/secret"), CheckpointError("/home/secret"), KeyError("secret")]
    )
    async def test_is_logged_and_not_told(
        self, serve: Serve, error: Exception, caplog: pytest.LogCaptureFixture
    ):
        async with serve(worker=BrokenWorker(error)) as server:
            with caplog.at_level(logging.ERROR):
                answer = await server.client.post("/release_task", json={"prompt": "pop"})
            assert_error(answer, 500, "Internal server error")
            assert "secret" not in answer.text
            (record,) = [record for record in caplog.records if record.name.startswith("acestep.rest.")]
            assert record.exc_info
            assert "POST /release_task" in record.getMessage()

    async def test_trouble_with_the_disk_is_said_without_its_folders(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ):
        worker = BrokenWorker(DataFolderError("The disk of /home/secret is full"))
        async with serve(worker=worker) as server:
            answer = await server.client.post("/release_task", json={"prompt": "pop"})
        assert_error(answer, 503, "nothing was accepted")
        assert "secret" not in answer.text
        assert "/home/secret" in caplog.text

    async def test_has_cors_headers_all_the_same(self, serve: Serve):
        origin = "http://localhost:3000"
        async with serve(worker=BrokenWorker(RuntimeError())) as server:
            answer = await server.client.get("/health", headers={"Origin": origin})
            assert_error(answer, 500)
            assert answer.headers["access-control-allow-origin"] == origin


class TestText:
    async def test_is_readable_utf8(self, serve: Serve):
        async with serve() as server:
            answer = await server.client.post("/release_task", json={"key_scale": "嬰長調"})
            assert "嬰長調" in answer.content.decode("utf-8")

    async def test_half_surrogate_pairs_come_back_escaped(self, serve: Serve):
        async with serve() as server:
            answer = await server.client.post("/release_task", content=b'{"key_scale": "\\ud800"}')
            assert json.loads(answer.content)["extra"]["value"] == "\ud800"

    async def test_numbers_that_json_does_not_know(self, serve: Serve):
        async with serve() as server:
            answer = await server.client.post("/release_task", content=b'{"shift": NaN}')
            assert assert_error(answer, 422, "shift: nan")["extra"]["value"] == "nan"


class TestProblemDetails:
    async def test_where_the_client_accepts_them(self, server: Server):
        accept = {"Accept": "application/problem+json, application/json"}
        for path, body in (
            ("/release_task", {"prompt": "x", "bpm": 5}),
            ("/v1/audio/generations", {"bpm": 5}),
        ):
            answer = await server.client.post(path, json=body, headers=accept)
            assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
            told = answer.json()
            assert (told["type"], told["title"], told["status"]) == (
                "about:blank",
                HTTPStatus(422).phrase,
                422,
            )
            assert (told["field"], told["value"], "bpm: 5" in told["detail"]) == ("bpm", 5, True)

    async def test_of_what_has_no_route(self, server: Server):
        answer = await server.client.get("/nothing", headers={"Accept": "application/problem+json"})
        core = {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "Not Found"}
        assert answer.json() == core
