"""Audio that a request uploads or names: what is kept, what is refused, and what is said of it."""

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from acestep.errors import InvalidFieldError
from acestep.rest.deps import provide
from acestep.rest.request import sounds
from acestep.rest.request.sounds import permitted
from tests.rest.conftest import BASE, CONFIG, Facts, Serve, Server, assert_error, riff_only

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = replace(CONFIG, body_limit=10_000, upload_limit=50_000)


RIFF = b"RIFF some sound"


async def send(server: Server, files: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = await server.client.post("/release_task", files=files, data=fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()["data"]
    return body


def content(path: str) -> bytes:
    return Path(path).read_bytes()


async def task_of(server: Server, task_id: str) -> Any:
    (view,) = await server.queue.find([task_id])
    assert view is not None
    return view.job.request.task


@pytest.mark.parametrize("source", ["ctx_audio", "src_audio", "audio", "file"])
@pytest.mark.parametrize("reference", ["ref_audio", "reference_audio"])
async def test_both_sounds_arrive_under_each_of_their_names(server: Server, source: str, reference: str):
    files = {source: ("../../Song.WAV", RIFF), reference: ("voice", RIFF + b"!")}
    task = await task_of(server, (await send(server, files, task_type="cover"))["task_id"])
    assert content(task.source) == RIFF
    assert content(task.reference) == RIFF + b"!"
    assert {Path(path).parent for path in (task.source, task.reference)} == {server.uploads}
    assert len(list(server.uploads.iterdir())) == 2
    assert task.source.endswith(".wav")


async def test_what_is_not_used_is_not_kept(server: Server):
    submitted = await send(server, {"src_audio": ("song.wav", RIFF)}, prompt="pop")
    assert submitted["warnings"][0].startswith("src_audio: task_type text2music does not use it; 'song.wav'")
    assert list(server.uploads.iterdir()) == []


async def test_of_two_names_the_first_counts(server: Server):
    files: Any = [("reference_audio", ("second.wav", RIFF + b"2")), ("ref_audio", ("first.wav", RIFF + b"1"))]
    task = await task_of(server, (await send(server, files, prompt="pop"))["task_id"])
    assert content(task.reference) == RIFF + b"1"
    assert len(list(server.uploads.iterdir())) == 1


@pytest.mark.parametrize("fields", [{"bpm": "fast"}, {"task_type": "lego"}, {"dcw_wavelet": "db4"}])
async def test_nothing_remains_of_a_request_that_is_refused(server: Server, fields: dict[str, str]):
    files: Any = {"src_audio": ("song.wav", RIFF), "ref_audio": ("voice.wav", RIFF)}
    assert_error(await server.client.post("/release_task", files=files, data=fields), 422)
    assert list(server.uploads.iterdir()) == []


async def test_nothing_remains_where_the_queue_is_full(serve: Serve):
    async with serve(max_waiting=1) as server:
        await send(server, {"src_audio": ("song.wav", RIFF)}, task_type="cover")
        files: Any = {"src_audio": ("song.wav", RIFF)}
        refused = await server.client.post("/release_task", files=files, data={"task_type": "cover"})
        assert_error(refused, 429)
        assert len(list(server.uploads.iterdir())) == 1


async def test_a_large_upload_is_on_the_disk_and_not_in_memory(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    held: list[bool] = []
    copy = sounds._copy

    def watched(upload: Any, path: Path) -> None:
        held.append(upload.file._rolled)
        copy(upload, path)

    monkeypatch.setattr(sounds, "_copy", watched)
    files = {"src_audio": ("song.wav", b"RIFF" + bytes(3_000_000)), "ref_audio": ("voice.wav", RIFF)}
    await send(server, files, task_type="cover")
    assert sorted(held) == [False, True]  # the small one is


async def test_a_disk_that_is_full_is_the_server_s_trouble(server: Server, monkeypatch: pytest.MonkeyPatch):
    def full(upload: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sounds, "_copy", full)
    files: Any = {"src_audio": ("song.wav", RIFF)}
    assert_error(await server.client.post("/release_task", files=files), 503, "nothing was accepted")
    assert list(server.uploads.iterdir()) == []


async def test_a_window_is_checked_against_the_upload(server: Server):
    files: Any = {"src_audio": ("song.wav", RIFF)}  # the probe of these tests says 20 s
    fields = {"task_type": "repaint", "repainting_start": "25"}
    body = assert_error(await server.client.post("/release_task", files=files, data=fields), 422)
    assert body["extra"] == {
        "field": "repainting_start",
        "value": 25.0,
        "allowed": "at most 20.00, where the source ends",
    }


async def test_a_file_of_this_machine_is_used_where_it_lies(serve: Serve, tmp_path: Path):
    root = tmp_path / "music"
    root.mkdir()
    (root / "song.wav").write_bytes(RIFF)
    (root / "notes.txt").write_text("none")
    async with serve(replace(CONFIG, audio_roots=(root,))) as server:
        request = await server.submitted(
            task_type="cover", src_audio_path="song.wav", ref_audio_path="song.wav"
        )
        assert (request.task.source, request.task.reference) == (str(root / "song.wav"),) * 2
        assert request.task.source_seconds == 20.0
        assert list(server.uploads.iterdir()) == []
        refused = await server.client.post("/release_task", json={"src_audio_path": "notes.txt"})
        assert_error(refused, 415, "src_audio_path: ", "not audio")
        assert (root / "song.wav").exists()


@pytest.mark.parametrize("name", ["reference_audio_path", "src_audio_path"])
@pytest.mark.parametrize("path", ["/etc/passwd", "../x.wav", "x.wav"])
async def test_no_other_file_of_this_machine_is_read(server: Server, name: str, path: str):
    answer = await server.client.post("/release_task", json={name: path, "task_type": "cover"})
    body = assert_error(answer, 422, f"{name}: ", "ACESTEP_AUDIO_ROOTS")
    assert body["extra"]["field"] == name


async def test_base_models_do_all_tasks_in_a_form(server: Server):
    fields = {"task_type": "complete", "model": BASE.name, "track_classes": ["drums", "bass"]}
    submitted = await send(server, {"src_audio": ("song.wav", RIFF)}, **fields)
    assert (await task_of(server, submitted["task_id"])).tracks == ("drums", "bass")


async def finished(server: Server) -> str:
    """Make a song of the server's own; returns its `file`."""
    task_id = await server.release(prompt="pop", batch_size=1)
    await server.finish_next("wav", RIFF)
    (entry,) = await server.query(task_id)
    return str(json.loads(entry["result"])[0]["file"])


@pytest.mark.parametrize("field", ["src_audio_path", "reference_audio_path"])
@pytest.mark.parametrize(
    "spell",
    [
        lambda link: link,
        lambda link: f"https://music.example.org/api{link}",
        lambda link: parse_qs(urlsplit(link).query)["path"][0],
        lambda link: link.rpartition("_")[2],
    ],
    ids=["link", "address", "what the link carries", "token"],
)
async def test_a_song_that_was_made_here_is_named_by_its_link(
    server: Server, field: str, spell: Callable[[str], str]
):
    named = {"src_audio_path": await finished(server), field: spell(await finished(server))}
    task = (await server.submitted(task_type="cover", **named)).task
    path = task.source if field == "src_audio_path" else task.reference
    assert (content(path), Path(path).parent) == (RIFF, server.uploads.parent / "audio")
    assert list(server.uploads.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda link: link[:-5] + ("1" if link[-5] == "0" else "0") + ".wav",
        lambda link: "http://[" + link,
    ],
    ids=["another token", "not an address"],
)
async def test_a_forged_link_opens_nothing(server: Server, change: Callable[[str], str]):
    link = await finished(server)
    body = {"task_type": "cover", "src_audio_path": change(link)}
    refused = assert_error(
        await server.client.post("/release_task", json=body),
        422,
        "src_audio_path: ",
        "the `file` of a song that is still here",
    )
    assert refused["extra"]["field"] == "src_audio_path"


async def test_a_workstation_that_uploads_its_source(server: Server):
    files: Any = {"src_audio": ("take.wav", b"RIFFdata", "audio/wav")}
    answer = await server.client.post("/release_task", files=files, data={"task_type": "cover", "bpm": "90"})
    (view,) = await server.queue.find([answer.json()["data"]["task_id"]])
    assert view is not None
    request = view.job.request
    assert (request.task_type, request.bpm) == ("cover", 90)
    assert request.task.source == str(next(server.uploads.iterdir()))


class TestPaths:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "music"
        (root / "albums").mkdir(parents=True)
        (root / "albums" / "song.wav").write_bytes(b"RIFF")
        (tmp_path / "secret.wav").write_bytes(b"RIFF")
        return root

    @pytest.mark.parametrize(
        "named", ["albums/song.wav", "{root}/albums/song.wav", "./albums/../albums/song.wav"]
    )
    def test_a_file_in_a_root(self, root: Path, named: str):
        found = permitted("src_audio_path", named.format(root=root), [root.parent / "empty", root])
        assert found == root / "albums" / "song.wav"

    @pytest.mark.parametrize(
        "named",
        [
            "../secret.wav",
            "{root}/../secret.wav",
            "/etc/passwd",
            "albums",
            "nothing.wav",
            "a\0b",
            "x" * 999,
            "link",
        ],
    )
    def test_whatever_else(self, root: Path, named: str):
        (root / "link").symlink_to(root.parent / "secret.wav")
        with pytest.raises(InvalidFieldError, match="ACESTEP_AUDIO_ROOTS") as refused:
            permitted("src_audio_path", named.format(root=root), [root])
        assert refused.value.field == "src_audio_path"

    def test_a_root_that_is_a_link_itself(self, root: Path):
        (root.parent / "alias").symlink_to(root)
        permitted("src_audio_path", "albums/song.wav", [root.parent / "alias"])

    def test_no_root_no_path(self):
        with pytest.raises(InvalidFieldError, match="set ACESTEP_AUDIO_ROOTS"):
            permitted("reference_audio_path", "song.wav", ())


@pytest.mark.parametrize("field", ["src_audio_path", "reference_audio_path"])
async def test_a_song_that_is_deleted_while_a_request_is_read_is_refused(server: Server, field: str):
    named = {"src_audio_path": await finished(server), field: await finished(server)}
    name = named[field].rpartition("_")[2].partition("-")[0]

    def deleting(path: Path) -> Facts:
        facts = riff_only(path)
        if path.name.startswith(name):
            server.audio.delete(path.name)
        return facts

    provide(server.app, replace(server.app.state.services, probe=deleting))
    refused = await server.client.post("/release_task", json={"task_type": "cover", **named})
    body = assert_error(refused, 422, f"{field}: '{name}.wav' cannot be used", "deleted while the request")
    assert body["extra"]["field"] == field
    assert (await server.queue.stats()).queued == 0


async def test_an_upload_stays_where_a_request_becomes_a_job_though_it_is_cancelled(server: Server):
    begun, go_on = threading.Event(), threading.Event()

    def clock() -> float:
        begun.set()
        assert go_on.wait(20)
        return 1_700_000_000.0

    server.queue._store._clock = clock
    asking = asyncio.create_task(send(server, {"src_audio": ("song.wav", RIFF)}, task_type="cover"))
    assert await asyncio.to_thread(begun.wait, 20)
    asking.cancel()
    await asyncio.wait([asking])
    go_on.set()
    job = await server.queue.take()
    assert content(job.request.task.source) == RIFF


def damaged(path: Path) -> Facts:
    return Facts(warnings=(f"{path.name} is damaged: 5.00 of 6.00 s can be read",))


@pytest.mark.parametrize("kind", ["src_audio", "reference_audio"])
async def test_what_an_upload_lacks_is_said_by_its_name(serve: Serve, kind: str):
    said = f"{kind}: my song.wav is damaged: 5.00 of 6.00 s can be read"
    files: Any = {kind: ("my song.wav", RIFF), "src_audio": ("my song.wav", RIFF)}
    async with serve() as server:
        provide(server.app, replace(server.app.state.services, probe=damaged))
        answer = await send(server, files, task_type="cover")
        assert said in answer["warnings"]
        (view,) = await server.queue.find([answer["task_id"]])
        assert view is not None and said in view.job.request.warnings


async def test_nothing_is_said_of_an_upload_that_is_not_used(serve: Serve):
    async with serve() as server:
        provide(server.app, replace(server.app.state.services, probe=damaged))
        answer = await send(server, {"src_audio": ("song.wav", RIFF)}, task_type="text2music")
        assert not [warning for warning in answer["warnings"] if "damaged" in warning]


async def test_a_file_of_this_machine_is_told_of_as_well(serve: Serve, tmp_path: Path):
    (tmp_path / "song.wav").write_bytes(RIFF)
    async with serve(replace(CONFIG, audio_roots=(tmp_path,))) as server:
        provide(server.app, replace(server.app.state.services, probe=damaged))
        request = await server.submitted(task_type="cover", src_audio_path="song.wav")
        assert "src_audio_path: song.wav is damaged: 5.00 of 6.00 s can be read" in request.warnings


async def test_a_strict_server_refuses_what_is_damaged(serve: Serve):
    async with serve(replace(CONFIG, strict=True)) as server:
        provide(server.app, replace(server.app.state.services, probe=damaged))
        files: Any = {"src_audio": ("song.wav", RIFF)}
        refused = await server.client.post("/release_task", files=files, data={"task_type": "cover"})
        assert_error(refused, 422, "song.wav is damaged")
        assert list(server.uploads.iterdir()) == []
