"""Bodies in odd dress: JSON as a form, arrays as PHP names them, other character sets, cut ones."""

import json
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from acestep.errors import InvalidFieldError
from acestep.rest.request.body import MAX_VALUES, json_object
from acestep.rest.request.forms import form_fields, known_charset, unquoted
from tests.rest.conftest import Server, assert_error

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=X"
ROUTES = (
    *("/release_task", "/query_result", "/format_input", "/v1/understand", "/create_random_sample"),
    *("/v1/music/generate", "/v1/audio/generations", "/v1/chat/completions", "/v1/init"),
    *("/v1/lora/load", "/v1/lora/toggle", "/v1/lora/scale"),
)
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def post(server: Server, body: bytes | str, content_type: str, route: str = "/release_task") -> Any:
    return await server.client.post(route, content=body, headers={"Content-Type": content_type})


def part(name: str, value: bytes, more: str = "") -> bytes:
    head = f'--X\r\nContent-Disposition: form-data; name="{name}"\r\n{more}\r\n'
    return head.encode() + value + b"\r\n"


async def queued(server: Server, answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    (view,) = await server.queue.find([answer.json()["data"]["task_id"]])
    assert view is not None
    return view.job.request


class TestJsonAsAForm:
    @pytest.mark.parametrize(
        "body",
        [
            '{"prompt": "sad piano", "audio_duration": 10}',
            ' \n{"prompt": "sad piano", "audio_duration": 10}',
            b'\xef\xbb\xbf{"prompt": "sad piano", "audio_duration": 10}',
            "%7B%22prompt%22%3A%22sad+piano%22%2C%22audio_duration%22%3A10%7D",
            '{"prompt": "sad piano", "audio_duration": 10, "model": "a=b&c=d"}',
        ],
    )
    @pytest.mark.parametrize("content_type", [FORM, FORM + "; charset=UTF-8"])
    async def test_is_read(self, shared: Server, body: bytes | str, content_type: str):
        request = await queued(shared, await post(shared, body, content_type))
        assert (request.caption, request.duration) == ("sad piano", 10.0)

    async def test_a_poller_gets_its_job(self, shared: Server):
        task_id = await shared.release()
        answer = await post(shared, json.dumps({"task_id_list": [task_id]}), FORM, "/query_result")
        assert [entry["task_id"] for entry in answer.json()["data"]] == [task_id]

    @pytest.mark.parametrize("route", ROUTES)
    async def test_broken_json_is_no_form_on_any_route(self, shared: Server, route: str):
        answer = await post(shared, '{"prompt": "sad piano", }', FORM, route)
        assert_error(answer, 400, "Invalid JSON body", "line 1, column 25")

    @pytest.mark.parametrize("route", ROUTES)
    async def test_a_list_is_no_form_on_any_route(self, shared: Server, route: str):
        assert_error(await post(shared, '["a"]', FORM, route), 400, "JSON payload must be an object")


class TestNothingUsable:
    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            ("{}", "application/json"),
            ("{}", FORM),
            ("", FORM),
            ('{"promt": "pop"}', "application/json"),
            ('{"prompt": "", "caption": null, "lyrics": " "}', "application/json"),
            ("caption=&nonsense=1", FORM),
            (part("text", b"pop") + b"--X--\r\n", MULTIPART),
        ],
    )
    @pytest.mark.parametrize("route", ["/release_task", "/v1/music/generate", "/v1/audio/generations"])
    async def test_a_song_of_nothing(self, shared: Server, body: bytes | str, content_type: str, route: str):
        before = (await shared.queue.stats()).total
        answer = await post(shared, body, content_type, route)
        assert_error(answer, 422, "prompt: nothing was sent; send a caption, or any other field")
        assert (await shared.queue.stats()).total == before

    async def test_names_that_are_near_are_told(self, shared: Server):
        answer = await post(shared, '{"promt": "pop"}', "application/json")
        assert_error(answer, 422, "'promt': there is no such field", "Did you mean prompt?")

    @pytest.mark.parametrize(
        ("route", "field"),
        [
            ("/query_result", "task_id_list"),
            ("/v1/init", "model"),
            ("/v1/lora/load", "lora_path"),
            ("/v1/lora/toggle", "use_lora"),
            ("/v1/lora/scale", "scale"),
            ("/create_random_sample", "sample_type"),
        ],
    )
    async def test_fields_of_which_none_is_known(self, shared: Server, route: str, field: str):
        answer = await post(shared, f'{{"{field}x": "a"}}', "application/json", route)
        assert_error(answer, 422, f"{field}: nothing was sent; send ")

    async def test_any_field_of_a_song_is_enough(self, shared: Server):
        request = await queued(shared, await post(shared, '{"bpm": 90}', "application/json"))
        assert request.bpm == 90


