from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from acestep.rest.prefer import preferences
from tests.rest.conftest import CONFIG, Serve, Server


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], {}),
        (["wait=10"], {"wait": "10"}),
        (["respond-async, wait = 10"], {"respond-async": "", "wait": "10"}),
        (["Wait=10", "wait=20"], {"wait": "10"}),  # the first counts (RFC 7240, section 2)
        (['foo="a b"; bar="1,2", wait="7";x'], {"foo": "a b", "wait": "7"}),
        ([",, return=minimal;"], {"return": "minimal"}),
    ],
)
def test_preferences(headers: list[str], found: dict[str, str]) -> None:
    assert preferences(headers) == found


WAYS = {
    "/release_task": lambda answer: json.loads(answer["data"]["result"])[0]["file"],
    "/v1/music/generate": lambda answer: answer["result"]["first_audio_path"],
}


@pytest.mark.parametrize("path", WAYS)
async def test_the_finished_job_where_it_is_done_in_time(server: Server, path: str) -> None:
    body = {"prompt": "pop", "batch_size": 1}
    asking = asyncio.create_task(server.client.post(path, json=body, headers={"Prefer": "wait=30"}))
    await asyncio.wait_for(server.finish_next(content=b"song"), 5)
    answer = await asking
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=30")
    assert (await server.client.get(WAYS[path](answer.json()))).content == b"song"


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [("wait=0", "wait=0"), ("wait=9999", "wait=0.01"), ("wait=soon", None), ("handling=strict", None)],
)
async def test_what_it_is_otherwise(serve: Serve, prefer: str, applied: str | None) -> None:
    async with serve(replace(CONFIG, generation_timeout=0.01)) as server:
        job_id = await server.release()
        paths: dict[str, Any] = {
            "/release_task": {"prompt": "pop"},
            "/v1/music/generate": {"prompt": "pop"},
            f"/v1/jobs/{job_id}/retry": None,
        }
        for path, body in paths.items():
            answer = await server.client.post(path, json=body, headers={"Prefer": prefer})
            data = answer.json().get("data") or answer.json()
            assert (answer.status_code, data["status"], "queue_position" in data) == (200, "queued", True)
            assert answer.headers.get("preference-applied") == applied
