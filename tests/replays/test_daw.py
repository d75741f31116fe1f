"""The workstation that belongs to the original: forms in which every value is text, and the inventory."""

from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer
from tests.replays.clients import poll, songs_of
from tests.replays.conftest import SECONDS, assert_is_music

# A form carries no types: numbers, booleans and what was left empty are all text.
SCALARS = {
    "task_type": "text2music",
    "prompt": "Calm piano",
    "lyrics": "[Instrumental]",
    "thinking": "false",
    "bpm": "96",
    "key_scale": "D minor",
    "time_signature": "3",
    "audio_duration": str(SECONDS),
    "vocal_language": "en",
    "inference_steps": "1",
    "guidance_scale": "1.0",
    "shift": "3.0",
    "infer_method": "ode",
    "batch_size": "2",
    "use_random_seed": "false",
    "seed": "3,4",
    "audio_format": "wav",
    "use_cot_caption": "false",
    "use_cot_language": "false",
    "lm_temperature": "0.85",
    "model": "acestep-nano",
}


def submit(client: httpx.Client, scalars: dict[str, str], **files: tuple[str, bytes, str]) -> httpx.Response:
    """Send a multipart form, as it does even where there is no file."""
    parts: dict[str, Any] = {name: (None, value) for name, value in scalars.items()}
    return client.post("/release_task", files=parts | files, timeout=180)


@pytest.fixture
def client(server: LiveServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60)


def test_a_form_without_files(client: httpx.Client):
    submitted = submit(client, SCALARS).raise_for_status().json()
    assert (submitted["code"], submitted["data"]["warnings"]) == (200, [])
    query = {"task_id_list": [submitted["data"]["task_id"]]}
    entry = poll(lambda: dict(client.post("/query_result", json=query).json()["data"][0]))
    first, second = songs_of(entry)
    assert (first["seed"], second["seed"], first["seed_value"]) == (3, 4, "3,4")
    metas = first["metas"]
    assert (metas["bpm"], metas["keyscale"], metas["timesignature"]) == (96, "D minor", "3")
    for song in (first, second):
        assert_is_music(client.get(song["file"]).content, "wav")


def test_the_inventory_comes_before_the_models(client: httpx.Client):
    inventory = client.get("/v1/model_inventory").raise_for_status().json()["data"]
    (model,) = inventory["models"]
    assert (model["name"], model["is_default"], model["is_loaded"]) == ("acestep-nano", True, True)
    assert "text2music" in model["supported_task_types"]
    assert (inventory["default_model"], inventory["lm_models"]) == ("acestep-nano", [])
    assert (inventory["loaded_lm_model"], inventory["llm_initialized"]) == (None, False)
    # Where that is missing it reads this, wrapped or as OpenAI's.
    for lists in ("/v1/models", "/v1/models?format=openai"):
        data = client.get(lists).raise_for_status().json()["data"]
        entries = data["models"] if isinstance(data, dict) else data
        assert any("acestep-nano" in (entry.get("id") or entry["name"]) for entry in entries)


def test_audio_under_a_name_that_takes_none_is_refused(client: httpx.Client):
    refused = submit(client, SCALARS, cover_art=("cover.png", b"\x89PNG", "image/png"))
    assert refused.status_code == 422
    assert refused.json()["extra"]["field"] == "cover_art"


def test_a_source_that_is_no_audio_is_refused(client: httpx.Client):
    form = {**SCALARS, "task_type": "cover"}
    refused = submit(client, form, src_audio=("take.wav", b"RIFF, or so it says", "audio/wav"))
    assert refused.status_code == 415
    assert "src_audio: " in refused.json()["error"]
