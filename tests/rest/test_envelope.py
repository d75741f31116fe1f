import json
import logging
from dataclasses import replace

import pytest

from acestep.domain.models import ModelInfo
from acestep.errors import CheckpointError, DataFolderError
from tests.rest.conftest import CONFIG, FakeWorker, Serve, assert_error


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
                answer = await server.client.post("/release_task", json={})
            assert_error(answer, 500, "Internal server error")
            assert "secret" not in answer.text
            (record,) = [record for record in caplog.records if record.name == "acestep.rest.envelope"]
            assert record.exc_info
            assert "POST /release_task" in record.getMessage()

    async def test_trouble_with_the_disk_is_said_without_its_folders(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ):
        worker = BrokenWorker(DataFolderError("The disk of /home/secret is full"))
        async with serve(worker=worker) as server:
            answer = await server.client.post("/release_task", json={})
        assert_error(answer, 503, "nothing was accepted")
        assert "secret" not in answer.text
        assert "/home/secret" in caplog.text

    async def test_has_cors_headers_all_the_same(self, serve: Serve):
        async with serve(
            replace(CONFIG, cors_origins=("local",)), worker=BrokenWorker(RuntimeError())
        ) as server:
            answer = await server.client.get("/health", headers={"Origin": "null"})
            assert_error(answer, 500)
            assert answer.headers["access-control-allow-origin"] == "null"


class TestText:
    async def test_is_readable_utf8(self, serve: Serve):
        async with serve() as server:
            answer = await server.client.post("/release_task", json={"key_scale": "ハ長調"})
            assert "ハ長調" in answer.content.decode("utf-8")

    async def test_half_surrogate_pairs_come_back_escaped(self, serve: Serve):
        async with serve() as server:
            answer = await server.client.post("/release_task", content=b'{"key_scale": "\\ud800"}')
            assert json.loads(answer.content)["extra"]["value"] == "\ud800"

    async def test_numbers_that_json_does_not_know(self, serve: Serve):
        async with serve() as server:
            answer = await server.client.post("/release_task", content=b'{"shift": NaN}')
            assert assert_error(answer, 422, "shift: nan")["extra"]["value"] == "nan"


class TestCors:
    async def test_is_off(self, serve: Serve):
        async with serve() as server:
            answer = await server.client.get("/health", headers={"Origin": "http://localhost:3000"})
            assert "access-control-allow-origin" not in answer.headers

    @pytest.mark.parametrize(
        "origin",
        ["null", "http://localhost", "http://localhost:3000", "https://127.0.0.1:8443", "http://[::1]:5173"],
    )
    async def test_local(self, serve: Serve, origin: str):
        async with serve(replace(CONFIG, cors_origins=("local",))) as server:
            answer = await server.client.get("/health", headers={"Origin": origin})
            assert answer.headers["access-control-allow-origin"] == origin

    @pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost.evil.example", "nullx"])
    async def test_local_is_nothing_else(self, serve: Serve, origin: str):
        async with serve(replace(CONFIG, cors_origins=("local",))) as server:
            answer = await server.client.get("/health", headers={"Origin": origin})
            assert "access-control-allow-origin" not in answer.headers

    async def test_named_origins(self, serve: Serve):
        async with serve(replace(CONFIG, cors_origins=("https://music.example", "local"))) as server:
            for origin in ("https://music.example", "null"):
                answer = await server.client.get("/health", headers={"Origin": origin})
                assert answer.headers["access-control-allow-origin"] == origin

    async def test_preflight(self, serve: Serve):
        async with serve(replace(CONFIG, api_key="k", cors_origins=("https://music.example",))) as server:
            answer = await server.client.options(
                "/release_task",
                headers={
                    "Origin": "https://music.example",
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "content-type, authorization, x-api-key",
                },
            )
            assert answer.status_code == 200
