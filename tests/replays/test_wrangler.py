"""Ace-Step-Wrangler, a page that reads lists of models in OpenAI's shape; its base address ends with /api."""

from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer
from tests.replays.clients import poll, songs_of
from tests.replays.conftest import QUICK, assert_is_music


@pytest.fixture
def client(server: LiveServer) -> httpx.Client:
    return httpx.Client(base_url=f"{server.url}/api", timeout=60)


def test_a_song_from_the_first_model_of_the_list(client: httpx.Client):
    assert client.get("/health").json()["data"]["ready"]
    models = client.get("/v1/models").raise_for_status().json()
    name = models["data"][0]["id"]
    body = {
        "prompt": "Calm piano",
        "lyrics": "[Instrumental]",
        "model": name,
        "seed": 9,
        "audio_format": "flac",
        **QUICK,
    }
    submitted = client.post("/release_task", json=body).raise_for_status().json()["data"]
    assert submitted["warnings"] == []

    def ask() -> dict[str, Any]:
        query = {"task_id_list": [submitted["task_id"]]}
        return dict(client.post("/query_result", json=query).json()["data"][0])

    (item,) = songs_of(poll(ask))
    assert (item["prompt"], item["lyrics"], item["seed_value"]) == ("Calm piano", "[Instrumental]", "9")
    assert item["metas"]["duration"] == QUICK["audio_duration"]
    # It puts its base address before the link.
    assert_is_music(client.get(item["file"]).raise_for_status().content, "flac")