class TestArrays:
    @pytest.mark.parametrize(
        "body",
        [
            "task_id_list[]=a&task_id_list[]=b",
            "task_ids%5B%5D=a&task_ids%5B%5D=b",
            "task_id_list[0]=a&task_id_list[1]=b",
        ],
    )
    async def test_as_php_and_jquery_name_them(self, shared: Server, body: str):
        answer = await post(shared, body, FORM, "/query_result")
        assert [entry["task_id"] for entry in answer.json()["data"]] == ["a", "b"]

    async def test_of_one(self, shared: Server):
        answer = await post(shared, "task_id_list[]=a", FORM, "/query_result")
        assert [entry["task_id"] for entry in answer.json()["data"]] == ["a"]

    async def test_in_multipart(self, shared: Server):
        body = part("prompt", b"pop") + part("seed[]", b"3") + part("seed[]", b"4") + b"--X--\r\n"
        assert (await queued(shared, await post(shared, body, MULTIPART))).seeds == (3, 4)


class TestCutForms:
    WHOLE = (
        part("prompt", b"piano")
        + part("reference_audio", b"RIFF" + b"x" * 99, "Content-Type: audio/wav\r\n").replace(
            b'name="reference_audio"', b'name="reference_audio"; filename="a.wav"'
        )
        + b"--X--\r\n"
    )

    @pytest.mark.parametrize("length", [20, 60, 70, 100, 200, 260, len(WHOLE) - 5, len(WHOLE) - 4])
    async def test_are_refused_wherever_they_end(self, shared: Server, length: int):
        before = (await shared.queue.stats()).total
        answer = await post(shared, self.WHOLE[:length], MULTIPART)
        assert_error(answer, 400, "Malformed form: it ends before its last boundary")
        assert (await shared.queue.stats()).total == before
        assert list(shared.uploads.iterdir()) == []

    @pytest.mark.parametrize("length", [len(WHOLE) - 2, len(WHOLE)])
    async def test_whole_ones_are_not(self, shared: Server, length: int):
        request = await queued(shared, await post(shared, self.WHOLE[:length], MULTIPART))
        assert request.task.reference


NIGHT = "夜の歌"


