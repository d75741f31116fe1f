import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from acestep.domain.song import AudioFormat
from acestep.rest.deps import provide
from acestep.rest.spelling import split_link
from tests.rest.conftest import CONFIG, Serve, Server, assert_error


async def link_of(
    server: Server, extension: str = "mp3", content: bytes = b"0123456789", key: str = ""
) -> str:
    """Make a song and return its link."""
    headers = {"Authorization": f"Bearer {key}"}
    fields = {"prompt": "Bright City-Pop, 120 bpm!", "batch_size": 1}
    answer = await server.client.post("/release_task", json=fields, headers=headers)
    await server.finish_next(extension, content)
    query = {"task_id_list": [answer.json()["data"]["task_id"]]}
    entries = await server.client.post("/query_result", json=query, headers=headers)
    return str(json.loads(entries.json()["data"][0]["result"])[0]["file"])


def path_in(link: str) -> str:
    (path,) = parse_qs(urlsplit(link).query)["path"]
    return path


class TestFetching:
    @pytest.mark.parametrize(
        ("extension", "media_type"),
        [
            ("mp3", "audio/mpeg"),
            ("wav", "audio/wav"),
            ("flac", "audio/flac"),
            ("opus", "audio/ogg"),
            ("m4a", "audio/mp4"),
            ("xyz", "application/octet-stream"),
        ],
    )
    async def test_the_file_and_its_type(self, server: Server, extension: str, media_type: str):
        answer = await server.client.get(await link_of(server, extension))
        assert (answer.status_code, answer.content) == (200, b"0123456789")
        assert answer.headers["content-type"] == media_type
        assert answer.headers["content-length"] == "10"

    async def test_head(self, server: Server):
        answer = await server.client.head(await link_of(server))
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == "10"
        assert answer.headers["accept-ranges"] == "bytes"

    async def test_a_part(self, server: Server):
        answer = await server.client.get(await link_of(server), headers={"Range": "bytes=2-4"})
        assert (answer.status_code, answer.content) == (206, b"234")
        assert answer.headers["content-range"] == "bytes 2-4/10"

    async def test_a_part_outside(self, server: Server):
        answer = await server.client.get(await link_of(server), headers={"Range": "bytes=20-"})
        assert_error(answer, 416)
        assert answer.headers["content-range"] == "bytes */10"

    async def test_what_is_no_part(self, server: Server):
        assert_error(await server.client.get(await link_of(server), headers={"Range": "octets"}), 400)

    async def test_the_name_speaks(self, server: Server):
        answer = await server.client.get(await link_of(server))
        disposition = answer.headers["content-disposition"]
        assert disposition.startswith('inline; filename="bright-city-pop-120-bpm-')
        assert disposition.endswith('.mp3"')

    async def test_the_token_alone_is_enough(self, server: Server):
        _, token = split_link(path_in(await link_of(server)))
        answer = await server.client.get("/v1/audio", params={"path": token})
        assert answer.status_code == 200
        assert "bright" not in answer.headers["content-disposition"]

    async def test_a_link_that_was_decoded_and_not_encoded_again(self, server: Server):
        link = await link_of(server)
        assert unquote(link) == link
        assert quote(path_in(link), safe="") == path_in(link)


