"""Links to songs: what they hold, and the forms in which they come back."""

import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

from acestep.files import AudioStore
from acestep.rest.spelling import AudioLinks
from tests.rest.conftest import CONFIG, Serve, Server, assert_error

SOUND = b"RIFF456789"
READABLE = ["/", "/health", "/v1/models", "/v1/models/x", "/v1/stats", "/api/v1/models", "/docs"]
CAPTIONS = ["Calm piano", "静かなピアノ", "♪"]


async def song(server: Server, caption: str) -> str:
    """Make a song and return its link."""
    task = await server.release(prompt=caption, batch_size=1)
    await server.finish_next(content=SOUND)
    (entry,) = await server.query(task)
    return str(json.loads(entry["result"])[0]["file"])


def path_in(link: str) -> str:
    return parse_qs(urlsplit(link).query)["path"][0]


class TestOpening:
    @pytest.mark.parametrize("caption", CAPTIONS)
    async def test_a_link_as_the_path(self, server: Server, caption: str):
        link = await song(server, caption)
        for path in (
            link,
            f"http://localhost:8001{link}",
            f"/api{link}",
            f"/music{link}",
            quote(link, safe=""),
            f"/v1/audio?path={quote(link, safe='')}",
            path_in(link),
        ):
            answer = await server.client.get("/v1/audio", params={"path": path})
            assert (answer.status_code, answer.content) == (200, SOUND), path

    @pytest.mark.parametrize("caption", CAPTIONS)
    async def test_as_the_source_of_a_song(self, server: Server, caption: str):
        link = await song(server, caption)
        source = (await server.submitted(task_type="cover", src_audio_path=link)).task.source
        assert server.audio.owns(Path(source))

    @pytest.mark.parametrize(
        "path", ["/v1/audio?path=", "/v1/audio?path=/etc/passwd", "http://[", "?path=?path=x", "%"]
    )
    async def test_what_opens_nothing(self, server: Server, path: str):
        assert_error(await server.client.get("/v1/audio", params={"path": path}), 404)

    async def test_links_without_end(self, server: Server):
        path = "x"
        for _ in range(50):
            path = f"/v1/audio?path={path}"
        assert_error(await server.client.get("/v1/audio", params={"path": path}), 404)


class TestPaths:
    """ACESTEP_AUDIO_LINKS=path"""

    @pytest.mark.parametrize("key", ["", "k"])
    async def test_the_file_itself(self, serve: Serve, key: str):
        async with serve(replace(CONFIG, audio_links="path", api_key=key)) as server:
            server.client.headers["Authorization"] = f"Bearer {key}"
            link = await song(server, "静かなピアノ")
            assert server.audio.owns(Path(path_in(link)))
            for each in (link, f"/v1/audio?path={quote(link, safe='')}", f"/v1/audio?path={path_in(link)}"):
                assert (await server.client.get(each)).content == SOUND
            source = (await server.submitted(task_type="cover", src_audio_path=path_in(link))).task.source
            assert source == path_in(link)

    async def test_nothing_else(self, serve: Serve, tmp_path: Path):
        async with serve(replace(CONFIG, audio_links="path")) as server:
            path = Path(path_in(await song(server, "Calm")))
            outside = tmp_path / path.name
            outside.write_bytes(b"secret")
            link = path.parent / f"{'0' * 32}.mp3"
            link.symlink_to(outside)
            for each in (
                outside,
                path.parent / ".." / path.name,
                link,
                path.parent,
                path.parent / "x",
                "/etc/passwd",
            ):
                answer = await server.client.get("/v1/audio", params={"path": str(each)})
                assert_error(answer, 404)

    async def test_tokens_stay_good_and_paths_do_not_work_without_the_setting(self, server: Server):
        link = await song(server, "Calm")
        path = next(server.audio._root.glob("*.mp3"))
        assert_error(await server.client.get("/v1/audio", params={"path": str(path)}), 404)
        by_path = AudioLinks(server.audio, "path")
        assert by_path.open(path_in(link)) == ("calm", path)

    def test_a_file_that_is_gone_has_a_token(self, tmp_path: Path):
        store = AudioStore(tmp_path, b"s" * 32)
        assert "-" in AudioLinks(store, "path").to("Calm", f"{'0' * 32}.mp3").partition("_")[2]