class TestCharacterSets:
    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            (f"lyrics={NIGHT}".encode("cp932"), FORM),
            (b"lyrics=%96%E9", FORM),
            (b"prompt=pop&lyrics=" + NIGHT.encode("euc_jp"), FORM),
            (part("lyrics", NIGHT.encode("cp932")) + b"--X--\r\n", MULTIPART),
            (part("prompt", b"pop") + part("lyrics", NIGHT.encode("utf-16")) + b"--X--\r\n", MULTIPART),
            (b'{"prompt": "pop", "lyrics": "' + NIGHT.encode("cp932") + b'"}', "application/json"),
            (b'{"lyrics" : "\xed\xa0\xbd"}', "application/json"),
            (b'{"lyrics": "' + NIGHT.encode("cp932") + b'"}', FORM),
        ],
    )
    async def test_text_that_is_not_utf8_is_refused_by_its_field(
        self, shared: Server, body: bytes, content_type: str
    ):
        assert_error(await post(shared, body, content_type), 400, "lyrics: not UTF-8 (byte 0x")

    @pytest.mark.parametrize(
        "charset", ["shift_jis", "Shift_JIS", "cp932", "windows-31j", "euc-jp", "utf-8", "utf-16"]
    )
    async def test_named_by_the_part(self, shared: Server, charset: str):
        encoded = NIGHT.encode("cp932" if charset == "windows-31j" else charset)
        body = part("lyrics", encoded, f"Content-Type: text/plain; charset={charset}\r\n")
        body += part("prompt", "静か".encode()) + b"--X--\r\n"
        request = await queued(shared, await post(shared, body, MULTIPART))
        assert (request.lyrics, request.caption) == (NIGHT, "静か")

    @pytest.mark.parametrize("first", [True, False])
    async def test_named_by_the_form(self, shared: Server, first: bool):
        parts = [part("lyrics", NIGHT.encode("cp932")), part("_charset_", b"Shift_JIS")]
        body = b"".join(reversed(parts) if first else parts) + b"--X--\r\n"
        request = await queued(shared, await post(shared, body, MULTIPART))
        assert (request.lyrics, request.warnings) == (NIGHT, ())

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            (f"lyrics={NIGHT}".encode("cp932"), FORM + "; charset=shift_jis"),
            (b"_charset_=windows-31j&lyrics=%96%E9%82%CC%89%CC", FORM),
            (
                json.dumps({"lyrics": NIGHT}, ensure_ascii=False).encode("cp932"),
                "application/json; charset=Shift_JIS",
            ),
            (json.dumps({"lyrics": NIGHT}, ensure_ascii=False).encode("utf-16"), "application/json"),
            (f"lyrics={NIGHT}".encode("euc_jp"), "text/plain; charset=euc-jp"),
            (part("lyrics", NIGHT.encode("cp932")) + b"--X--\r\n", MULTIPART + "; charset=cp932"),
        ],
    )
    async def test_named_by_the_request(self, shared: Server, body: bytes, content_type: str):
        assert (await queued(shared, await post(shared, body, content_type))).lyrics == NIGHT

    async def test_the_part_goes_before_the_form_and_that_before_the_request(self, shared: Server):
        body = (
            part("lyrics", NIGHT.encode("utf-8"), "Content-Type: text/plain; charset=utf-8\r\n")
            + part("prompt", "静か".encode("euc_jp"))
            + part("_charset_", b"euc-jp")
            + b"--X--\r\n"
        )
        request = await queued(shared, await post(shared, body, MULTIPART + "; charset=cp932"))
        assert (request.lyrics, request.caption) == (NIGHT, "静か")

    @pytest.mark.parametrize(
        "charset", ["utf8mb4", "hex", "zlib", "rot13", "idna", "undefined", "unicode_escape", "a\\0b"]
    )
    async def test_that_are_none(self, shared: Server, charset: str):
        with pytest.raises(HTTPException, match="is not known; send UTF-8"):
            known_charset(charset)
        body = part("lyrics", b"la", f"Content-Type: text/plain; charset={charset}\r\n") + b"--X--\r\n"
        assert_error(await post(shared, body, MULTIPART), 400, "is not known; send UTF-8")
        assert_error(await post(shared, "lyrics=la", f"{FORM}; charset={charset}"), 400, "is not known")


