import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acestep.domain.draft import Draft, DraftRequest
from acestep.errors import JobCancelledError
from acestep.jobs.worker import Cancelled
from acestep.rest import wait
from tests.rest.conftest import CONFIG, PLANNER, Serve, assert_error
from tests.rest.test_drafts import BOTH, body_for, planner


class Patient:
    """A planner that thinks until it is told to stop, or, if `deaf`, until it is cancelled."""

    def __init__(self, deaf: bool = False) -> None:
        self.deaf = deaf
        self.begun = asyncio.Event()
        self.ended = ""

    async def __call__(self, request: DraftRequest, cancelled: Cancelled) -> Draft:
        self.begun.set()
        self.file = Path(request.audio_path) if request.audio_path else None
        try:
            # As a thread would, it looks now and then.
            while self.deaf or not cancelled():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        # The file must be there for as long as a thread of the planner may read it.
        self.ended = "stopped, file there" if self.file and self.file.exists() else "stopped"
        raise JobCancelledError("The draft was cancelled.")


class TestDrafts:
    @BOTH
    async def test_a_planner_that_is_too_slow(self, serve: Serve, path: str):
        patient = Patient()
        async with serve(replace(CONFIG, draft_timeout=0.02), worker=planner(drafter=patient)) as server:
            answer = await server.client.post(path, json=body_for(path))
            assert_error(answer, 504, "The planner did not answer within 0.02 s", "ACESTEP_LM_TIMEOUT")
        assert patient.ended == "stopped"

    async def test_one_that_is_not_even_loaded(self, serve: Serve):
        info = replace(PLANNER, state="downloading", detail="3 of 7 GB")
        worker = planner(drafter=Patient(), planner_info=info)
        async with serve(replace(CONFIG, draft_timeout=0.02), worker=worker) as server:
            answer = await server.client.post("/format_input", json={"prompt": "pop"})
            assert_error(answer, 504, "The planner is still downloading (3 of 7 GB)", "Try again later")

    async def test_one_that_does_not_listen_is_cancelled(self, serve: Serve, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(wait, "UNWIND_SECONDS", 0.02)
        patient = Patient(deaf=True)
        async with serve(replace(CONFIG, draft_timeout=0.02), worker=planner(drafter=patient)) as server:
            assert_error(await server.client.post("/format_input", json={"prompt": "pop"}), 504)
            await asyncio.sleep(0)
        assert patient.ended == "cancelled"

    async def test_uploads_are_there_until_it_has_stopped_and_gone_then(self, serve: Serve):
        patient = Patient()
        async with serve(replace(CONFIG, draft_timeout=0.02), worker=planner(drafter=patient)) as server:
            files: Any = {"audio": ("a.wav", b"RIFF")}
            assert_error(await server.client.post("/v1/understand", files=files), 504)
            assert patient.ended == "stopped, file there"
            assert list(server.uploads.iterdir()) == []

    async def test_a_client_that_leaves(self, serve: Serve):
        patient = Patient()
        async with serve(worker=planner(drafter=patient)) as server:
            body = iter([{"type": "http.request", "body": b'{"prompt": "pop"}', "more_body": False}])

            async def receive() -> dict[str, Any]:
                if message := next(body, None):
                    return message
                await patient.begun.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                """The client has left."""

            scope: dict[str, Any] = {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": "POST",
                "scheme": "http",
                "path": "/format_input",
                "raw_path": b"/format_input",
                "query_string": b"",
                "root_path": "",
                "headers": [(b"content-type", b"application/json")],
                "client": ("test", 1),
                "server": ("test", 80),
            }
            await asyncio.wait_for(server.app(scope, receive, send), 5)
        assert patient.ended == "stopped"