class TestTemporaryFiles:
    @pytest.mark.parametrize(
        ("address", "named", "status"),
        [
            ("127.0.0.1", "take.wav", 422),  # relative
            ("127.0.0.1", "{root}/take.wav", 200),
            ("127.0.0.1", "{root}/sub/../take.wav", 200),
            ("127.0.0.1", "{root}/link.wav", 422),
            ("127.0.0.1", "/etc/passwd", 422),
            ("127.0.0.1", "{root}/../out.wav", 422),
            ("192.168.1.5", "{root}/take.wav", 422),
        ],
    )
    async def test_absolute_and_from_here(
        self, serve: Serve, tmp_path: Path, address: str, named: str, status: int
    ):
        root = tmp_path / "system"
        (root / "sub").mkdir(parents=True)
        for path in (root / "take.wav", tmp_path / "out.wav"):
            path.write_bytes(b"RIFF")
        (root / "link.wav").symlink_to(tmp_path / "out.wav")
        async with serve(replace(CONFIG, local_roots=(root,))) as server:
            transport = httpx.ASGITransport(app=server.app)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{address}") as client:
                body = {"task_type": "cover", "src_audio_path": named.format(root=root)}
                assert (await client.post("/release_task", json=body)).status_code == status


class TestRootPath:
    @pytest.mark.parametrize("strips", [True, False])
    async def test_links_begin_with_it(self, serve: Serve, strips: bool):
        """A proxy may take the prefix away or pass it on."""
        async with serve(replace(CONFIG, root_path="/music")) as server:

            async def get(path: str) -> httpx.Response:
                assert path.startswith("/music/")
                return await server.client.get(path.removeprefix("/music") if strips else path)

            path = "/v1/audio/generations" if strips else "/music/v1/audio/generations"
            job = await server.client.post(path, json={"prompt": "静か", "async": True})
            await server.finish_next(content=SOUND)
            (link,) = (await get(job.headers["location"])).json()["result"]["audio_paths"]
            assert link.startswith("/music/v1/audio?path=xn--")
            assert (await get(link)).content == SOUND
            assert "/music/openapi.json" in (await get("/music/docs")).text
            start = (await get("/music/")).json()["data"]
            assert (start["docs"], start["generate"]) == ("/music/docs", "/music/release_task")
            assert (await get("/music/api/v1/models")).json()["object"] == "list"
            assert_error(await get("/music/v1/stats/x"), 404)


class TestValidators:
    async def test_a_file_that_the_client_has(self, server: Server):
        link = await song(server, "Calm piano")
        first = await server.client.get(link)
        tag, date = first.headers["etag"], first.headers["last-modified"]
        for headers in (
            {"If-None-Match": tag},
            {"If-None-Match": f'"x", W/{tag}'},
            {"If-Modified-Since": date},
        ):
            again = await server.client.get(link, headers=headers)
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        for headers in ({"If-None-Match": '"x"'}, {"If-Modified-Since": "Mon, 01 Jan 2024 00:00:00 GMT"}):
            assert (await server.client.get(link, headers=headers)).content == SOUND
        part = await server.client.get(link, headers={"Range": "bytes=2-4", "If-Range": tag})
        assert (part.status_code, part.content) == (206, b"FF4")


class TestHead:
    @pytest.mark.parametrize("path", READABLE)
    async def test_says_what_get_says(self, server: Server, path: str):
        head, get = await server.client.head(path), await server.client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        for name in ("content-type", "content-length"):
            assert head.headers[name] == get.headers[name]

    async def test_changes_nothing(self, server: Server):
        assert (await server.client.head("/release_task")).status_code == 405


class TestPagesWithoutANetwork:
    @pytest.mark.parametrize("page", ["/docs", "/redoc"])
    async def test_all_that_they_load_is_here(self, server: Server, page: str):
        text = (await server.client.get(page)).text
        loaded = [each.split('"')[0] for each in text.replace('href="', 'src="').split('src="')[1:]]
        assert loaded
        for each in loaded:
            assert each.startswith("/static-offline-docs/"), each
            assert (await server.client.get(each)).status_code == 200
