"""Every kind of bad input that we could think of: the right status, the envelope, the field's name."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from acestep.rest.request.sounds import UPLOAD_NAMES
from tests.rest.conftest import CONFIG, Serve, Server, assert_error
from tests.rest.test_tasks import ANIMATION

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
            "[" * 10_000,
            '{"a":' * 10_000,
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
