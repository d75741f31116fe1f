import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from acestep.rest.dialects.jobs import JobObject
from tests.rest.conftest import CONFIG, TURBO, Serve, Server, assert_error

PATH = "/v1/audio/generations"
ASKED: dict[str, Any] = {
    "model": f"acestep/{TURBO.name}",
    "input": "Calm piano",
    "lyrics": "[Verse]\nla",
    "duration": 30,
    "response_format": "flac",
    "seed": 7,
}


class TestSong:
    @pytest.mark.parametrize("path", [PATH, f"/api{PATH}"])
    async def test_answer(self, server: Server, path: str):
        asked = server.client.post(path, json={**ASKED, "inference_steps": 60})
        answer, job = await asyncio.wait_for(asyncio.gather(asked, server.finish_next("flac", b"song")), 10)
        assert (answer.status_code, answer.content) == (200, b"song")
        assert answer.headers["content-type"] == "audio/flac"
        assert 'filename="calm-piano-' in answer.headers["content-disposition"]
        assert answer.headers["x-ace-step-task-id"] == job.id
        assert answer.headers["x-ace-step-seed"] == "7"
        (warning,) = json.loads(answer.headers["x-ace-step-warnings"])
        assert warning.startswith("inference_steps: ")
        request = job.request
        assert (request.caption, request.lyrics, request.duration) == ("Calm piano", "[Verse]\nla", 30.0)
        assert (request.audio_format, request.seeds, request.model) == ("flac", (7,), TURBO.name)

    async def test_defaults(self, server: Server):
        asked = server.client.post(PATH, json={"prompt": "pop"})
        answer, job = await asyncio.wait_for(asyncio.gather(asked, server.finish_next()), 10)
        assert (job.request.caption, job.request.batch_size, job.request.audio_format) == ("pop", 1, "mp3")
        assert answer.headers["content-type"] == "audio/mpeg"
        assert answer.headers["x-ace-step-warnings"] == "[]"

    async def test_warnings_are_ascii(self, server: Server):
        asked = server.client.post(PATH, json={"prompt": "pop", "明るい": 1})
        answer, _ = await asyncio.wait_for(asyncio.gather(asked, server.finish_next()), 10)
        assert "明るい" in json.loads(answer.headers["x-ace-step-warnings"])[0]

    async def test_a_plan_alone_is_answered_with_its_job(self, server: Server):
        asked = server.client.post(PATH, json=ASKED)
        answer, job = await asyncio.wait_for(asyncio.gather(asked, server.plan_next()), 10)
        found = answer.json()
        assert (answer.status_code, found["job_id"], found["status"]) == (200, job.id, "succeeded")
        assert (found["result"]["audio_paths"], found["result"]["first_audio_path"]) == ([], None)
        assert found["result"]["metas"]["duration"] == 30.0

    async def test_a_failed_job(self, server: Server):
        asked = asyncio.create_task(server.client.post(PATH, json=ASKED))
        job = await asyncio.wait_for(server.queue.take(), 5)
        await server.queue.fail(job.id, "no memory")
        assert_error(await asked, 500, "no memory")

    async def test_too_slow(self, serve: Serve):
        async with serve(replace(CONFIG, generation_timeout=0.05)) as server:
            answer = await server.client.post(PATH, json=ASKED)
            assert_error(answer, 504, answer.headers["x-ace-step-task-id"])


SPEECH = "/v1/audio/speech"
VERSE = "[Verse]\nCity lights are calling"


