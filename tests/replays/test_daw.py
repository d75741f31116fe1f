"""The workstation that belongs to the original: forms in which every value is text, and the inventory."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest

from tests.live_server import LiveServer
from tests.replays.clients import poll, songs_of
from tests.replays.conftest import SECONDS, assert_is_music, decoded

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


# A take is as long as the project, whose length is always sent; so is a caption of the whole, if only to
# be ignored by models that were not trained with one.
COVER = {
    **SCALARS,
    "task_type": "cover",
    "prompt": "Jazz trio",
    "audio_cover_strength": "0.8",
    "cover_noise_strength": "0.2",
    "instruction": "Generate audio semantic tokens based on the given conditions:",
}
START, END = 3.0, 6.0
REPAINT = {
    **SCALARS,
    "task_type": "repaint",
    "global_caption": "",
    "instruction": "Repaint the mask area based on the given conditions:",
    "repainting_start": str(START),
    "repainting_end": str(END),
    "repaint_mode": "balanced",
    "repaint_strength": "0.5",
    "chunk_mask_mode": "auto",
}
WHOLE = "A jazz ballad with a piano solo"
LEGO = {
    **SCALARS,
    "task_type": "lego",
    "track_name": "drums",
    "prompt": "Brushes on a snare",
    "global_caption": WHOLE,
    "instruction": "Generate the DRUMS track based on the audio context:",
    "repainting_start": "0",
    "repainting_end": str(SECONDS),
    "chunk_mask_mode": "auto",
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


def sung(client: httpx.Client, submitted: httpx.Response, told: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """See that a form was taken, with no warning but of the fields that are `told`; wait for its songs."""
    body = submitted.raise_for_status().json()
    assert body.keys() == {"data", "code", "error", "timestamp", "extra"}
    assert (body["code"], body["error"], body["extra"]) == (200, None, None)
    data = body["data"]
    assert data["status"] == "queued"
    assert tuple(warning.partition(":")[0] for warning in data["warnings"]) == told
    query = {"task_id_list": [data["task_id"]]}
    return songs_of(poll(lambda: dict(client.post("/query_result", json=query).json()["data"][0])))


def assert_made_of_a_take(songs: list[dict[str, Any]], form: dict[str, str]) -> None:
    """See that results say what was asked, and how to make the songs again."""
    assert [(song["status"], song["seed"], song["dit_model"]) for song in songs] == [
        (1, 3, "acestep-nano"),
        (1, 4, "acestep-nano"),
    ]
    for song in songs:
        assert (song["prompt"], song["lyrics"], song["seed_value"]) == (
            form["prompt"],
            "[Instrumental]",
            "3,4",
        )
        metas = song["metas"]
        assert metas["duration"] == pytest.approx(SECONDS)
        assert (metas["bpm"], metas["keyscale"], metas["timesignature"]) == (96, "D minor", "3")
        recipe = song["recipe"]
        assert (recipe["task_type"], recipe["seed"]) == (form["task_type"], song["seed"])


@pytest.mark.parametrize("name", ["src_audio", "ctx_audio"])
def test_a_cover_of_a_take(client: httpx.Client, take: bytes, name: str):
    submitted = submit(client, COVER, **{name: ("take.wav", take, "audio/wav")})
    songs = sung(client, submitted)
    assert_made_of_a_take(songs, COVER)
    recipe = songs[0]["recipe"]
    assert (recipe["audio_cover_strength"], recipe["cover_noise_strength"]) == (0.8, 0.2)
    first, second = (client.get(song["file"]).raise_for_status() for song in songs)
    assert first.headers["content-type"] == "audio/wav"
    assert first.content != second.content
    for file in (first, second):
        assert_is_music(file.content, "wav")


def test_a_repaint_of_a_take(client: httpx.Client, take: bytes):
    files = {
        "src_audio": ("take.wav", take, "audio/wav"),
        "reference_audio": ("style.wav", take, "audio/wav"),
    }
    songs = sung(client, submit(client, REPAINT, **files))
    assert_made_of_a_take(songs, REPAINT)
    recipe = songs[0]["recipe"]
    assert (recipe["repainting_start"], recipe["repainting_end"]) == (START, END)
    assert recipe["repaint_strength"] == 0.5
    contents = [client.get(song["file"]).raise_for_status().content for song in songs]
    for content in contents:
        assert_is_music(content, "wav")
    (first, rate), (second, _) = (decoded(content, "wav") for content in contents)
    apart = np.abs(first - second).max(axis=0)
    start, end = round(START * rate), round(END * rate)
    assert apart[start:end].max() > 0.01  # two seeds
    assert max(apart[:start].max(), apart[end:].max()) < 1e-3  # one take


def test_a_track_for_a_take(client: httpx.Client, take: bytes):
    submitted = submit(client, LEGO, src_audio=("src_audio.wav", take, "audio/wav"))
    songs = sung(client, submitted, told=("global_caption",))
    assert_made_of_a_take(songs, LEGO)
    for song in songs:
        assert song["recipe"]["track_name"] == "drums"
        assert any(repr(WHOLE) in warning for warning in song["warnings"])
        assert_is_music(client.get(song["file"]).raise_for_status().content, "wav")


def test_a_track_for_what_was_just_made(client: httpx.Client, take: bytes):
    """Where a link carries no absolute path, it is sent back instead of the audio."""
    one = {**LEGO, "batch_size": "1", "seed": "3", "global_caption": ""}
    (drums,) = sung(client, submit(client, one, src_audio=("src_audio.wav", take, "audio/wav")))
    (path,) = parse_qs(urlsplit(drums["file"]).query)["path"]
    assert not path.startswith("/")
    asked = {**one, "track_name": "bass", "src_audio_path": path}
    (bass,) = sung(client, submit(client, asked))
    contents = [client.get(song["file"]).raise_for_status().content for song in (drums, bass)]
    assert contents[0] != contents[1]
    assert_is_music(contents[1], "wav")


def test_a_cover_again_by_its_recipe(client: httpx.Client, take: bytes):
    """As JSON in a form, since the take goes along."""
    files = {"src_audio": ("take.wav", take, "audio/wav")}
    (song,) = sung(client, submit(client, {**COVER, "batch_size": "1", "seed": "3"}, **files))
    again = {"param_obj": json.dumps(song["recipe"])}
    (copy,) = sung(client, submit(client, again, **files))
    assert copy["recipe"] == song["recipe"]
    assert client.get(copy["file"]).content == client.get(song["file"]).content


def test_the_inventory_comes_before_the_models(client: httpx.Client):
    inventory = client.get("/v1/model_inventory").raise_for_status().json()["data"]
    (model,) = inventory["models"]
    assert (model["name"], model["is_default"], model["is_loaded"]) == ("acestep-nano", True, True)
    assert "text2music" in model["supported_task_types"]
    (planner,) = inventory["lm_models"]
    assert (inventory["default_model"], planner["name"]) == ("acestep-nano", "acestep-nano-lm")
    assert inventory["llm_initialized"], "it offers thinking only then"
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


@pytest.mark.parametrize("names", [["vocals", "instrumental"], ["vocals", "drums", "bass", "other"]])
def test_a_take_is_separated_into_stems(client: httpx.Client, take: bytes, names: list[str]):
    form = {"task_type": "stem_separation", "stem_count": str(len(names)), "audio_format": "wav"}
    submitted = submit(client, form | {"inference_steps": "1"}, src_audio=("take.wav", take, "audio/wav"))
    (item,) = sung(client, submitted)
    # It takes the stems of any item that has some, by name.
    assert [stem["name"] for stem in item["stems"]] == names
    for stem in item["stems"]:
        sound, _ = decoded(client.get(stem["file"]).raise_for_status().content, "wav")
        assert sound.shape[-1] == pytest.approx(SECONDS * 48_000, abs=1)
    whole, _ = decoded(client.get(item["file"]).raise_for_status().content, "wav")
    assert np.array_equal(whole, decoded(take, "wav")[0])
