import json
import time
from dataclasses import replace
from typing import Any

import pytest

from acestep.domain.song import Progress
from acestep.rest.envelope import Envelope
from acestep.rest.response.schemas import QueryEntry, ResultItem, Submitted
from tests.rest.conftest import CONFIG, TURBO, Serve, Server, assert_error, failed


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
        assert await server.queue.find([data["task_id"]]) != [None]

    async def test_positions_count_up(self, server: Server):
        for position in (1, 2, 3):
            answer = await server.client.post("/release_task", json={})
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
            answer = await server.client.post("/release_task", json={})
            assert_error(answer, 429, "the queue is full")
            assert answer.headers["retry-after"] == "5"

    async def test_the_default_model_failed(self, serve: Serve):
        async with serve(models=(failed(TURBO),)) as server:
            answer = await server.client.post("/release_task", json={})
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