class TestSpeech:
    @pytest.mark.parametrize(
        ("asked", "caption", "lyrics"),
        [
            ({"input": "Calm piano"}, "Calm piano", ""),
            ({"input": VERSE, "instructions": "City pop"}, "City pop", VERSE),
            ({"input": VERSE}, "", VERSE),
            ({"input": f"<prompt>Rock</prompt><lyrics>{VERSE}</lyrics>"}, "Rock", VERSE),
            ({"input": "夜の街を歩く、静かなピアノ"}, "夜の街を歩く、静かなピアノ", ""),
            ({"input": "Words of mine", "lyrics": VERSE}, "Words of mine", VERSE),
        ],
    )
    async def test_input(self, server: Server, asked: dict[str, Any], caption: str, lyrics: str):
        body = {"model": "tts-1", "voice": "alloy", "response_format": "wav", "seed": 7, **asked}
        answer, job = await asyncio.wait_for(
            asyncio.gather(server.client.post(SPEECH, json=body), server.finish_next("wav", b"song")), 10
        )
        assert (answer.status_code, answer.content) == (200, b"song")
        assert answer.headers["content-type"] == "audio/wav"
        request = job.request
        assert (request.caption, request.lyrics) == (caption, lyrics)
        assert (request.audio_format, request.seeds, request.batch_size) == ("wav", (7,), 1)
        warnings = json.loads(answer.headers["x-ace-step-warnings"])
        assert [warning.partition(":")[0] for warning in warnings] == ["voice", "model"]

    @pytest.mark.parametrize(
        ("fields", "warning"),
        [
            ({"speed": 1.5}, "speed: send bpm instead"),
            ({"instructions": "Rock"}, "instructions: input describes the song already"),
            ({"prompt": "Rock"}, "prompt: it was sent as a field as well"),
        ],
    )
    async def test_what_is_not_used_is_said(self, server: Server, fields: dict[str, Any], warning: str):
        asked = server.client.post(SPEECH, json={"input": "Calm piano", **fields})
        answer, _ = await asyncio.wait_for(asyncio.gather(asked, server.finish_next()), 10)
        (said,) = json.loads(answer.headers["x-ace-step-warnings"])
        assert said.startswith(warning)

    @pytest.mark.parametrize(
        ("fields", "param", "words"),
        [
            ({"input": " "}, "input", "a description of the song, or its lyrics"),
            ({"input": "<prompt>Rock"}, "input", "</prompt>"),
            ({"input": None}, "input", "required"),
            ({"input": "x" * 60_001}, "input", "60000"),
            ({"response_format": "pcm"}, "audio_format", "flac"),
            ({"stream_format": "sse"}, "stream_format", "audio"),
            ({"batch_size": 2}, "batch_size", "/release_task"),
        ],
    )
    async def test_what_cannot_be_used(self, server: Server, fields: dict[str, Any], param: str, words: str):
        answer = await server.client.post(SPEECH, json={"input": "Calm piano", **fields})
        error = assert_error(answer, 422, words)
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, None)
        assert (await server.queue.stats()).total == 0

    async def test_a_failed_job_is_not_sent_again(self, server: Server):
        asked = asyncio.create_task(server.client.post(SPEECH, json={"input": "Calm piano"}))
        job = await asyncio.wait_for(server.queue.take(), 5)
        await server.queue.fail(job.id, "no memory")
        answer = await asked
        assert assert_error(answer, 500, "no memory")["type"] == "server_error"
        assert answer.headers["x-should-retry"] == "false"


class TestJob:
    @pytest.mark.parametrize(
        ("field", "headers", "applied"),
        [
            ({"async": True}, {}, None),
            ({}, {"Prefer": "Respond-Async; x=1, wait=0"}, "respond-async, wait=0"),
        ],
    )
    async def test_answer(
        self, server: Server, field: dict[str, Any], headers: dict[str, str], applied: str | None
    ):
        answer = await server.client.post(PATH, json={**ASKED, "n": 2, **field}, headers=headers)
        assert answer.status_code == 202
        assert answer.headers.get("preference-applied") == applied
        JobObject.model_validate(answer.json(), strict=True)
        assert (answer.json()["status"], answer.json()["queue_position"]) == ("queued", 1)
        job = await server.finish_next()
        assert (job.request.batch_size, job.request.seeds) == (2, (7, 8))
        assert answer.headers["x-ace-step-task-id"] == job.id
        done = (await server.client.get(answer.headers["location"])).json()
        assert (done["status"], len(done["result"]["audio_paths"])) == ("succeeded", 2)

    @pytest.mark.parametrize(("field", "is_file"), [({}, True), ({"async": True}, False), ({"n": 2}, False)])
    async def test_a_song_that_is_done_while_the_client_waits(
        self, server: Server, field: dict[str, Any], is_file: bool
    ):
        headers = {"Prefer": "wait=5" if field.get("async") else "respond-async, wait=5"}
        asked = asyncio.create_task(server.client.post(PATH, json={**ASKED, **field}, headers=headers))
        await asyncio.wait_for(server.finish_next(), 5)
        answer = await asked
        assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=5")
        assert (answer.content == b"0123456789") is is_file
        assert is_file or answer.json()["status"] == "succeeded"


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"n": 2}, ["n: 2", "allowed: 1", '"async": true']),
            ({"batch_size": 2}, ["n: 2"]),
            ({"n": 0}, ["n: 0"]),
            ({"async": "perhaps"}, ["async: 'perhaps'"]),
            ({"prompt": "rock"}, ["input: 'Calm piano'", "Send one of the two"]),
            ({"response_format": "pcm"}, ["audio_format: 'pcm'", "flac"]),
            ({"duration": "long"}, ["audio_duration: 'long'"]),
            ({"seed": -5}, ["seed: -5"]),
        ],
    )
    async def test_what_cannot_be_used(self, server: Server, fields: dict[str, Any], words: list[str]):
        assert_error(await server.client.post(PATH, json={**ASKED, **fields}), 422, *words)
        assert (await server.queue.stats()).total == 0

    async def test_the_key(self, serve: Serve):
        async with serve(replace(CONFIG, api_key="k")) as server:
            assert_error(await server.client.post(PATH, json=ASKED), 401)
            body = {**ASKED, "ai_token": "k", "async": True}
            assert (await server.client.post(PATH, json=body)).status_code == 202
