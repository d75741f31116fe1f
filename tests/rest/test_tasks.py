import json
import time
from dataclasses import replace
from typing import Any

import pytest

from acestep.domain.song import Progress
from acestep.rest.envelope import Envelope
from acestep.rest.response.schemas import QueryEntry, ResultItem, Submitted
from tests.rest.conftest import CONFIG, TURBO, Serve, Server, assert_error, failed
from tests.rest.values import FIELDS, outside, wrong_types


def only_item(entry: dict[str, Any]) -> dict[str, Any]:
    (item,) = items(entry)
    return item


def items(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The items of an entry, checked against their declared shape."""
    QueryEntry.model_validate(entry, strict=True)
    found = json.loads(entry["result"])
    assert json.dumps(found, ensure_ascii=False) == entry["result"]
    for item in found:
        ResultItem.model_validate(item, strict=True)
        assert set(item) == set(ResultItem.model_fields)
    return list(found)


class TestReleaseTask:
    async def test_answer(self, server: Server):
        answer = await server.client.post("/release_task", json={"prompt": "pop"})
        assert answer.status_code == 200
        body = answer.json()
        Envelope[Submitted].model_validate(body, strict=True)
        assert (body["code"], body["error"], body["extra"]) == (200, None, None)
        assert abs(body["timestamp"] - time.time() * 1000) < 10_000
        data = body["data"]
        assert (data["status"], data["queue_position"], data["warnings"]) == ("queued", 1, [])
        assert data["eta_seconds"] == 5.0
        assert await server.queue.find([data["task_id"]]) != [None]

    async def test_positions_count_up(self, server: Server):
        for position in (1, 2, 3):
            answer = await server.client.post("/release_task", json={"prompt": "pop"})
            assert answer.json()["data"]["queue_position"] == position

    async def test_warnings_are_in_the_answer_and_in_the_result(self, server: Server):
        answer = await server.client.post("/release_task", json={"inference_steps": 60, "batch_size": 1})
        data = answer.json()["data"]
        assert data["warnings"] == ["inference_steps: acestep-v15-turbo runs at most 8; 60 became 8"]
        await server.finish_next()
        (entry,) = await server.query(data["task_id"])
        assert only_item(entry)["warnings"] == data["warnings"]

    async def test_a_full_queue(self, serve: Serve):
        async with serve(max_waiting=1) as server:
            await server.release()
            answer = await server.client.post("/release_task", json={"prompt": "pop"})
            assert_error(answer, 429, "the queue is full")
            assert answer.headers["retry-after"] == "5"

    async def test_the_default_model_failed(self, serve: Serve):
        async with serve(models=(failed(TURBO),)) as server:
            answer = await server.client.post("/release_task", json={"prompt": "pop"})
            assert_error(answer, 503, TURBO.name, "config.json is missing")

    async def test_the_planner_is_needed(self, server: Server):
        answer = await server.client.post("/release_task", json={"thinking": True})
        assert_error(answer, 503, "thinking: needs the planner")

    async def test_strict(self, serve: Serve):
        async with serve(replace(CONFIG, strict=True)) as server:
            answer = await server.client.post("/release_task", json={"inference_steps": 60})
            body = assert_error(answer, 422, "inference_steps: ", "60 became 8")
            assert body["extra"] == {"field": "inference_steps", "value": None, "allowed": None}

    async def test_strict_model(self, serve: Serve):
        async with serve(replace(CONFIG, strict_model=True)) as server:
            answer = await server.client.post("/release_task", json={"model": "acestep-v15-sft"})
            body = assert_error(answer, 404, "model: 'acestep-v15-sft' is not loaded here")
            assert body["extra"]["allowed"] == "acestep-v15-turbo, acestep-v15-base"


class TestQueryResult:
    async def test_queued(self, server: Server):
        first = await server.release()
        second = await server.release(
            prompt="pop",
            lyrics="la",
            bpm=90,
            key_scale="C major",
            time_signature=3,
            audio_duration=30,
            seed="1,2",
        )
        entries = await server.query(second, first)
        assert [entry["task_id"] for entry in entries] == [second, first]
        entry = entries[0]
        assert (entry["status"], entry["error"], entry["queue_position"]) == (0, None, 2)
        assert entry["progress_text"] == "Queued, number 2"
        assert entry["eta_seconds"] > entries[1]["eta_seconds"] > 0
        item = only_item(entry)
        assert (item["file"], item["wave"], item["status"], item["env"]) == ("", "", 0, "development")
        assert (item["prompt"], item["lyrics"], item["progress"]) == ("pop", "la", 0.0)
        assert (item["stage"], item["error"], item["seed_value"]) == ("queued", None, "1,2")
        assert abs(item["create_time"] - time.time()) < 10
        assert item["metas"] == {
            "bpm": 90,
            "duration": 30.0,
            "genres": "N/A",
            "keyscale": "C major",
            "timesignature": "3",
            "prompt": "pop",
            "lyrics": "la",
        }

    async def test_what_nobody_decided(self, server: Server):
        (entry,) = await server.query(await server.release())
        metas = only_item(entry)["metas"]
        undecided = ("bpm", "duration", "genres", "keyscale", "timesignature")
        assert [metas[key] for key in undecided] == ["N/A"] * 5

    async def test_running(self, server: Server):
        task_id = await server.release(prompt="pop")
        job = await server.queue.take()
        (entry,) = await server.query(task_id)
        assert (entry["status"], entry["queue_position"]) == (0, None)
        assert (only_item(entry)["progress"], only_item(entry)["stage"]) == (0.0, "running")
        server.queue.reporter(job.id)(Progress(0.4, "render", "step 3 of 8"))
        (entry,) = await server.query(task_id)
        assert (entry["progress_text"], entry["eta_seconds"]) == ("step 3 of 8", 3.0)
        assert (only_item(entry)["progress"], only_item(entry)["stage"]) == (0.4, "render")
        assert only_item(entry)["prompt"] == "pop"

    async def test_progress_text_belongs_to_its_job(self, server: Server):
        ids = [await server.release(), await server.release()]
        jobs = [await server.queue.take(), await server.queue.take()]
        for job in jobs:
            server.queue.reporter(job.id)(Progress(0.5, "render", f"text of {job.id}"))
        assert [entry["progress_text"] for entry in await server.query(*ids)] == [
            f"text of {one}" for one in ids
        ]

    async def test_succeeded(self, server: Server):
        task_id = await server.release(
            prompt="明るいシティポップ", bpm=120, seed="7,9", model="acestep-v15-base", use_cot_caption=True
        )
        await server.finish_next()
        (entry,) = await server.query(task_id)
        assert (entry["status"], entry["error"], entry["progress_text"]) == (1, None, "")
        assert (entry["queue_position"], entry["eta_seconds"]) == (None, None)
        assert "明るい" in entry["result"]
        songs = items(entry)
        assert [song["seed"] for song in songs] == [7, 9]
        for song in songs:
            assert song["file"].startswith("/v1/audio?path=")
            assert (song["status"], song["progress"], song["stage"], song["error"]) == (
                1,
                1.0,
                "succeeded",
                None,
            )
            assert (song["seed_value"], song["dit_model"], song["lm_model"]) == (
                "7,9",
                "acestep-v15-base",
                "",
            )
            assert (song["prompt"], song["lyrics"]) == ("明るいシティポップ", "[Instrumental]")
            assert (song["metas"]["bpm"], song["metas"]["duration"], song["metas"]["keyscale"]) == (
                120,
                30.0,
                "N/A",
            )
            assert song["metas"]["lyrics"] == ""
            assert song["timings"] == {"render": 1.5}
            assert len(song["warnings"]) == 1
            assert "acestep-v15-base" in song["generation_info"]
            assert "steps: 8" in song["generation_info"]
        assert songs[0]["file"] != songs[1]["file"]

    async def test_failed(self, server: Server):
        task_id = await server.release(prompt="pop")
        job = await server.queue.take()
        await server.queue.fail(job.id, "The GPU is out of memory.")
        (entry,) = await server.query(task_id)
        assert (entry["status"], entry["error"]) == (2, "The GPU is out of memory.")
        item = only_item(entry)
        assert (item["status"], item["stage"], item["error"]) == (2, "failed", "The GPU is out of memory.")
        assert (item["file"], item["prompt"]) == ("", "pop")

    async def test_unknown(self, server: Server):
        known = await server.release()
        entries = await server.query("nobody", known, "nobody")
        assert [entry["status"] for entry in entries] == [2, 0, 2]
        assert entries[0]["error"] == "unknown task id"
        assert entries[0]["task_id"] == "nobody"
        assert only_item(entries[0])["error"] == "unknown task id"

    async def test_unknown_as_the_original_answers(self, serve: Serve):
        async with serve(replace(CONFIG, unknown_task_status=0)) as server:
            (entry,) = await server.query("nobody")
            assert (entry["status"], entry["result"], entry["error"]) == (0, "[]", None)

    async def test_none(self, server: Server):
        assert await server.query() == []

    @pytest.mark.parametrize("as_json", [True, False])
    @pytest.mark.parametrize("field", ["task_id_list", "task_ids", "task_id"])
    async def test_names_and_forms(self, server: Server, field: str, as_json: bool):
        task_id = await server.release()
        sent = {field: json.dumps([task_id])}
        request = {"json": sent} if as_json else {"data": sent}
        answer = await server.client.post("/query_result", **request)  # type: ignore[arg-type]
        assert [entry["task_id"] for entry in answer.json()["data"]] == [task_id]

    async def test_all_states_have_the_same_keys(self, server: Server):
        ids = [await server.release(batch_size=1) for _ in range(4)]
        await server.finish_next()
        await server.queue.fail((await server.queue.take()).id, "no")
        await server.queue.take()
        entries = await server.query(*ids, "nobody")
        assert [entry["status"] for entry in entries] == [1, 2, 0, 0, 2]
        assert len({tuple(entry) for entry in entries}) == 1
        assert len({tuple(only_item(entry)) for entry in entries}) == 1


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


async def test_metas_of_a_result_sent_back(server: Server):
    task_id = await server.release(prompt="pop", lyrics="la", bpm=90)
    (entry,) = await server.query(task_id)
    (item,) = json.loads(entry["result"])
    request = await server.submitted(metas=item["metas"])
    assert (request.caption, request.lyrics, request.bpm, request.key_scale) == ("pop", "la", 90, None)


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def post(server: Server, body: bytes | str, content_type: str | None = "application/json") -> Any:
    headers = {"Content-Type": content_type} if content_type is not None else {}
    return await server.client.post("/release_task", content=body, headers=headers)


class TestFields:
    # Field by field this is tested in test_schemas; here, that nothing on the way spoils it.
    async def test_wrong_types(self, shared: Server):
        assert all(wrong_types(name) for name in FIELDS)
        for name, value in [(field, wrong) for field in FIELDS for wrong in wrong_types(field)]:
            # httpx refuses to write NaN, which Python clients do send
            answer = await post(shared, json.dumps({name: value}))
            body = assert_error(answer, 422, f"{name}: ", "allowed: ")
            assert body["extra"]["field"] == name
            assert body["extra"]["allowed"]

    async def test_outside_the_range(self, shared: Server):
        for name, value in outside():
            answer = await shared.client.post("/release_task", json={name: value})
            assert assert_error(answer, 422, f"{name}: ")["extra"]["field"] == name

    async def test_half_a_surrogate_pair(self, shared: Server):
        for name in FIELDS:
            answer = await post(shared, f'{{"{name}": "\\ud800"}}')
            assert assert_error(answer, 422, f"{name}: ")["extra"]["value"] == "\ud800"

    async def test_nothing_of_it_is_queued(self, shared: Server):
        before = (await shared.queue.stats()).total
        await shared.client.post("/release_task", json={"prompt": "pop", "bpm": 1})
        assert (await shared.queue.stats()).total == before

    @pytest.mark.parametrize("name", ["prompt", "caption", "lyrics"])
    @pytest.mark.parametrize("form", [False, True])
    async def test_a_caption_of_two_megabytes(self, shared: Server, name: str, form: bool):
        request: dict[str, Any] = {"data" if form else "json": {name: "x" * 2_000_000}}
        answer = await shared.client.post("/release_task", **request)
        field = "lyrics" if name == "lyrics" else "prompt"
        assert_error(answer, 422, f"{field}: ", "(2000000 characters)", "allowed: text of at most")
        assert len(answer.text) < 2_000

    async def test_a_caption_of_two_megabytes_in_multipart(self, shared: Server):
        parts: Any = {"prompt": (None, "x" * 2_000_000)}
        assert_error(await shared.client.post("/release_task", files=parts), 422, "prompt: ")

    @pytest.mark.parametrize("place", ["param_obj", "metas", "user_metadata"])
    async def test_a_broken_nest(self, shared: Server, place: str):
        answer = await shared.client.post("/release_task", json={place: "{bpm: 1}"})
        assert_error(answer, 422, f"{place}: ", "an object")

    async def test_a_bad_value_in_a_nest(self, shared: Server):
        answer = await shared.client.post("/release_task", json={"metas": {"bpm": 1}})
        assert_error(answer, 422, "bpm: 1", "from 30 to 300")

    @pytest.mark.parametrize("form", [False, True])
    async def test_a_field_sent_twice(self, shared: Server, form: bool):
        body = "bpm=100&bpm=120"
        answer = await post(shared, body, "application/x-www-form-urlencoded" if form else "text/plain")
        assert_error(answer, 422, "bpm: ")

    @pytest.mark.parametrize("task", ["extract", "lego", "complete", "zzz"])
    async def test_tasks_that_are_not_done(self, shared: Server, task: str):
        answer = await shared.client.post("/release_task", json={"task_type": task})
        assert assert_error(answer, 422, "task_type: ", task)["extra"]["field"] == "task_type"

    @pytest.mark.parametrize("task", ["cover", "repaint"])
    async def test_tasks_without_the_audio_that_they_work_on(self, shared: Server, task: str):
        answer = await shared.client.post("/release_task", json={"task_type": task})
        body = assert_error(answer, 422, f"with task_type {task}; send an audio file, uploaded as src_audio")
        assert body["extra"]["field"] == "src_audio"

    @pytest.mark.parametrize("value", [5, {"a": 1}, [1], '["a"', [None]])
    async def test_task_ids(self, shared: Server, value: object):
        answer = await shared.client.post("/query_result", json={"task_id_list": value})
        assert_error(answer, 422, "task_id_list: ")
