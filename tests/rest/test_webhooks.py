from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from acestep.jobs.outbox import Delivery, Outbox
from acestep.rest.job_events import hook_data
from acestep.rest.spelling import AudioLinks
from tests.rest.conftest import CONFIG, Serve, Server, assert_error

URL = "https://example.org/songs?x=1"


async def outbox(server: Server) -> tuple[Delivery, ...]:
    return await Outbox(server.queue._store).due(1e12, (), 99)


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"callback_url": URL}, ["succeeded"]),
        ({"callbackUrl": URL, "webhook_events": "song, job.started"}, ["started", "song", "song"]),
        ({"param_obj": {"webhook_url": URL}, "webhookEvents": ["queued", "failed"]}, ["queued"]),
        ({}, []),
        ({"webhook_events": "queued"}, []),
    ],
)
async def test_the_events_that_a_request_names_wait(
    server: Server, fields: dict[str, Any], kinds: list[str]
) -> None:
    job_id = await server.release(prompt="pop", **fields)
    await server.finish_next()
    waiting = await outbox(server)
    assert [(each.kind, each.url, each.job_id) for each in waiting] == [(kind, URL, job_id) for kind in kinds]


async def test_what_they_say(server: Server) -> None:
    job_id = await server.release(
        prompt="pop", batch_size=1, callback_url=URL, webhook_events="song,succeeded"
    )
    await server.finish_next()
    links = AudioLinks(server.audio, "token")
    song, end = [await hook_data(server.queue, links, each) for each in await outbox(server)]
    (entry,) = await server.query(job_id)
    assert song["file"] in entry["result"]
    assert (song["index"], end) == (0, {"status": "succeeded", "audio_paths": [song["file"]]})


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://example.org",
            "example.org",
            "https://",
            "https://user@example.org/",
            "https://example.org:x/",
        ),
        *("http://localhost:80/", "http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest"),
        *("http://2130706433/", "https://example.org/" + "x" * 2000, 7),
    ],
)
async def test_addresses_that_cannot_be_used(server: Server, url: Any) -> None:
    answer = await server.client.post("/release_task", json={"prompt": "pop", "callback_url": url})
    assert_error(answer, 422, "callback_url")
    assert (await server.queue.stats()).total == 0


async def test_private_ones_where_the_operator_allows_them(serve: Serve) -> None:
    async with serve(replace(CONFIG, hooks_private=True)) as server:
        await server.release(prompt="pop", callback_url="http://127.0.0.1:9/", webhook_events=["queued"])
        assert [each.url for each in await outbox(server)] == ["http://127.0.0.1:9/"]


async def test_an_event_that_there_is_not(server: Server) -> None:
    fields = {"prompt": "pop", "callback_url": URL, "webhook_events": "succeeded,ended"}
    answer = await server.client.post("/release_task", json=fields)
    assert_error(answer, 422, "webhook_events", "queued, started, song")
