"""Jobs that are listed, cancelled, deleted, tried again and followed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from acestep.domain.song import Progress
from acestep.jobs.model import JobEvent
from acestep.rest import job_events
from acestep.rest.routes import jobs as routes
from tests.rest.conftest import CONFIG, Serve, Server, assert_error

CANCELLED = "The job was cancelled."
UNKNOWN = "unknown task id: 'nobody'"


async def get(server: Server, path: str) -> Any:
    answer = await server.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def listed(server: Server, query: str = "") -> list[str]:
    return [job["caption"] for job in (await get(server, f"/v1/jobs{query}"))["jobs"]]


async def end_next_cancel(server: Server) -> None:
    """Do what the runner does."""
    job = await server.queue.next_cancel()
    await server.queue.end_cancelled(job.id)


class TestList:
    async def test_the_newest_first_page_by_page(self, server: Server):
        ids = [await server.release(prompt=f"song {number}", batch_size=1) for number in range(5)]
        await server.finish_next()
        assert await listed(server) == ["song 4", "song 3", "song 2", "song 1", "song 0"]
        page = await get(server, "/v1/jobs?limit=2")
        assert ([job["job_id"] for job in page["jobs"]], page["next"]) == ([ids[4], ids[3]], ids[3])
        page = await get(server, f"/v1/jobs?limit=3&after={page['next']}")
        assert ([job["caption"] for job in page["jobs"]], page["next"]) == (
            ["song 2", "song 1", "song 0"],
            None,
        )
        assert page["jobs"][-1]["result"]["audio_paths"]

    async def test_by_state(self, server: Server):
        for number in range(3):
            await server.release(prompt=f"song {number}")
        await server.finish_next()
        await server.queue.take()
        assert await listed(server, "?state=succeeded") == ["song 0"]
        assert await listed(server, "?state=running&state=queued") == ["song 2", "song 1"]
        assert await listed(server, "?state=cancelled") == []

    @pytest.mark.parametrize(
        ("query", "field"), [("state=lost", "state"), ("limit=0", "limit"), ("limit=201", "limit")]
    )
    async def test_what_cannot_be_asked(self, server: Server, query: str, field: str):
        assert_error(await server.client.get(f"/v1/jobs?{query}"), 422, field)

    async def test_the_key(self, serve: Serve):
        async with serve(replace(CONFIG, api_key="k")) as server:
            for method, path in (
                ("GET", "/v1/jobs"),
                ("GET", "/v1/events"),
                ("GET", "/v1/jobs/nobody/events"),
                ("POST", "/v1/jobs/nobody/cancel"),
                ("POST", "/v1/jobs/nobody/retry"),
                ("DELETE", "/v1/jobs/nobody"),
            ):
                assert_error(await server.client.request(method, path), 401)
            assert_error(await server.client.post("/cancel_task", json={"task_id": "nobody"}), 401)
            body = {"task_id": "nobody", "ai_token": "k"}
            assert_error(await server.client.post("/cancel_task", json=body), 404, UNKNOWN)


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/v1/jobs/x", "DELETE, GET"), ("/v1/jobs", "GET"), ("/v1/jobs/x/cancel", "POST"), ("/v1/audio", "GET")],
)
async def test_other_methods_are_refused_with_those_that_there_are(server: Server, path: str, methods: str):
    answer = await server.client.put(path)
    assert_error(answer, 405)
    assert answer.headers["allow"] == methods


class TestCancel:
    @pytest.mark.parametrize("way", ["post", "delete"])
    async def test_a_queued_job(self, server: Server, way: str):
        job_id, path = await server.release(), "/v1/jobs/{}"
        if way == "post":
            answer = await server.client.post(path.format(job_id) + "/cancel")
        else:
            answer = await server.client.delete(path.format(job_id))
        assert (answer.json()["status"], answer.json()["error"]) == ("cancelled", CANCELLED)
        (entry,) = await server.query(job_id)
        assert entry["status"] == 2
        (item,) = json.loads(entry["result"])
        assert item["error"] == CANCELLED
        assert (await get(server, path.format(job_id)))["status"] == "cancelled", "it is still listed"

    async def test_a_running_job_is_waited_for(self, server: Server):
        job_id = await server.release()
        await server.queue.take()
        ending = asyncio.create_task(end_next_cancel(server))
        answer = await server.client.post(f"/v1/jobs/{job_id}/cancel")
        await ending
        assert (answer.json()["status"], answer.json()["is_cancelling"]) == ("cancelled", False)

    async def test_a_long_step_is_not_waited_for(self, server: Server, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(routes, "CANCEL_SECONDS", 0.01)
        job_id = await server.release()
        await server.queue.take()
        answer = await server.client.delete(f"/v1/jobs/{job_id}")
        assert (answer.json()["status"], answer.json()["is_cancelling"]) == ("running", True)

    async def test_what_has_ended_stays(self, server: Server):
        job_id = await server.release()
        await server.finish_next()
        answer = await server.client.post(f"/v1/jobs/{job_id}/cancel")
        assert answer.json() == await get(server, f"/v1/jobs/{job_id}")
        assert answer.json()["status"] == "succeeded"

    async def test_clients_of_release_task(self, server: Server):
        for body in ({"task_id": await server.release()}, {"job_id": await server.release()}):
            answer = await server.client.post("/cancel_task", json=body)
            entry = answer.json()["data"]
            assert (answer.status_code, entry["status"], entry["error"]) == (200, 2, CANCELLED)
        form = await server.client.post("/cancel_task", data={"task_id": await server.release()})
        assert form.json()["data"]["status"] == 2

    async def test_unknown_jobs(self, server: Server):
        assert_error(await server.client.post("/v1/jobs/nobody/cancel"), 404, UNKNOWN)
        assert_error(await server.client.delete("/v1/jobs/nobody"), 404, UNKNOWN)
        assert_error(await server.client.post("/cancel_task", json={"task_id": "nobody"}), 404, UNKNOWN)
        assert_error(await server.client.post("/cancel_task", json={"task": "x"}), 422, "task_id")


class TestDelete:
    async def test_an_ended_job_goes_with_its_files(self, server: Server):
        job_id = await server.release(batch_size=2)
        job = await server.finish_next()
        paths = (await get(server, f"/v1/jobs/{job_id}"))["result"]["audio_paths"]
        answer = await server.client.delete(f"/v1/jobs/{job_id}")
        assert (answer.status_code, answer.json()["result"]["audio_paths"]) == (200, paths)
        assert len(paths) == len(job.request.seeds) == 2
        for path in paths:
            assert (await server.client.get(path)).status_code == 404
        assert_error(await server.client.get(f"/v1/jobs/{job_id}"), 404)

    async def test_a_file_that_another_job_needs_stays(self, server: Server):
        job_id = await server.release(batch_size=1)
        await server.finish_next(content=b"RIFF")
        (path,) = (await get(server, f"/v1/jobs/{job_id}"))["result"]["audio_paths"]
        await server.release(task_type="cover", src_audio_path=path)
        await server.client.delete(f"/v1/jobs/{job_id}")
        assert (await server.client.get(path)).status_code == 200


class TestRetry:
    async def test_the_same_request_is_queued_again(self, server: Server):
        job_id = await server.release(prompt="rain", seed="5,6", audio_format="flac")
        await server.queue.fail((await server.queue.take()).id, "no memory")
        answer = (await server.client.post(f"/v1/jobs/{job_id}/retry")).json()
        assert (answer["job_id"] != job_id, answer["status"], answer["queue_position"]) == (True, "queued", 1)
        assert answer["eta_seconds"] == 5.0
        again = await server.queue.take()
        (first,) = await server.queue.find([job_id])
        assert first is not None
        assert (again.id, again.request) == (answer["job_id"], first.job.request)

    async def test_a_source_that_is_gone(self, server: Server):
        files: Any = {"src_audio": ("a.wav", b"RIFF")}
        answer = await server.client.post("/release_task", files=files, data={"task_type": "cover"})
        job_id = answer.json()["data"]["task_id"]
        for path in server.uploads.iterdir():
            path.unlink()
        refused = await server.client.post(f"/v1/jobs/{job_id}/retry")
        assert_error(refused, 422, "src_audio_path", "Upload it as src_audio")
        assert_error(await server.client.post("/v1/jobs/nobody/retry"), 404, UNKNOWN)


class Follower:
    """Reads a stream of events over ASGI, where httpx would wait for its end."""

    def __init__(self, server: Server, path: str, headers: dict[str, str] | None = None) -> None:
        self._server, self._path, self._headers = server, path, headers or {}
        self._chunks = asyncio.Queue[bytes | None]()
        self._gone = asyncio.Event()
        self.start: dict[str, Any] = {}

    async def __aenter__(self) -> Follower:
        self._call = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._gone.set()
        await asyncio.wait_for(self._call, 5)

    async def _run(self) -> None:
        request = httpx.Request("GET", f"http://test{self._path}", headers=self._headers)
        begun = False

        async def receive() -> dict[str, Any]:
            nonlocal begun
            if not begun:
                begun = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.start = message
            else:
                self._chunks.put_nowait(message.get("body", b""))

        path, _, query = self._path.partition("?")
        scope = {
            **{"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "root_path": ""},
            **{
                "query_string": query.encode(),
                "headers": [(name.lower(), value) for name, value in request.headers.raw],
                "scheme": "http",
            },
            **{"asgi": {"version": "3.0"}, "http_version": "1.1", "client": ("t", 1), "server": ("t", 80)},
        }
        await self._server.app(scope, receive, send)
        self._chunks.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        """Each event: its fields, with `data` read."""
        held = b""
        while (chunk := await asyncio.wait_for(self._chunks.get(), 10)) is not None:
            *whole, held = (held + chunk).split(b"\n\n")
            for block in whole:
                fields = dict(line.split(": ", 1) for line in block.decode().splitlines() if line[0] != ":")
                if "data" in fields:
                    yield {**fields, "data": json.loads(fields["data"])}
                elif fields:
                    yield fields

    async def next(self, count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async for event in self:
            found.append(event)
            if len(found) == count:
                break
        return found


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_events, "PAUSE_SECONDS", 0.001)


class TestEvents:
    async def test_of_a_job_from_its_first_to_its_last(self, server: Server):
        job_id = await server.release(prompt="rain", batch_size=1)
        async with Follower(server, f"/v1/jobs/{job_id}/events") as follower:
            retry, queued = await follower.next(2)
            assert (retry, queued["event"]) == ({"retry": "2000"}, "queued")
            assert queued["data"].items() >= {"job_id": job_id, "position": 1, "eta_seconds": 5.0}.items()
            headers = {name.decode(): value.decode() for name, value in follower.start["headers"]}
            assert headers["content-type"].startswith("text/event-stream")
            assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
            job = await server.queue.take()
            started, _ = await follower.next(2)
            assert (started["event"], started["data"]["attempt"]) == ("started", 1)
            server.queue.reporter(job.id)(Progress(0.5, "render", "step 4 of 8"))
            (progress,) = await follower.next(1)
            assert (progress["event"], "id" in progress) == ("progress", False)
            assert progress["data"].items() >= {"progress_text": "step 4 of 8", "eta_seconds": 2.5}.items()
            song = server._song(job.request, 0, "mp3", b"song")
            await server.queue.finish(job.id, (song,))
            rest = [event async for event in follower]
        assert [event["event"] for event in rest] == ["song", "succeeded"]
        assert (await server.client.get(rest[0]["data"]["file"])).content == b"song"
        assert rest[1]["data"]["job"]["result"]["audio_paths"] == [rest[0]["data"]["file"]]
        numbers = [int(event["id"]) for event in (queued, started, *rest)]
        assert numbers == sorted(set(numbers))

    async def test_a_song_comes_before_the_job_ends(self, server: Server):
        job_id = await server.release(batch_size=2)
        noting = asyncio.create_task(server.queue.note_steps())
        async with Follower(server, f"/v1/jobs/{job_id}/events") as follower:
            job = await server.queue.take()
            songs = [server._song(job.request, index, "mp3", b"song") for index in range(2)]
            server.queue.reporter(job.id)(Progress(0.5, "write", made=(1, songs[1])))
            async for event in follower:
                if event.get("event") == "song":
                    break
            assert event["data"]["index"] == 1
            assert (await server.client.get(f"/v1/jobs/{job_id}")).json()["status"] == "running"
            assert (await server.client.get(event["data"]["file"])).content == b"song"
            await server.queue.finish(job.id, tuple(songs))
            rest = [event async for event in follower if event["event"] != "progress"]
        assert [event["data"].get("index") for event in rest] == [0, None]
        noting.cancel()

    async def test_a_client_that_comes_back_goes_on_after_the_last(self, server: Server):
        job_id = await server.release(batch_size=1)
        await server.finish_next()
        async with Follower(server, f"/v1/jobs/{job_id}/events") as follower:
            events = [event async for event in follower][1:]
        assert [event["event"] for event in events] == ["queued", "started", "song", "succeeded"]
        second = events[1]["id"]
        for path, headers in (
            (f"?after={second}", {}),
            ("", {"Last-Event-ID": second}),
            ("?after=0", {"Last-Event-ID": second}),
        ):
            async with Follower(server, f"/v1/jobs/{job_id}/events{path}", headers) as follower:
                assert [event async for event in follower][1:] == events[2:]

    async def test_the_last_one_comes_where_the_job_ends_after_a_look(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ):
        job_id, look, looks = await server.release(), server.queue.events, list[int]()

        async def then_it_ends(after: int, of: str | None = None) -> tuple[JobEvent, ...]:
            found = await look(after, of)
            if not found and not looks:
                looks.append(after)
                await server.queue.fail((await server.queue.take()).id, "no memory")
            return found

        monkeypatch.setattr(server.queue, "events", then_it_ends)
        async with Follower(server, f"/v1/jobs/{job_id}/events") as follower:
            events = [event async for event in follower]
        assert (looks, events[-1]["event"]) == ([1], "failed")

    async def test_a_cancelled_job_ends_the_stream(self, server: Server):
        job_id = await server.release()
        async with Follower(server, f"/v1/jobs/{job_id}/events") as follower:
            await follower.next(2)
            await server.client.post(f"/v1/jobs/{job_id}/cancel")
            (last,) = [event async for event in follower]
        assert (last["event"], last["data"]["error"]) == ("cancelled", CANCELLED)

    async def test_of_all_jobs_from_now_on(self, server: Server):
        await server.release()
        async with Follower(server, "/v1/events") as follower:
            await follower.next(1)
            second = await server.release(batch_size=1)
            (queued,) = await follower.next(1)
            assert (queued["event"], queued["data"]["job_id"]) == ("queued", second)
            await server.finish_next()
            await server.finish_next()
            kinds = [event["event"] for event in await follower.next(7) if event["event"] != "progress"]
        assert kinds[:2] == ["started", "song"] and kinds.count("succeeded") >= 1

    async def test_of_all_jobs_from_a_number_on(self, server: Server):
        ids = [await server.release() for _ in range(3)]
        async with Follower(server, "/v1/events?after=1") as follower:
            _, *events = await follower.next(3)
        assert [event["data"]["job_id"] for event in events] == ids[1:]

    async def test_an_unknown_job_has_none(self, server: Server):
        assert_error(await server.client.get("/v1/jobs/nobody/events"), 404, UNKNOWN)
        assert_error(await server.client.get("/v1/events?after=-1"), 422, "after")

    async def test_a_listener_that_leaves_is_forgotten(self, server: Server):
        async with Follower(server, "/v1/events") as follower:
            await follower.next(1)
            assert server.queue.listeners._by_job
        assert not server.queue.listeners._by_job


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("limit=0", "limit: '0' cannot be used; allowed: greater than or equal to 1"),
        ("limit=many", "limit: 'many' cannot be used; allowed: a valid integer, unable to parse string"),
        ("state=queued&state=lost", "state: 'lost' cannot be used; allowed: 'queued', 'running'"),
    ],
)
async def test_a_parameter_that_cannot_be_used_is_named_with_its_value(
    server: Server, query: str, said: str
) -> None:
    answer = await server.client.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(said)
