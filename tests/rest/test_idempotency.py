from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from acestep.jobs.model import Once
from acestep.jobs.queue import JobQueue
from acestep.jobs.store import JobStore
from tests.jobs.conftest import Clock
from tests.jobs.fakes import request
from tests.rest.conftest import Server, assert_error

KEY = "Idempotency-Key"
BODY = {"prompt": "pop", "batch_size": 1}


async def post(server: Server, path: str, key: str, body: Any = BODY, **more: str) -> httpx.Response:
    return await server.client.post(path, json=body, headers={KEY: key, **more})


def data(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()
    found.pop("timestamp", None)
    return found


@pytest.mark.parametrize("path", ["/release_task", "/v1/music/generate"])
@pytest.mark.parametrize("again", ['"8e03978e"', "8e03978e"])
async def test_the_same_request_has_the_same_answer(server: Server, path: str, again: str) -> None:
    first = await post(server, path, '"8e03978e"')
    await server.finish_next()
    second = await post(server, path, again)
    assert (first.status_code, data(second)) == (200, data(first))
    assert [answer.headers.get("idempotent-replayed") for answer in (first, second)] == [None, "true"]
    assert (await server.queue.stats()).total == 1


async def test_a_retried_job_and_a_chat_are_made_once(server: Server) -> None:
    job_id = await server.release()
    await server.finish_next()
    retries = [await post(server, f"/v1/jobs/{job_id}/retry", "again", None) for _ in range(2)]
    assert data(retries[0]) == data(retries[1])
    await server.finish_next()

    body = {"messages": [{"role": "user", "content": "Piano"}], "seed": 7}
    asking = asyncio.create_task(post(server, "/v1/chat/completions", "chat", body))
    await asyncio.wait_for(server.finish_next(content=b"song"), 5)
    first, second = await asking, await post(server, "/v1/chat/completions", "chat", body)
    assert second.json()["choices"] == first.json()["choices"]
    assert second.headers["idempotent-replayed"] == "true"
    assert (await server.queue.stats()).total == 3


async def test_files_count(server: Server) -> None:
    async def sent(content: bytes) -> httpx.Response:
        files: Any = {"src_audio": ("a.wav", content)}
        return await server.client.post(
            "/release_task", data={"task_type": "cover"}, files=files, headers={KEY: "k"}
        )

    first, same, other = await sent(b"RIFF one"), await sent(b"RIFF one"), await sent(b"RIFF two")
    assert data(same) == data(first)
    assert_error(other, 422, "Idempotency-Key", "a new key")
    assert len([*server.uploads.iterdir()]) == 1


@pytest.mark.parametrize(
    ("path", "body"), [("/release_task", {"prompt": "rock"}), ("/v1/music/generate", BODY)]
)
async def test_another_request_is_refused(server: Server, path: str, body: dict[str, Any]) -> None:
    await post(server, "/release_task", "k")
    assert_error(await post(server, path, "k", body), 422, "Idempotency-Key", "In the last 24 hours")
    assert (await server.queue.stats()).total == 1


async def test_while_the_first_is_answered(server: Server) -> None:
    asking = asyncio.create_task(post(server, "/v1/audio/generations", "k"))
    job = await asyncio.wait_for(server.queue.take(), 5)
    second = await post(server, "/v1/audio/generations", "k")
    assert_error(second, 409, "still being answered")
    assert second.headers["retry-after"] == "1"
    await server.queue.fail(job.id, "no memory")
    assert_error(await asking, 500, "no memory")
    assert_error(await post(server, "/v1/audio/generations", "k"), 500, "no memory")


async def test_what_was_refused_can_be_sent_again(server: Server) -> None:
    refused = [await post(server, "/release_task", "k", {"prompt": "x", "bpm": 5}) for _ in range(2)]
    assert [answer.status_code for answer in refused] == [422, 422]
    accepted = await post(server, "/release_task", "k")
    assert (accepted.status_code, "idempotent-replayed" in accepted.headers) == (200, False)


async def test_each_api_key_has_its_own(server: Server) -> None:
    callers = [{"Authorization": "Bearer one"}, {"X-API-Key": "one"}, {"Authorization": "Bearer two"}, {}]
    answers = [await post(server, "/release_task", "k", **caller) for caller in callers]
    first, same, *others = [answer.json()["data"]["task_id"] for answer in answers]
    assert (same, len({first, *others})) == (first, 3)


@pytest.mark.parametrize("key", ["", '""', "k" * 256, '"half'])
async def test_a_key_that_cannot_be_read(server: Server, key: str) -> None:
    assert_error(await post(server, "/release_task", key), 400, "Idempotency-Key", "1 to 255")


async def test_it_outlives_a_restart_and_ends_after_a_day(tmp_path: Path, clock: Clock) -> None:
    once, path = Once("name", "print"), tmp_path / "jobs.sqlite3"
    for hours, is_kept in ((0, True), (23.9, True), (0.2, False)):
        clock.now += hours * 3600
        store = JobStore(path, clock)
        if not hours:
            receipt = await JobQueue(store).submit(request(), once)
        assert await JobQueue(store).submission("name") == ((once, receipt) if is_kept else None)
        await store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()