class TestNothingElse:
    @pytest.fixture
    def secret(self, tmp_path: Path) -> Path:
        path = tmp_path / "secret.mp3"
        path.write_bytes(b"secret")
        return path

    async def assert_closed(self, server: Server, query: str) -> None:
        answer = await server.client.get(f"/v1/audio?{query}")
        assert_error(answer, 404, "Audio file not found")
        assert "secret" not in answer.text

    @pytest.mark.parametrize(
        "path",
        [
            "../secret.mp3",
            "..%2Fsecret.mp3",
            "..%252Fsecret.mp3",
            "/etc/passwd",
            "%2Fetc%2Fpasswd",
            ".",
            "",
            "%00",
        ],
    )
    async def test_paths(self, server: Server, secret: Path, path: str):
        await self.assert_closed(server, f"path={path}")

    async def test_the_absolute_path_of_a_file_that_is_there(
        self, server: Server, secret: Path, tmp_path: Path
    ):
        await self.assert_closed(server, f"path={quote(str(secret), safe='')}")
        await link_of(server)
        (song,) = (tmp_path / "audio").iterdir()
        await self.assert_closed(server, f"path={quote(str(song), safe='')}")
        await self.assert_closed(server, f"path={song.name}")

    async def test_a_token_with_one_sign_changed(self, server: Server):
        path = path_in(await link_of(server))
        stem, extension = path.rsplit(".", 1)
        other = "0" if stem[-1] != "0" else "1"
        await self.assert_closed(server, f"path={stem[:-1]}{other}.{extension}")

    async def test_a_link_on_the_disk_that_leads_out(self, server: Server, secret: Path, tmp_path: Path):
        name = f"{'a' * 32}.mp3"
        (tmp_path / "audio" / name).symlink_to(secret)
        await self.assert_closed(server, f"path={server.audio.token(name)}")

    async def test_a_file_that_is_gone(self, server: Server, tmp_path: Path):
        link = await link_of(server)
        (song,) = (tmp_path / "audio").iterdir()
        song.unlink()
        await self.assert_closed(server, link.partition("?")[2])

    async def test_no_path(self, server: Server):
        body = assert_error(await server.client.get("/v1/audio"), 422, "path: ")
        assert body["extra"]["field"] == "path"


class TestKey:
    async def test_the_link_is_enough(self, serve: Serve):
        async with serve(replace(CONFIG, api_key="k")) as server:
            assert (await server.client.get(await link_of(server, key="k"))).status_code == 200

    async def test_unless_the_server_wants_the_key_too(self, serve: Serve):
        async with serve(replace(CONFIG, api_key="k", audio_needs_key=True)) as server:
            link = await link_of(server, key="k")
            assert_error(await server.client.get(link), 401, "Missing Authorization header")
            assert (await server.client.get(link, headers={"x-api-key": "k"})).status_code == 200

    async def test_a_wrong_link_tells_nothing_without_the_key(self, serve: Serve):
        async with serve(replace(CONFIG, api_key="k")) as server:
            assert_error(await server.client.get("/v1/audio?path=x"), 401)
            answer = await server.client.get("/v1/audio?path=x", headers={"Authorization": "k"})
            assert_error(answer, 404)


class TestOtherFormats:
    @pytest.fixture
    def converting(self, server: Server, tmp_path: Path) -> Server:
        def convert(source: Path, audio_format: AudioFormat) -> Path:
            made = tmp_path / f"made.{'m4a' if audio_format == 'aac' else audio_format}"
            made.write_bytes(source.read_bytes() + audio_format.encode())
            return made

        provide(server.app, replace(server.app.state.services, convert=convert))
        return server

    async def test_a_song_is_converted_and_the_new_file_deleted(self, converting: Server, tmp_path: Path):
        link = await link_of(converting)
        for name, kind, suffix in (("flac", "audio/flac", "flac"), ("aac", "audio/mp4", "m4a")):
            answer = await converting.client.get(f"{link}&format={name}")
            assert (answer.status_code, answer.content) == (200, b"0123456789" + name.encode())
            assert answer.headers["content-type"] == kind
            disposition = answer.headers["content-disposition"]
            assert disposition.startswith('attachment; filename="bright-city-pop-120-bpm-')
            assert disposition.endswith(f'.{suffix}"')
        assert not list(tmp_path.glob("made.*"))  # noqa: ASYNC240

    async def test_its_own_format_is_the_file_itself(self, converting: Server):
        answer = await converting.client.get(f"{await link_of(converting)}&format=mp3")
        assert answer.content == b"0123456789"

    async def test_a_format_that_there_is_not(self, converting: Server):
        answer = await converting.client.get(f"{await link_of(converting)}&format=midi")
        body = assert_error(answer, 422, "format: 'midi' cannot be used", "flac")
        assert body["extra"]["field"] == "format"
