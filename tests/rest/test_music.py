import time
from dataclasses import replace
from typing import Any

import httpx
import pytest

from acestep.domain.song import Progress
from acestep.rest.dialects.jobs import JobObject, SubmittedJob
from tests.rest.conftest import CONFIG, Serve, Server, assert_error

GENERATE = "/v1/music/generate"


async def job_of(server: Server, job_id: str) -> dict[str, Any]:
    answer = await server.client.get(f"/v1/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    JobObject.model_validate(answer.json(), strict=True)
    return dict(answer.json())


async def generate(server: Server, **fields: Any) -> str:
    answer = await server.client.post(GENERATE, json=fields or {"prompt": "pop"})
    return str(answer.raise_for_status().json()["job_id"])


class TestGenerate:
    @pytest.mark.parametrize("kind", ["json", "data", "multipart"])
    async def test_answer(self, server: Server, kind: str):
        sent = {"caption": "pop", "bpm": "90", "inference_steps": "60"}
        parts: Any = {name: (None, value) for name, value in sent.items()}
        body: Any = {"files": parts} if kind == "multipart" else {kind: sent}
        answer = await server.client.post(GENERATE, **body)
        SubmittedJob.model_validate(answer.json(), strict=True)
        found = answer.json()
        assert (found["status"], found["queue_position"]) == ("queued", 1)
        assert [warning.partition(":")[0] for warning in found["warnings"]] == ["inference_steps"]
        request = (await server.finish_next()).request
        assert (request.caption, request.bpm, request.sampler.steps) == ("pop", 90, 8)

    @pytest.mark.parametrize("place", ["param_obj", "metas", "userMetadata"])
    async def test_fields_may_be_nested_in_a_form(self, server: Server, place: str):
        sent = {place: '{"taskType": "TEXT2MUSIC", "keyScale": "a minor", "batch_size": "1"}'}
        (await server.client.post(GENERATE, data=sent)).raise_for_status()
        request = (await server.finish_next()).request
        assert (request.task_type, request.key_scale, request.batch_size) == ("text2music", "A minor", 1)

    async def test_what_cannot_be_used(self, server: Server):
        assert_error(await server.client.post(GENERATE, json={"bpm": 5}), 422, "bpm: 5")

    @pytest.mark.parametrize(
        "credentials", [{"json": {"prompt": "pop", "ai_token": "k"}}, {"headers": {"x-api-key": "k"}}]
    )
    async def test_the_key(self, serve: Serve, credentials: dict[str, Any]):
        async with serve(replace(CONFIG, api_key="k")) as server:
            assert_error(await server.client.post(GENERATE, json={}), 401)
            answer = await server.client.post(GENERATE, **({"json": {"prompt": "pop"}} | credentials))
            assert answer.status_code == 200


class TestJob:
    async def test_from_queued_to_succeeded(self, server: Server):
        await generate(server)
        job_id = await generate(server, prompt="Calm piano", bpm=90, seed="5,6")
        queued = await job_of(server, job_id)
        assert (queued["job_id"], queued["status"], queued["stage"]) == (job_id, "queued", "queued")
        assert (queued["queue_position"], queued["progress"], queued["result"]) == (2, 0.0, None)
        assert abs(queued["created_at"] - time.time()) < 10
        assert (queued["started_at"], queued["finished_at"], queued["error"]) == (None, None, None)
        await server.finish_next()
        job = await server.queue.take()
        server.queue.reporter(job.id)(Progress(0.25, "render", "step 2 of 8"))
        running = await job_of(server, job_id)
        assert (running["status"], running["stage"], running["progress"]) == ("running", "render", 0.25)
        assert (running["progress_text"], running["queue_position"]) == ("step 2 of 8", 0)
        assert running["started_at"] >= running["created_at"]
        songs = tuple(server._song(job.request, index, "mp3", b"song") for index in range(2))
        await server.queue.finish(job.id, songs)
        done = await job_of(server, job_id)
        assert (done["status"], done["progress"], done["error"]) == ("succeeded", 1.0, None)
        assert done["finished_at"] >= done["started_at"]
        result = done["result"]
        first, second = result["audio_paths"]
        assert (result["first_audio_path"], result["second_audio_path"]) == (first, second)
        for path in (first, second):
            assert (await server.client.get(path)).content == b"song"
        assert (result["bpm"], result["metas"]["bpm"], result["keyscale"]) == (90, 90, "N/A")
        assert (result["seed_value"], [song["seed"] for song in result["songs"]]) == ("5,6", [5, 6])

    async def test_one_song_has_no_second(self, server: Server):
        job_id = await generate(server, batch_size=1)
        await server.finish_next()
        result = (await job_of(server, job_id))["result"]
        assert (len(result["audio_paths"]), result["second_audio_path"]) == (1, None)

    async def test_failed(self, server: Server):
        job_id = await generate(server)
        await server.queue.fail((await server.queue.take()).id, "no memory")
        job = await job_of(server, job_id)
        assert (job["status"], job["error"], job["result"]) == ("failed", "no memory", None)

    async def test_of_release_task_too(self, server: Server):
        task_id = await server.release(inference_steps=60)
        job = await job_of(server, task_id)
        assert [warning.partition(":")[0] for warning in job["warnings"]] == ["inference_steps"]

    async def test_unknown(self, server: Server):
        assert_error(await server.client.get("/v1/jobs/nobody"), 404, "unknown task id: 'nobody'")

    async def test_the_key(self, serve: Serve):
        async with serve(replace(CONFIG, api_key="k")) as server:
            assert_error(await server.client.get("/v1/jobs/x"), 401)
            answer: httpx.Response = await server.client.get("/v1/jobs/x", headers={"x-api-key": "k"})
            assert_error(answer, 404)
