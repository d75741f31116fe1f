"""Large uploads: who may send them, and where they wait until they are read."""

import errno
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest

from acestep.data_folder import temporary_folder
from tests.rest.conftest import CONFIG, Serve, assert_error

KEY = "sk-ours"
LIMIT = 100_000
PIECE = b"RIFF" + bytes(65_532)
PIECES = 100
PATHS = ["/release_task", "/v1/understand", "/v1/audio/generations"]
SMALL = replace(CONFIG, body_limit=LIMIT, api_key=KEY)


def text(name: str, value: str) -> bytes:
    return f'--X\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


FILE = b'--X\r\nContent-Disposition: form-data; name="src_audio"; filename="a.wav"\r\n\r\n'
COVER = text("task_type", "cover")


class Form:
    """A form with a file of 6.5 MB, and a count of the pieces that were taken of it."""

    def __init__(self, before: bytes = b"", after: bytes = b"") -> None:
        self.before, self.after = before, after
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield COVER + self.before + FILE
        for _ in range(PIECES):
            self.taken += 1
            yield PIECE
        yield b"\r\n" + self.after + b"--X--\r\n"


HEADERS = {"Content-Type": "multipart/form-data; boundary=X"}


class TestKeys:
    """ASGI clients send as they are read."""

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize(
        ("headers", "before", "said"),
        [
            ({}, b"", "Missing ai_token or Authorization header"),
            ({"Authorization": "Bearer sk-theirs"}, b"", "Invalid API key"),
            ({"x-api-key": "sk-theirs"}, text("prompt", "x"), "Invalid API key"),
            ({}, text("ai_token", "sk-theirs"), "Invalid ai_token"),
        ],
    )
    async def test_a_wrong_one_is_told_before_the_file_is_read(
        self, serve: Serve, path: str, headers: dict[str, str], before: bytes, said: str
    ):
        async with serve(SMALL) as server:
            form = Form(before)
            answer = await server.client.post(path, content=form, headers={**HEADERS, **headers})
            assert_error(answer, 401, said)
            assert form.taken * len(PIECE) < 3 * LIMIT

    @pytest.mark.parametrize(
        ("headers", "before", "after"),
        [
            ({"Authorization": f"Bearer {KEY}"}, b"", b""),
            ({"x-api-key": KEY}, b"", text("prompt", "x")),
            ({}, text("ai_token", KEY), b""),
            ({"Authorization": "Bearer sk-theirs"}, text("ai_token", KEY), b""),
        ],
    )
    async def test_a_right_one(self, serve: Serve, headers: dict[str, str], before: bytes, after: bytes):
        async with serve(SMALL) as server:
            form = Form(before, after)
            answer = await server.client.post("/release_task", content=form, headers={**HEADERS, **headers})
            assert (answer.status_code, form.taken) == (200, PIECES)

    async def test_a_token_behind_a_small_file(self, serve: Serve):
        async with serve(SMALL) as server:
            body = COVER + FILE + b"RIFF\r\n" + text("ai_token", KEY) + b"--X--\r\n"
            answer = await server.client.post("/release_task", content=body, headers=HEADERS)
            assert answer.status_code == 200


class TestTemporaryFolder:
    async def test_files_wait_there(self, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        folders: list[Any] = []

        def noted(*arguments: Any, **named: Any) -> Any:
            folders.append(named.get("dir") or tempfile.gettempdir())
            return make(*arguments, **named)

        make = tempfile.TemporaryFile
        monkeypatch.setattr(tempfile, "TemporaryFile", noted)
        with temporary_folder(tmp_path / "ours"):  # which is not there, as where it was deleted
            async with serve(replace(CONFIG, body_limit=LIMIT)) as server:
                answer = await server.client.post("/release_task", content=Form(), headers=HEADERS)
        assert answer.status_code == 200
        assert folders == [str(tmp_path / "ours")]

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    async def test_without_room(self, serve: Serve, monkeypatch: pytest.MonkeyPatch, code: int):
        def full(*_: Any, **__: Any) -> IO[bytes]:
            raise OSError(code, "No space left on device", "/secret/tmp")

        monkeypatch.setattr(tempfile, "TemporaryFile", full)
        async with serve(replace(CONFIG, body_limit=LIMIT)) as server:
            answer = await server.client.post("/release_task", content=Form(), headers=HEADERS)
            assert_error(answer, 503, "cannot use its storage")
            assert "secret" not in answer.text
            assert (await server.queue.stats()).total == 0
