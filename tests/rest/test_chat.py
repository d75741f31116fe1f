import asyncio
import base64
import json
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import httpx
import httpx2
import pytest
from openai import APIError, AsyncOpenAI

from acestep.domain.song import Progress
from acestep.errors import DataFolderError
from acestep.jobs.model import ENDED, Job, JobView
from tests.rest.conftest import CONFIG, PLANNER, TURBO, FakeWorker, Serve, Server, assert_error

CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {
    "model": f"acestep/{TURBO.name}",
    "messages": [{"role": "user", "content": "<prompt>Calm piano</prompt><lyrics>[Verse]\nla</lyrics>"}],
    "audio_config": {"duration": 30, "bpm": 90, "key_scale": "C major"},
    "seed": 7,
}

ASKED_OF_OPENAI = {"model": ASKED["model"], "messages": ASKED["messages"]}


async def both(answer: Awaitable[httpx.Response], job: Awaitable[Job]) -> tuple[httpx.Response, Job]:
    """Ask, and do the job at the same time."""
    return await asyncio.wait_for(asyncio.gather(answer, job), 10)


async def fail_next(server: Server, error: str) -> Job:
    job = await server.queue.take()
    await server.queue.fail(job.id, error)
    return job


def chunks(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, which must end as streams do."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, last, rest = answer.text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def deltas(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for event in events for choice in event["choices"]]


class TestPlanner:
    @pytest.mark.parametrize(
        "sent",
        [
            {"lm_model_path": PLANNER.name},
            {"audio_config": {"lm_model_path": PLANNER.name}},
            {"metas": {"lm_model_path": f"checkpoints/{PLANNER.name}"}},
        ],
    )
    async def test_one_that_is_named_writes_the_song_where_there_is_no_other(
        self, serve: Serve, sent: dict[str, Any]
    ):
        async with serve(worker=FakeWorker(guests=(PLANNER,))) as server:
            body = {"messages": [{"role": "user", "content": "a sad song about rain"}], "seed": 7}
            named = {**body, **sent}
            _, job = await both(server.client.post(CHAT, json=named), server.finish_next(content=b"song"))
            assert (job.request.planner.sample_query, job.request.planner.model) == (
                "a sad song about rain",
                PLANNER.name,
            )
            _, job = await both(server.client.post(CHAT, json=body), server.finish_next(content=b"song"))
            assert (job.request.planner.sample_query, job.request.caption) == ("", "a sad song about rain")


class TestWhole:
    async def test_answer(self, server: Server):
        answer, job = await both(server.client.post(CHAT, json=ASKED), server.finish_next(content=b"song"))
        request = job.request
        assert (request.caption, request.lyrics, request.seeds) == ("Calm piano", "[Verse]\nla", (7,))
        assert (request.model, request.duration, request.bpm) == (TURBO.name, 30.0, 90)
        assert answer.status_code == 200
        body = answer.json()
        assert body["id"] == f"chatcmpl-{job.id.replace('-', '')[:24]}"
        assert (body["object"], body["model"], body["task_id"]) == ("chat.completion", ASKED["model"], job.id)
        assert (body["warnings"], set(body["usage"].values())) == ([], {0})
        (choice,) = body["choices"]
        assert (choice["index"], choice["finish_reason"]) == (0, "stop")
        message = choice["message"]
        assert message["role"] == "assistant"
        assert message["content"] == (
            "## Metadata\n**Caption:** Calm piano\n**BPM:** 90\n**Key:** C major\n**Duration:** 30 s\n"
            "**Language:** en\n\n## Lyrics\n[Verse]\nla"
        )
        (audio,) = message["audio"]
        assert (audio["type"], audio["seed"]) == ("audio_url", 7)
        assert audio["audio_url"]["url"] == "data:audio/mpeg;base64," + base64.b64encode(b"song").decode()
        assert (await server.client.get(audio["file"])).content == b"song"
        assert answer.headers["x-ace-step-task-id"] == job.id

    async def test_every_song_of_a_batch_in_order(self, server: Server):
        asked = server.client.post(CHAT, json={**ASKED, "batch_size": 3})
        answer, _ = await both(asked, server.finish_next("wav"))
        audio = answer.json()["choices"][0]["message"]["audio"]
        assert [item["seed"] for item in audio] == [7, 8, 9]
        assert len({item["file"] for item in audio}) == 3
        assert all(item["audio_url"]["url"].startswith("data:audio/wav;base64,") for item in audio)

    async def test_audio_codes(self, server: Server):
        asked = server.client.post(CHAT, json=ASKED)
        decided = {"audio_codes": (1, 22)}
        answer, _ = await both(asked, server.finish_next(decided=decided))
        message = answer.json()["choices"][0]["message"]
        assert message["audio_codes"] == "<|audio_code_1|><|audio_code_22|>"

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_plan_alone_has_no_audio(self, server: Server, stream: bool):
        asked = server.client.post(CHAT, json={**ASKED, "stream": stream})
        answer, _ = await both(asked, server.plan_next())
        message = deltas(chunks(answer))[2] if stream else answer.json()["choices"][0]["message"]
        assert message["audio"] is None

    async def test_warnings_also_of_the_dialect(self, server: Server):
        body = {"messages": [{"role": "user", "content": "Piano"}], "max_tokens": 9, "inference_steps": 60}
        answer, job = await both(server.client.post(CHAT, json=body), server.finish_next())
        found = answer.json()
        assert found["model"] == TURBO.name
        assert [warning.partition(":")[0] for warning in found["warnings"]] == [
            "max_tokens",
            "messages",
            "inference_steps",
        ]
        (entry,) = await server.query(job.id)
        assert json.loads(entry["result"])[0]["warnings"] == found["warnings"]

    async def test_a_sentence_with_a_planner(self, serve: Serve):
        async with serve(worker=FakeWorker(planner_info=PLANNER)) as server:
            body = {"messages": [{"role": "user", "content": "Piano"}], "temperature": 0.3}
            _, job = await both(server.client.post(CHAT, json=body), server.finish_next())
            planner = job.request.planner
            assert (planner.sample_query, planner.temperature, planner.guidance_scale) == ("Piano", 0.3, 2.0)

    @pytest.mark.parametrize("path", [CHAT, f"/api{CHAT}"])
    async def test_below_both_roots(self, server: Server, path: str):
        answer, _ = await both(server.client.post(path, json=ASKED), server.finish_next())
        assert answer.json()["object"] == "chat.completion"


class TestStream:
    async def test_chunks(self, server: Server):
        asked = server.client.post(CHAT, json={**ASKED, "stream": True, "batch_size": 2})
        answer, job = await both(asked, server.finish_next(content=b"song"))
        events = chunks(answer)
        assert {event["object"] for event in events} == {"chat.completion.chunk"}
        assert len({(event["id"], event["model"], event["created"]) for event in events}) == 1
        assert events[0]["task_id"] == job.id
        first, words, sound, end = deltas(events)
        assert first == {"role": "assistant", "content": "Generating music"}
        assert words["content"].startswith("\n\n## Metadata\n**Caption:** Calm piano")
        assert [item["seed"] for item in sound["audio"]] == [7, 8]
        assert sound["audio"][0]["audio_url"]["url"].endswith(base64.b64encode(b"song").decode())
        assert end == {}
        reasons = [event["choices"][0]["finish_reason"] for event in events]
        assert reasons == [None, None, None, "stop"]

    async def test_heartbeats_say_how_far_it_is(self, server: Server, monkeypatch: pytest.MonkeyPatch):
        wait, seen = server.queue.wait, asyncio.Queue[JobView]()

        async def wait_less(job_id: str, seconds: float) -> JobView | None:
            view = await wait(job_id, 0.001)
            assert view is not None
            await seen.put(view)
            return view

        async def until(state: str) -> None:
            while (view := await seen.get()).job.state != state:
                assert view.job.state not in ENDED

        monkeypatch.setattr(server.queue, "wait", wait_less)
        asking = asyncio.create_task(server.client.post(CHAT, json={**ASKED, "stream": True}))
        await until("queued")
        job = await server.queue.take()
        server.queue.reporter(job.id)(Progress(0.5, "render", "step 4 of 8"))
        await until("running")
        await server.queue.fail(job.id, "no memory")
        events = chunks(await asking)
        beats = [event["progress"] for event in events if "progress" in event]
        assert beats[0] == {"stage": "queued", "fraction": 0.0, "text": "Queued, number 1"}
        assert beats[-1] == {"stage": "render", "fraction": 0.5, "text": "step 4 of 8"}
        assert all(
            event["choices"][0]["delta"] == {"content": "."} for event in events if "progress" in event
        )

    async def test_a_failure_in_words_and_for_libraries(self, server: Server):
        asked = server.client.post(CHAT, json={**ASKED, "stream": True})
        answer, _ = await both(asked, fail_next(server, "no memory"))
        *_, words, end = chunks(answer)
        assert words["choices"][0]["delta"] == {"content": "\n\nError: no memory"}
        assert end["choices"][0]["finish_reason"] == "error"
        told = {"message": "no memory", "type": "server_error", "param": None}
        assert end["error"] == {**told, "code": 500}

    async def test_openais_library_raises_it(self, server: Server):
        transport = httpx2.ASGITransport(app=server.app)
        async with AsyncOpenAI(
            base_url="http://server/v1", api_key="-", http_client=httpx2.AsyncClient(transport=transport)
        ) as client:
            create: Any = client.chat.completions.create
            asking = asyncio.create_task(create(**ASKED_OF_OPENAI, stream=True))
            await asyncio.wait_for(fail_next(server, "no memory"), 5)
            with pytest.raises(APIError, match=r"^no memory$"):
                async for _ in await asking:
                    pass

    async def test_storage_that_fails_shows_nothing_of_the_inside(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ):
        async def broken(job_id: str, seconds: float) -> None:
            raise DataFolderError("/secret/folder is full")

        monkeypatch.setattr(server.queue, "wait", broken)
        answer = await server.client.post(CHAT, json={**ASKED, "stream": True})
        *_, end = chunks(answer)
        assert end["error"]["code"] == 503
        assert "/secret" not in answer.text

    async def test_too_slow(self, serve: Serve):
        async with serve(replace(CONFIG, generation_timeout=0.05)) as server:
            answer = await server.client.post(CHAT, json={**ASKED, "stream": True})
            *_, end = chunks(answer)
            assert end["error"]["code"] == 504
            assert end["task_id"] in end["error"]["message"]

    async def test_usage_where_it_is_asked_for(self, server: Server):
        body = {**ASKED, "stream": True, "stream_options": {"include_usage": True}}
        answer, _ = await both(server.client.post(CHAT, json=body), server.finish_next())
        *_, last = chunks(answer)
        assert (last["choices"], set(last["usage"].values())) == ([], {0})

    async def test_warnings_come_first(self, server: Server):
        body = {**ASKED, "stream": True, "stop": "x"}
        answer, _ = await both(server.client.post(CHAT, json=body), server.finish_next())
        assert chunks(answer)[0]["warnings"] == ["stop: a song has a duration, not tokens; it is not used"]

    async def test_events_are_ascii(self, server: Server):
        body = {**ASKED, "stream": True, "prompt": "line\u2028明るい"}
        answer, _ = await both(server.client.post(CHAT, json=body), server.finish_next())
        assert answer.content.isascii()
        assert "line\u2028明るい" in deltas(chunks(answer))[1]["content"]

    async def test_what_is_refused_is_refused_before_it_begins(self, server: Server):
        body = {**ASKED, "stream": True, "audio_config": {"bpm": 5}}
        assert_error(await server.client.post(CHAT, json=body), 422, "bpm: 5")


class TestRefusals:
    async def test_a_failed_job(self, server: Server):
        answer, job = await both(server.client.post(CHAT, json=ASKED), fail_next(server, "no memory"))
        assert_error(answer, 500, "no memory")
        assert answer.headers["location"] == f"/v1/jobs/{job.id}"

    async def test_too_slow(self, serve: Serve):
        async with serve(replace(CONFIG, generation_timeout=0.05)) as server:
            answer = await server.client.post(CHAT, json=ASKED)
            job = await server.finish_next()
            assert_error(answer, 504, "within 0.05 s", f"task {job.id}", "GET /v1/jobs/")
            found = await server.client.get(answer.headers["location"])
            assert found.json()["status"] == "succeeded"

    async def test_deleted_meanwhile(self, server: Server):
        async def finish_and_delete() -> Job:
            job = await server.queue.take()
            song = server._song(job.request, 0, "mp3", b"song")
            server.audio.delete(song.file)
            await server.queue.finish(job.id, (song,))
            return job

        answer, _ = await both(server.client.post(CHAT, json=ASKED), finish_and_delete())
        assert_error(answer, 404, "Audio file not found")

    async def test_a_full_queue(self, serve: Serve):
        async with serve(max_waiting=1) as server:
            await server.release()
            answer = await server.client.post(CHAT, json=ASKED)
            error = assert_error(answer, 429, "the queue is full")
            assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")

    async def test_the_key(self, serve: Serve):
        async with serve(replace(CONFIG, api_key="k")) as server:
            answer = await server.client.post(CHAT, json=ASKED)
            assert assert_error(answer, 401, "Missing Authorization header")["code"] == "invalid_api_key"
            asked = server.client.post(CHAT, json=ASKED, headers={"Authorization": "Bearer k"})
            answer, _ = await both(asked, server.finish_next())
            assert answer.status_code == 200

    async def test_strict(self, serve: Serve):
        async with serve(replace(CONFIG, strict=True)) as server:
            answer = await server.client.post(CHAT, json={**ASKED, "max_tokens": 5})
            assert_error(answer, 422, "max_tokens: ")
            assert (await server.queue.stats()).total == 0

    async def test_a_planner_is_insisted_on(self, server: Server):
        body = {"messages": [{"role": "user", "content": "Piano"}], "sample_mode": True}
        assert_error(await server.client.post(CHAT, json=body), 503, "sample_query", "needs the planner")

    @pytest.mark.parametrize(("count", "allowed"), [(0, "1 or more"), (1_001, "at most 1000")])
    async def test_a_number_of_messages(self, server: Server, count: int, allowed: str):
        answer = await server.client.post(CHAT, json={"messages": ASKED["messages"][:1] * count})
        told = f"messages: '{count} entries' cannot be used; allowed: {allowed} of them"
        assert_error(answer, 422, told)

    async def test_a_broken_body(self, server: Server):
        answer = await server.client.post(CHAT, content="{", headers={"Content-Type": "application/json"})
        assert_error(answer, 400, "Malformed JSON")

    async def test_audio_is_looked_at_before_it_is_used(self, server: Server):
        answer = await server.client.post(CHAT, json=with_audio(b"no audio"))
        assert_error(answer, 415, "src_audio: ")
        assert list(server.uploads.iterdir()) == []

    async def test_audio_may_be_larger_than_other_bodies(self, serve: Serve):
        async with serve(replace(CONFIG, body_limit=1000, upload_limit=2000)) as server:
            small = await server.client.post(CHAT, json=with_audio(b"no audio" * 200))
            assert_error(small, 415, "src_audio: ")
            large = await server.client.post(CHAT, json=with_audio(b"no audio" * 400))
            assert_error(large, 413, "at most 3666 bytes")


def with_audio(raw: bytes) -> dict[str, Any]:
    data = base64.b64encode(raw).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return {"messages": [{"role": "user", "content": [part]}], "task_type": "cover"}


@pytest.mark.parametrize("cancels", [True, False])
@pytest.mark.parametrize(("stream", "status"), [(False, 400), (True, 200)])
async def test_the_job_of_a_client_that_left_is_cancelled(
    serve: Serve, stream: bool, status: int, cancels: bool
):
    async with serve(replace(CONFIG, cancel_on_disconnect=cancels)) as server:
        await leave(server, stream, status, cancels)


async def leave(server: Server, stream: bool, status: int, cancels: bool) -> None:
    asked = json.dumps({**ASKED, "stream": stream}).encode()
    sent = asyncio.Queue[dict[str, Any]]()
    await sent.put({"type": "http.request", "body": asked, "more_body": False})
    answers: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        answers.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "query_string": b""}
    call = asyncio.create_task(server.app({**scope, "raw_path": CHAT.encode()}, sent.get, send))
    job = await asyncio.wait_for(server.queue.take(), 5)
    assert not call.done()
    await sent.put({"type": "http.disconnect"})
    await asyncio.wait_for(call, 5)
    assert answers[0]["status"] == status
    (view,) = await server.queue.find([job.id])
    assert view is not None
    assert (view.job.state, view.job.is_cancelling) == ("running", cancels)
