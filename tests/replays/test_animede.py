"""animede, a studio for animations: its server-side proxy, and its test script for the shell."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.live_server import LiveServer
from tests.replays.clients import poll, songs_of
from tests.replays.conftest import SECONDS, assert_is_music

# It knows nothing of models: steps and guidance are far off for most, and never is use_random_seed sent.
SUBMITTED: dict[str, Any] = {
    "prompt": "Energetic anime opening, J-rock",
    "lyrics": "[Verse]\n夜明けの空に\n[Chorus]\n走り出せ",
    "thinking": False,
    "vocal_language": "ja",
    "audio_duration": SECONDS,
    "time_signature": "4",
    "batch_size": 1,
    "audio_format": "mp3",
    "inference_steps": 60,
    "guidance_scale": 3.0,
    "bpm": 160,
    "key_scale": "C# minor",
    "seed": 1234,
    "model": "acestep-v15-turbo",
}


@pytest.fixture
def client(server: LiveServer) -> httpx.Client:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer it always sends one"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=60)


def ask(client: httpx.Client, task_id: str) -> dict[str, Any]:
    body = client.post("/query_result", json={"task_id_list": [task_id]}).raise_for_status().json()
    assert body["code"] == 200
    return dict(body["data"][0]) if body["data"] else {"status": 0}


def test_a_song(server: LiveServer, client: httpx.Client):
    submitted = client.post("/release_task", json=SUBMITTED).raise_for_status().json()
    assert submitted.keys() == {"data", "code", "error", "timestamp", "extra"}
    data = submitted["data"]
    assert data.keys() == {"task_id", "status", "queue_position", "eta_seconds", "warnings"}
    assert [warning.partition(":")[0] for warning in data["warnings"]] == ["model"]
    (item,) = songs_of(poll(lambda: ask(client, data["task_id"])))
    metas = item["metas"]
    assert (metas["bpm"], metas["duration"], metas["genres"]) == (160, SECONDS, "N/A")
    assert (metas["keyscale"], metas["timesignature"]) == ("C# minor", "4")
    assert (item["prompt"], item["seed_value"]) == (SUBMITTED["prompt"], "1234")
    assert (item["status"], item["dit_model"]) == (1, "acestep-nano")
    assert isinstance(item["lm_model"], str)
    assert isinstance(item["create_time"], int)
    assert item["generation_info"]
    link = urlsplit(item["file"])
    assert link.path == "/v1/audio"
    # Its proxy decodes the path, builds the address by hand, and sends no key.
    (path,) = parse_qs(link.query)["path"]
    fetched = httpx.get(f"{server.url}/v1/audio?path={path}")
    assert (fetched.status_code, fetched.headers["content-type"]) == (200, "audio/mpeg")
    assert_is_music(fetched.content, "mp3")


def test_what_its_pages_show(client: httpx.Client):
    models = client.get("/v1/models").raise_for_status().json()["data"]
    assert isinstance(models, dict)
    assert "acestep-nano" in [model["name"] for model in models["models"]]
    assert isinstance(models["default_model"], str)
    stats = client.get("/v1/stats").raise_for_status().json()["data"]
    assert isinstance(stats["jobs"], dict)
    assert isinstance(stats["queue_size"], int)
    assert isinstance(stats["avg_job_seconds"], int | float)
    assert client.get("/health").raise_for_status().json()["data"]["status"] == "ok"


def test_what_it_shows_of_a_refusal(client: httpx.Client):
    refused = client.post("/release_task", json={**SUBMITTED, "bpm": 1000})
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("bpm: 1000 cannot be used")


def test_its_script(server: LiveServer):
    """curl and jq, without any key: asks until something is there, and follows the link."""
    submitted = {
        "prompt": "Calm piano",
        "lyrics": "[Instrumental]",
        "thinking": False,
        "audio_duration": SECONDS,
        "inference_steps": 1,
        "batch_size": 1,
        "audio_format": "mp3",
    }
    with httpx.Client(base_url=server.url, timeout=60) as curl:
        task_id = curl.post("/release_task", json=submitted).json()["data"]["task_id"]
        (item,) = songs_of(poll(lambda: ask(curl, task_id)))
        fetched = curl.get(item["file"], follow_redirects=True)
    assert_is_music(fetched.content, "mp3")
