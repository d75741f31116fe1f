from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from acestep.background import BackgroundTasks
from acestep.jobs.model import Hook
from acestep.jobs.outbox import Delivery, Outbox
from acestep.jobs.queue import JobQueue
from acestep.jobs.store import JobStore
from acestep.webhooks.sender import SCHEDULE, WebhookSender
from tests.jobs.conftest import Clock
from tests.jobs.fakes import request, song

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver:
    """Takes what is posted, and answers with the next of `answers`, or else 204."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.got: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[1:]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head) if name}
        body = await reader.readexactly(int(headers["content-length"]))
        answer = self.answers.pop(0) if self.answers else "204 No Content"
        writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        self.got.put_nowait((headers, body))

    async def next(self) -> tuple[dict[str, str], bytes]:
        return await asyncio.wait_for(self.got.get(), 10)


class Posts:
    """A sender at work, and what receives."""

    def __init__(self, store: JobStore, clock: Clock, url: str, receiver: Receiver) -> None:
        self.queue, self.outbox = JobQueue(store), Outbox(store)
        self.clock, self.url, self.receiver = clock, url, receiver

    async def submit(self, *events: str) -> str:
        receipt = await self.queue.submit(request(), hook=Hook(self.url, events))
        return receipt.job_id

    async def waiting(self, count: int) -> None:
        for _ in range(500):
            if await self.outbox.waiting() == count:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(await self.outbox.waiting())


async def describe(delivery: Delivery) -> Mapping[str, object]:
    return {"said": delivery.kind, **delivery.data}


@asynccontextmanager
async def posting(store: JobStore, clock: Clock, allows_private: bool = True) -> AsyncIterator[Posts]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1")
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    posts = Posts(store, clock, url, receiver)
    sender = WebhookSender(posts.outbox, posts.queue, describe, lambda: SECRET, allows_private, clock)
    task = asyncio.create_task(sender.run(BackgroundTasks()))
    try:
        yield posts
    finally:
        task.cancel()
        server.close()


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime.now(UTC).timestamp())  # verifying refuses old signatures


async def test_each_wanted_event_comes_signed(store: JobStore, clock: Clock) -> None:
    async with posting(store, clock) as posts:
        job_id = await posts.submit("queued", "song", "succeeded")
        other = (await posts.queue.submit(request())).job_id
        await posts.queue.take()
        await posts.queue.finish(job_id, (song("a.mp3"),))
        got = [await posts.receiver.next() for _ in range(3)]
        await posts.waiting(0)
    bodies = sorted(
        (Webhook(SECRET).verify(body, headers) for headers, body in got),
        key=lambda each: each["data"]["event"],
    )
    assert [body["type"] for body in bodies] == ["job.queued", "job.song", "job.succeeded"]
    assert {body["data"]["job_id"] for body in bodies} == {job_id} != {other}
    assert bodies[1]["data"]["file"] == "a.mp3"
    assert bodies[0]["timestamp"] == datetime.fromtimestamp(clock.now, UTC).isoformat().replace("+00:00", "Z")
    assert all(len(body) < 20_000 for _, body in got)


async def test_a_failure_is_tried_again_with_the_same_id(store: JobStore, clock: Clock) -> None:
    async with posting(store, clock) as posts:
        away = "307 Away\r\nLocation: /other"  # is not followed
        posts.receiver.answers = [
            "500 No",
            away,
            "503 No\r\nRetry-After: 5000",
            "429 No\r\nRetry-After: soon",
        ]
        await posts.submit("queued")
        ids = [(await posts.receiver.next())[0]["webhook-id"]]
        for least, most in ((5, 5.5), (300, 330), (5000, 5000), (7200, 7920)):
            await tried(posts, len(ids))
            at = await posts.outbox.next_at(())
            assert at is not None
            assert least <= at - clock.now <= most
            clock.now = at
            posts.queue.listeners.hook_news.set()
            ids.append((await posts.receiver.next())[0]["webhook-id"])
        await posts.waiting(0)
    assert (len(ids), len(set(ids))) == (5, 1)


async def tried(posts: Posts, count: int) -> None:
    for _ in range(500):
        (found,) = await posts.outbox.due(1e12, (), 1)
        if found.attempts == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(found)


async def test_gone_ends_it(store: JobStore, clock: Clock) -> None:
    async with posting(store, clock) as posts:
        posts.receiver.answers = ["410 Gone"]
        job_id = await posts.submit("queued", "succeeded")
        await posts.receiver.next()
        await posts.waiting(0)
        await posts.queue.take()
        await posts.queue.finish(job_id, ())
        await posts.waiting(0)
        assert posts.receiver.got.empty()


async def test_it_is_given_up_after_the_last_attempt(store: JobStore, clock: Clock) -> None:
    async with posting(store, clock) as posts:
        posts.receiver.answers = ["500 No"] * len(SCHEDULE)
        await posts.submit("queued")
        for attempt in range(len(SCHEDULE)):
            await posts.receiver.next()
            if attempt + 1 < len(SCHEDULE):
                await tried(posts, attempt + 1)
            clock.now += 100_000
            posts.queue.listeners.hook_news.set()
        await posts.waiting(0)


async def test_a_private_address_is_not_reached(store: JobStore, clock: Clock) -> None:
    async with posting(store, clock, allows_private=False) as posts:
        await posts.submit("queued")
        await posts.waiting(0)
        assert posts.receiver.got.empty()


async def test_what_waits_outlives_a_restart_and_its_job(store: JobStore, clock: Clock) -> None:
    queue = JobQueue(store)
    job_id = (await queue.submit(request(), hook=Hook("http://x.example", ("queued", "cancelled")))).job_id
    await queue.cancel(job_id)
    await queue.delete(job_id, lambda name: None)
    async with posting(store, clock) as posts:
        kinds = [delivery.kind for delivery in await posts.outbox.due(clock.now, (), 9)]
    assert kinds == ["queued", "cancelled"]


async def test_a_body_that_would_be_too_large(store: JobStore, clock: Clock) -> None:
    async def wordy(delivery: Delivery) -> Mapping[str, Any]:
        return {"caption": "é" * 19_999}

    sender = WebhookSender(Outbox(store), JobQueue(store), wordy, lambda: SECRET)
    body = await sender._body(Delivery(7, "job", "http://x.example", "succeeded", clock.now, {}, 0))
    assert json.loads(body)["data"] == {"job_id": "job", "event": 7}
