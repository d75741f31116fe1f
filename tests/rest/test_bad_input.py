"""Every kind of bad input that we could think of: the right status, the envelope, the field's name."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from acestep.rest.request.body import UPLOAD_NAMES
from tests.rest.conftest import CONFIG, Serve, Server, assert_error
from tests.rest.values import FIELDS, outside, wrong_types

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = replace(CONFIG, body_limit=10_000, upload_limit=50_000)


async def post(server: Server, body: bytes | str, content_type: str | None = "application/json") -> Any:
    headers = {"Content-Type": content_type} if content_type is not None else {}
    return await server.client.post("/release_task", content=body, headers=headers)


class TestBrokenBodies:
    @pytest.mark.parametrize(
        "body",
        [
            "",
            "{",
            '{"a": }',
            "not json",
            b"\xff\xfe\xfa",
            '{"a": ' + "9" * 5_000 + "}",
            "[" * 100_000,
            '{"a":' * 100_000,
        ],
        ids=lambda body: repr(body)[:20],
    )
    async def test_malformed_json(self, shared: Server, body: bytes | str):
        assert_error(await post(shared, body), 400, "Malformed JSON payload")
        assert_error(
            await shared.client.post("/query_result", content=body, headers=JSON),
            400,
            "Malformed JSON payload",
        )

    async def test_the_place_is_told(self, shared: Server):
        assert_error(await post(shared, '{"bpm":\n 12,}'), 400, "line 2, column 5")

    @pytest.mark.parametrize("body", ["[]", "[1]", '"text"', "5", "null", "true"])
    async def test_json_that_is_no_object(self, shared: Server, body: str):
        assert_error(await post(shared, body), 400, "JSON payload must be an object")

    async def test_sniffed_json_that_is_no_object(self, shared: Server):
        assert_error(await post(shared, "[1]", "text/plain"), 400, "JSON payload must be an object")

    async def test_sniffed_json_that_is_broken(self, shared: Server):
        assert_error(
            await post(shared, "{a=b", "text/plain"), 400, "Invalid JSON body (hint: set 'Content-Type"
        )

    @pytest.mark.parametrize("body", ["", "just text", b"\xff\xfb=\x90", "  "])
    @pytest.mark.parametrize("content_type", [None, "text/plain", "audio/mpeg", "nonsense"])
    async def test_unknown_types(self, shared: Server, body: bytes | str, content_type: str | None):
        answer = await post(shared, body, content_type)
        assert_error(
            answer, 415, f"Unsupported Content-Type: {content_type or '(missing)'}; use application/json"
        )

    @pytest.mark.parametrize("body", ["prompt=%ff", b"prompt=\xff", "&".join(["a=1"] * 1_001)])
    async def test_malformed_forms(self, shared: Server, body: bytes | str):
        assert_error(await post(shared, body, FORM["Content-Type"]), 400, "Malformed form")

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("multipart/form-data", b"x"),
            ("multipart/form-data; boundary=b", b"not multipart"),
            (
                "multipart/form-data; boundary=b",
                b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
            ),
            (
                "multipart/form-data; boundary=b; charset=undefined",
                b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--\r\n',
            ),
        ],
    )
    async def test_malformed_multipart(self, shared: Server, content_type: str, body: bytes):
        assert_error(await post(shared, body, content_type), 400, "Malformed form")


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
        answer = await post(shared, body, FORM["Content-Type"] if form else "text/plain")
        assert_error(answer, 422, "bpm: ")

    @pytest.mark.parametrize("task", ["extract", "lego", "complete", "zzz"])
    async def test_tasks_that_are_not_done(self, shared: Server, task: str):
        answer = await shared.client.post("/release_task", json={"task_type": task})
        assert assert_error(answer, 422, "task_type: ", task)["extra"]["field"] == "task_type"

    @pytest.mark.parametrize("task", ["cover", "repaint"])
    async def test_tasks_without_the_audio_that_they_work_on(self, shared: Server, task: str):
        answer = await shared.client.post("/release_task", json={"task_type": task})
        body = assert_error(
            answer, 422, f"with task_type {task}; allowed: an audio file, uploaded as src_audio"
        )
        assert body["extra"]["field"] == "src_audio"

    @pytest.mark.parametrize("value", [5, {"a": 1}, [1], '["a"', [None]])
    async def test_task_ids(self, shared: Server, value: object):
        answer = await shared.client.post("/query_result", json={"task_id_list": value})
        assert_error(answer, 422, "task_id_list: ")


class TestSizes:
    @pytest.mark.parametrize("content_type", ["application/json", FORM["Content-Type"], "text/plain"])
    @pytest.mark.parametrize("route", ["/release_task", "/query_result"])
    async def test_a_body_that_says_how_large_it_is(self, serve: Serve, content_type: str, route: str):
        async with serve(SMALL) as server:
            answer = await server.client.post(
                route, content=b"=" * 10_001, headers={"Content-Type": content_type}
            )
            assert_error(answer, 413, "at most 10000 bytes")

    async def test_an_announced_size_beyond_all_bounds(self, serve: Serve):
        async with serve(SMALL) as server:
            answer = await server.client.post(
                "/release_task", content=b"{}", headers={**JSON, "Content-Length": "9" * 5_000}
            )
            assert_error(answer, 413)

    async def test_a_stream_is_read_no_further_than_the_limit(self, serve: Serve):
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 1_000
                yield b"=" * 1_000

        async with serve(SMALL) as server:
            assert_error(await server.client.post("/release_task", content=endless(), headers=FORM), 413)
        assert sent <= 12_000

    async def test_the_largest_body(self, serve: Serve):
        async with serve(SMALL) as server:
            body = json.dumps({"lyrics": "x" * 9_900}).ljust(10_000)
            assert (await post(server, body)).status_code == 200

    async def test_one_large_text_in_multipart(self, serve: Serve):
        async with serve(SMALL) as server:
            parts: Any = {"lyrics": (None, "x" * 10_001)}
            assert_error(await server.client.post("/release_task", files=parts), 413, "at most 10000 bytes")

    async def test_many_small_texts_in_multipart(self, serve: Serve):
        async with serve(SMALL) as server:
            parts: Any = {f"field{index}": (None, "x" * 1_000) for index in range(12)}
            assert_error(await server.client.post("/release_task", files=parts), 413, "at most 10000 bytes")

    async def test_a_large_upload(self, serve: Serve):
        async with serve(SMALL) as server:
            files: Any = {"src_audio": ("a.wav", b"RIFF" + b"x" * 50_000)}
            assert_error(
                await server.client.post("/release_task", files=files), 413, "src_audio: ", "50000 bytes"
            )
            assert list(server.uploads.iterdir()) == []

    async def test_an_endless_upload_is_read_no_further_than_the_limit(self, serve: Serve):
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            yield b'--b\r\nContent-Disposition: form-data; name="src_audio"; filename="a.wav"\r\n\r\n'
            while True:
                sent += 1_000
                yield b"x" * 1_000

        async with serve(SMALL) as server:
            answer = await server.client.post(
                "/release_task",
                content=endless(),
                headers={"Content-Type": "multipart/form-data; boundary=b"},
            )
            assert_error(answer, 413)
            assert list(server.uploads.iterdir()) == []
        assert sent <= 62_000


class TestUploads:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("ref_audio", "reference_audio"),
            ("reference_audio", "reference_audio"),
            ("ctx_audio", "src_audio"),
            ("src_audio", "src_audio"),
            ("audio", "src_audio"),
            ("file", "src_audio"),
        ],
    )
    @pytest.mark.parametrize("size", [10, 3_000_000])
    async def test_what_is_no_audio(self, shared: Server, name: str, kind: str, size: int):
        files: Any = {name: ("song.mp3", b"x" * size)}
        answer = await shared.client.post("/release_task", files=files, data={"prompt": "pop"})
        assert_error(answer, 415, f"{kind}: ", "not audio")
        assert list(shared.uploads.iterdir()) == []

    async def test_a_file_where_none_is_taken(self, shared: Server):
        files: Any = {"prompt": ("a.txt", b"text")}
        assert_error(
            await shared.client.post("/release_task", files=files), 422, "prompt: ", "files only as ref_audio"
        )

    async def test_too_many_files(self, shared: Server):
        files: Any = [("src_audio", ("a.wav", b"RIFF"))] * (len(UPLOAD_NAMES) + 1)
        assert_error(await shared.client.post("/release_task", files=files), 400, "Too many files")

    async def test_a_file_input_that_was_left_empty(self, shared: Server):
        body = (
            b'--b\r\nContent-Disposition: form-data; name="src_audio"; filename=""\r\n\r\n\r\n'
            b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\npop\r\n--b--\r\n'
        )
        answer = await post(shared, body, "multipart/form-data; boundary=b")
        assert answer.status_code == 200


class TestRoutes:
    @pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/release_task/x", "/v1/audio/../health"])
    async def test_unknown_paths(self, shared: Server, path: str):
        assert_error(await shared.client.get(path), 404)

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("GET", "/release_task", "POST"),
            ("GET", "/query_result", "POST"),
            ("POST", "/v1/stats", "GET"),
            ("DELETE", "/v1/audio", "GET"),
            ("PUT", "/health", "GET"),
            ("OPTIONS", "/release_task", "POST"),
        ],
    )
    async def test_wrong_methods(self, shared: Server, method: str, path: str, allowed: str):
        answer = await shared.client.request(method, path)
        assert_error(answer, 405)
        assert allowed in answer.headers["allow"]