class TestTextForAFile:
    @pytest.mark.parametrize(
        "name", ["src_audio", "reference_audio", "ctx_audio", "ref_audio", "audio", "file"]
    )
    async def test_a_forgotten_at(self, shared: Server, name: str):
        for body, content_type in (
            (part(name, b"/x.wav") + part("task_type", b"cover") + b"--X--\r\n", MULTIPART),
            (f"{name}=/x.wav&task_type=cover", FORM),
            (json.dumps({name: "/x.wav", "task_type": "cover"}), "application/json"),
        ):
            answer = await post(shared, body, content_type)
            assert_error(
                answer, 422, f"{name}: '/x.wav' cannot be used; allowed: a file", f"-F {name}=@song.wav"
            )
            assert answer.json()["extra"]["value"] == "/x.wav"

    @pytest.mark.parametrize("size", [100, 5_000_000])
    async def test_a_part_without_a_file_name(self, shared: Server, size: int):
        body = part("src_audio", b"RIFF\xff\x00".ljust(size, b"\0")) + b"--X--\r\n"
        answer = await post(shared, body, MULTIPART)
        assert_error(answer, 422, "without a file name' cannot be used; allowed: a file", "needs a filename")

    @pytest.mark.parametrize("value", ["", " ", None])
    async def test_an_input_that_was_left_empty(self, shared: Server, value: str | None):
        body = json.dumps({"prompt": "pop", "src_audio": value})
        assert (await post(shared, body, "application/json")).status_code == 200


class TestBounds:
    @pytest.mark.parametrize(
        "values",
        ["1," * 1_000_000 + "1", "[]," * 1_000_000 + "1", '"a",' * 900_000 + "1", "{}," * 1_000_000 + "1"],
    )
    async def test_a_million_values(self, shared: Server, values: str):
        answer = await post(shared, f'{{"prompt": "pop", "seed": [{values}], "bpm": 90}}', "application/json")
        body = assert_error(answer, 422, f"seed: 'more than {MAX_VALUES} values' cannot be used")
        assert body["extra"]["field"] == "seed"
        assert len(answer.content) < 1_000

    async def test_a_million_fields(self, shared: Server):
        many = ",".join(f'"f{index}":1' for index in range(300_000))
        assert_error(await post(shared, f"{{{many}}}", "application/json"), 422, "more than")

    async def test_names_in_front_do_not_confuse(self, shared: Server):
        body = '{"metas":{"bpm":90},"lyrics":"' + "la, " * 5_000 + '","modalities":[' + "1," * 60_000 + "1]}"
        assert_error(
            await post(shared, body, "application/json", "/v1/chat/completions"), 422, "modalities: "
        )

    @pytest.mark.parametrize("body", ["[" * 100_000, '{"a":' * 100_000])
    async def test_nested_without_end(self, shared: Server, body: str):
        assert_error(await post(shared, body, "application/json"), 422, "more than")

    @pytest.mark.parametrize("deep", ["[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900])
    @pytest.mark.parametrize(
        "field", ["seed", "prompt", "stop", "nonsense", "lora", "guidance_params", "metas"]
    )
    async def test_deep_nests_are_read_or_refused(self, shared: Server, deep: str, field: str):
        body = f'{{"messages": [{{"role": "user", "content": "pop"}}], "prompt": "pop", "{field}": {deep}}}'
        for route in ("/release_task", "/v1/music/generate"):
            answer = await post(shared, body, "application/json", route)
            assert answer.status_code in (200, 400, 422)  # 400: deeper than the parser goes
            assert len(answer.content) < 2_000

    async def test_digits(self, shared: Server):
        assert_error(await post(shared, f'{{"bpm": {"9" * 399}}}', "application/json"), 422, "bpm: ")
        assert_error(await post(shared, f'{{"bpm": {"9" * 401}}}', "application/json"), 400, "Malformed")


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("end", ["", "%", "%4", "%4g%"])
async def test_escapes_on_the_edges_of_blocks(shift: int, end: str):
    raw = "x" * shift + "%e3%81%82" * 30_000 + end
    assert unquoted(raw.encode()) == unquote_to_bytes(raw)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
async def test_any_bytes_are_a_form_or_refused(raw: bytes):
    try:
        fields = form_fields(raw)
    except HTTPException as error:
        assert error.status_code == 400
        return
    assert all(isinstance(value, str | list) for value in fields.values())


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=60).map(lambda raw: b'{"a":' + raw + b"}") | st.binary(max_size=60))
async def test_any_bytes_are_json_or_refused(raw: bytes):
    try:
        assert isinstance(json_object(raw, "Malformed"), dict)
    except (HTTPException, InvalidFieldError) as error:
        assert str(error)
