"""What real clients send and read, replayed."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.rest.conftest import CONFIG, Serve, Server

# Sent by an animation client to whatever model there is; steps and guidance are far off for turbo.
ANIMATION = {
    "prompt": "Energetic anime opening, J-rock",
    "lyrics": "[Verse]\n夜明けの空に\n[Chorus]\n走り出せ",
    "thinking": False,
    "vocal_language": "ja",
    "audio_duration": 90,
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


async def test_the_animation_client(serve: Serve):
    async with serve(replace(CONFIG, api_key="k")) as server:
        headers = {"Content-Type": "application/json", "Authorization": "Bearer k"}
        answer = await server.client.post("/release_task", json=ANIMATION, headers=headers)
        data = answer.raise_for_status().json()["data"]
        assert [warning.split(":")[0] for warning in data["warnings"]] == [
            "inference_steps",
            "guidance_scale",
        ]
        query = {"task_id_list": [data["task_id"]]}

        async def poll() -> dict[str, Any]:
            body = (await server.client.post("/query_result", json=query, headers=headers)).json()
            assert body["code"] == 200
            return dict(body["data"][0])

        assert (await poll())["status"] == 0
        job = await server.finish_next(content=b"audio")
        assert (job.request.sampler.steps, job.request.sampler.guidance_scale) == (8, None)
        assert (job.request.seeds, job.request.duration, job.request.bpm) == ((1234,), 90.0, 160)
        entry = await poll()
        assert entry["status"] == 1
        (result,) = json.loads(entry["result"])
        assert set(result["metas"]) >= {"bpm", "duration", "genres", "keyscale", "timesignature"}
        assert (result["metas"]["keyscale"], result["metas"]["timesignature"]) == ("C# minor", "4")
        assert (result["seed_value"], result["dit_model"]) == ("1234", "acestep-v15-turbo")
        # Its proxy decodes the path, builds the address by hand, and sends no key.
        path = result["file"].partition("path=")[2]
        audio = await server.client.get(f"/v1/audio?path={path}")
        assert (audio.status_code, audio.content) == (200, b"audio")
        models = (await server.client.get("/v1/models", headers=headers)).json()["data"]
        assert [model["name"] for model in models["models"]]
        assert "turbo" in models["default_model"]
        stats = (await server.client.get("/v1/stats", headers=headers)).json()["data"]
        assert stats["jobs"]["succeeded"] == 1
        assert stats["queue_size"] == 0


async def test_its_error_is_a_string(server: Server):
    task_id = await server.release(**ANIMATION)
    await server.queue.fail((await server.queue.take()).id, "no memory")
    (entry,) = await server.query(task_id)
    assert isinstance(entry["result"], str)
    assert "no memory" in entry["result"]


@pytest.mark.parametrize("kind", ["urlencoded", "multipart", "sniffed", "vendor json"])
async def test_all_scalars_as_strings(server: Server, kind: str):
    strings = {name: str(value) for name, value in ANIMATION.items()}
    if kind == "urlencoded":
        answer = await server.client.post("/release_task", data=strings)
    elif kind == "multipart":
        parts: Any = {name: (None, value) for name, value in strings.items()}
        answer = await server.client.post("/release_task", files=parts)
    elif kind == "sniffed":
        answer = await server.client.post(
            "/release_task", content="prompt=pop&bpm=160&seed=1234&batch_size=1"
        )
    else:
        headers = {"Content-Type": "application/vnd.x+json; charset=utf-8"}
        answer = await server.client.post("/release_task", content=json.dumps(strings), headers=headers)
    assert answer.status_code == 200, answer.text
    (view,) = await server.queue.find([answer.json()["data"]["task_id"]])
    assert view is not None
    request = view.job.request
    assert (request.bpm, request.seeds, request.batch_size) == (160, (1234,), 1)
    if kind != "sniffed":
        assert request.lyrics == ANIMATION["lyrics"]
        assert request.key_scale == "C# minor"


async def test_empty_form_inputs_are_not_values(server: Server):
    fields = {
        "prompt": "pop",
        "bpm": "",
        "seed": "",
        "key_scale": "",
        "use_adg": "",
        "model": "",
        "param_obj": "",
    }
    answer = await server.client.post("/release_task", data=fields)
    assert (answer.status_code, answer.json()["data"]["warnings"]) == (200, [])


async def test_lists_in_forms(server: Server):
    answer = await server.client.post("/release_task", content="seed=4&seed=5&seed=6")
    (view,) = await server.queue.find([answer.json()["data"]["task_id"]])
    assert view is not None
    assert view.job.request.seeds == (4, 5, 6)


async def test_metas_of_a_result_sent_back(server: Server):
    task_id = await server.release(prompt="pop", lyrics="la", bpm=90)
    (entry,) = await server.query(task_id)
    (item,) = json.loads(entry["result"])
    request = await server.submitted(metas=item["metas"])
    assert (request.caption, request.lyrics, request.bpm, request.key_scale) == ("pop", "la", 90, None)


async def test_a_workstation_that_uploads_its_source(server: Server):
    files: Any = {"src_audio": ("take.wav", b"RIFFdata", "audio/wav")}
    answer = await server.client.post("/release_task", files=files, data={"task_type": "cover", "bpm": "90"})
    (view,) = await server.queue.find([answer.json()["data"]["task_id"]])
    assert view is not None
    request = view.job.request
    assert (request.task_type, request.bpm) == ("cover", 90)
    assert request.task.source == str(next(server.uploads.iterdir()))
