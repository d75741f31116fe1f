from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from acestep.files import AudioStore, FileStore


@pytest.fixture
def store(tmp_path: Path) -> AudioStore:
    return AudioStore(tmp_path / "audio", b"s" * 32)


def write(store: AudioStore, content: bytes = b"sound", extension: str = "mp3") -> str:
    with store.new_file(extension) as file:
        file.path.write_bytes(content)
    return file.name


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class TestNewFile:
    def test_appears_under_its_name_only_when_it_is_whole(self, store: AudioStore, tmp_path: Path):
        with store.new_file("flac") as file:
            file.path.write_bytes(b"half")
            assert file.path.suffix == ".flac"
            assert store.path(file.name) is None
            file.path.write_bytes(b"whole")
        path = store.path(file.name)
        assert path is not None
        assert path.read_bytes() == b"whole"
        assert contents(tmp_path / "audio") == {file.name}

    def test_leaves_nothing_behind_when_writing_fails(self, store: AudioStore, tmp_path: Path):
        with pytest.raises(OSError, match="no room"), store.new_file("mp3") as file:
            file.path.write_bytes(b"half")
            raise OSError("no room")
        assert contents(tmp_path / "audio") == set()

    @pytest.mark.parametrize("extension", ["", ".mp3", "../mp3", "MP3", "a/b"])
    def test_refuses_what_is_no_extension(self, store: AudioStore, extension: str):
        with pytest.raises(ValueError, match="no file extension"), store.new_file(extension):
            raise AssertionError


class TestToken:
    def test_opens_the_file_it_was_made_for(self, store: AudioStore):
        first, second = write(store, b"one"), write(store, b"two", "wav")
        for name, content in ((first, b"one"), (second, b"two")):
            path = store.open_token(store.token(name))
            assert path is not None
            assert path.read_bytes() == content

    def test_is_url_safe_and_keeps_stem_and_extension(self, store: AudioStore):
        name = write(store)
        token = store.token(name)
        assert token.isascii()
        assert set(token) <= set("0123456789abcdef-.mp")
        assert token.startswith(name.removesuffix(".mp3") + "-")
        assert token.endswith(".mp3")
        assert len(token) - len(name) - 1 == 32  # 128 bits in hexadecimal digits

    def test_no_character_of_it_can_be_changed(self, store: AudioStore):
        token = store.token(write(store))
        for place, character in enumerate(token):
            other = "0" if character != "0" else "1"
            assert store.open_token(token[:place] + other + token[place + 1 :]) is None

    def test_of_another_file_or_another_server_does_not_fit(self, store: AudioStore, tmp_path: Path):
        first, second = write(store), write(store)
        signature = store.token(first).split("-")[1]
        assert store.open_token(f"{second.removesuffix('.mp3')}-{signature}") is None
        assert store.open_token(AudioStore(tmp_path / "audio", b"t" * 32).token(first)) is None

    @pytest.mark.parametrize(
        "token",
        [
            "",
            "..",
            "../jobs.sqlite3",
            "/etc/passwd",
            "%2e%2e%2fsecret",
            "ünïcödé.mp3",
            "\0",
            "a" * 100_000,
            f"{'a' * 32}-{'b' * 32}.mp3\n",
            f"{'a' * 32}-{'b' * 32}.mp3/../../secret",
        ],
    )
    def test_garbage_opens_nothing(self, store: AudioStore, token: str):
        assert store.open_token(token) is None

    def test_a_bare_name_is_no_token(self, store: AudioStore):
        assert store.open_token(write(store)) is None

    def test_is_made_for_names_of_the_store_alone(self, store: AudioStore):
        with pytest.raises(ValueError, match="no file of the audio store"):
            store.token("../secret")

    def test_of_a_deleted_file_opens_nothing(self, store: AudioStore):
        name = write(store)
        store.delete(name)
        assert store.open_token(store.token(name)) is None

    def test_does_not_follow_a_planted_link_or_open_a_folder(self, store: AudioStore, tmp_path: Path):
        outside = tmp_path / "outside.mp3"
        outside.write_bytes(b"private")
        link, folder = f"{'a' * 32}.mp3", f"{'b' * 32}.mp3"
        (tmp_path / "audio" / link).symlink_to(outside)
        (tmp_path / "audio" / folder).mkdir()
        assert store.open_token(store.token(link)) is None
        assert store.open_token(store.token(folder)) is None

    def test_works_where_the_folder_itself_is_a_link_to_a_larger_disk(self, tmp_path: Path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "audio").symlink_to(tmp_path / "disk")
        store = AudioStore(tmp_path / "audio", b"s" * 32)
        assert store.open_token(store.token(write(store))) is not None


class TestDelete:
    def test_removes_the_file(self, store: AudioStore, tmp_path: Path):
        store.delete(write(store))
        assert contents(tmp_path / "audio") == set()

    @pytest.mark.parametrize("name", [f"{'a' * 32}.mp3", "../kept", "kept"])
    def test_of_what_is_not_in_the_store_touches_nothing(self, store: AudioStore, tmp_path: Path, name: str):
        (tmp_path / "kept").write_text("")
        (tmp_path / "audio" / "kept").write_text("")
        store.delete(name)
        assert (tmp_path / "kept").exists()
        assert (tmp_path / "audio" / "kept").exists()

    def test_removes_a_partial_file_and_no_link(self, store: AudioStore, tmp_path: Path):
        partial, link = f".partial-{'c' * 32}.wav", f"{'a' * 32}.mp3"
        (tmp_path / "audio" / partial).write_text("half")
        (tmp_path / "outside.mp3").write_text("private")
        (tmp_path / "audio" / link).symlink_to(tmp_path / "outside.mp3")
        for name in (partial, link):
            store.delete(name)
        assert contents(tmp_path / "audio") == {link}
        assert (tmp_path / "outside.mp3").exists()


class TestStale:
    def test_names_old_files_of_the_store_finished_and_partial(self, store: AudioStore, tmp_path: Path):
        audio = tmp_path / "audio"
        old, _ = write(store), write(store)
        partial, notes = f".partial-{'c' * 32}.wav", "notes.txt"
        for name in (partial, notes):
            (audio / name).write_text("")
        for name in (old, partial, notes):
            os.utime(audio / name, (0, time.time() - 7200))
        with store.new_file("mp3") as file:
            file.path.write_bytes(b"being written")
            assert set(store.stale(3600)) == {old, partial}
        assert store.stale(10_000) == []

    def test_passes_over_what_is_deleted_meanwhile(self, store: AudioStore, monkeypatch: pytest.MonkeyPatch):
        gone = f"{'d' * 32}.mp3"
        monkeypatch.setattr(store, "_names", lambda: [gone])
        assert store.stale(0) == []


class TestFoldersThatWereDeleted:
    @pytest.mark.parametrize("kind", [FileStore, AudioStore])
    def test_are_made_anew(self, tmp_path: Path, kind: type[FileStore]):
        root = tmp_path / "data" / "audio"
        store = AudioStore(root, b"s" * 32) if kind is AudioStore else FileStore(root)
        for gone in (root, root.parent):
            shutil.rmtree(gone)
            assert store.stale(0) == []
            with store.new_file("mp3") as new:
                new.path.write_bytes(b"song")
            path = store.path(new.name)
            assert path is not None
            assert path.read_bytes() == b"song"
