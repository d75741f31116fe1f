from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from acestep.rest import middleware
from acestep.rest.middleware import EndRequests, OpenRequests

SAID = "The server is stopping. Jobs that it has accepted are kept"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "GRACE_SECONDS", 0.02)


class Site:
    """An application with a route that never answers, one that ends, and one that never stops sending."""

    def __init__(self) -> None:
        self.requests = OpenRequests()
        self.begun = asyncio.Event()
        self.released = asyncio.Event()
        self.undone: list[str] = []
        app = FastAPI()
        app.get("/never")(self.never)
        app.get("/soon")(self.soon)
        app.get("/stream")(self.stream)
        app.add_middleware(EndRequests, requests=self.requests)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    async def never(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.undone.append("never")

    async def soon(self) -> str:
        self.begun.set()
        await self.released.wait()
        return "done"

    async def stream(self) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"part"
            self.begun.set()
            await asyncio.Event().wait()

        return StreamingResponse(parts())

    async def ask(self, path: str) -> asyncio.Task[httpx.Response]:
        """Send a request, and return when it is being answered."""
        self.begun.clear()
        task = asyncio.create_task(self.client.get(path))
        await asyncio.wait_for(self.begun.wait(), 5)
        return task


async def test_a_request_that_waits_is_answered_with_the_reason():
    site = Site()
    asked = [await site.ask("/never") for _ in range(3)]
    await site.requests.end()
    for answer in await asyncio.gather(*asked):
        assert answer.status_code == 503
        assert answer.json()["error"].startswith(SAID)
        assert answer.headers["Retry-After"] == "10"
    assert site.undone == ["never"] * 3  # each could undo what it had begun


async def test_a_request_that_ends_by_itself_has_its_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(middleware, "GRACE_SECONDS", 5)
    site = Site()
    asked = await site.ask("/soon")
    ending = asyncio.create_task(site.requests.end())
    site.released.set()
    assert (await asked).json() == "done"
    await ending


async def test_an_answer_that_has_begun_is_cut_off():
    site = Site()
    asked = await site.ask("/stream")
    await site.requests.end()
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_a_request_that_comes_later_is_refused():
    site = Site()
    await site.requests.end()
    answer = await site.client.get("/soon")
    assert (answer.status_code, answer.json()["error"].startswith(SAID)) == (503, True)


async def test_a_client_that_goes_away_is_no_stop():
    site = Site()
    asked = await site.ask("/never")
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert site.undone == ["never"]
