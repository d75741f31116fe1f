from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from acestep.data_folder import DataFolder, load_secret, make_temporary_folder, temporary_folder
from acestep.errors import DataFolderError, DataFolderInUseError


class TestSecret:
    def test_is_made_once_and_readable_by_its_owner_alone(self, tmp_path: Path):
        path = tmp_path / "secret"
        secret = load_secret(path)
        assert len(secret) == 32
        assert load_secret(path) == secret
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["secret"]

    def test_of_who_is_first_counts_for_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def another_is_faster(size: int) -> bytes:
            (tmp_path / "secret").write_bytes(b"1" * size)
            return b"2" * size

        monkeypatch.setattr("secrets.token_bytes", another_is_faster)
        assert load_secret(tmp_path / "secret") == b"1" * 32
        assert [path.name for path in tmp_path.iterdir()] == ["secret"]

    def test_that_is_damaged_says_what_to_do(self, tmp_path: Path):
        (tmp_path / "secret").write_bytes(b"short")
        with pytest.raises(DataFolderError, match=r"holds 5 bytes instead of 32\. Delete it"):
            load_secret(tmp_path / "secret")


class TestDataFolder:
    def test_makes_its_folders(self, tmp_path: Path):
        with DataFolder(tmp_path / "deep" / "data") as folder:
            assert folder.audio.is_dir()
            assert folder.uploads.is_dir()
            assert folder.database == tmp_path / "deep" / "data" / "jobs.sqlite3"
            assert len(load_secret(folder.secret)) == 32

    def test_is_one_owners_at_a_time(self, tmp_path: Path):
        with DataFolder(tmp_path):
            with pytest.raises(DataFolderInUseError) as refused, DataFolder(tmp_path):
                raise AssertionError
            for part in (str(tmp_path), f"process {os.getpid()}", "--workers 1", "ACESTEP_DATA_DIR"):
                assert part in str(refused.value)
        with DataFolder(tmp_path):
            pass

    def test_in_use_is_said_even_before_the_owner_wrote_its_number(self, tmp_path: Path):
        with DataFolder(tmp_path):
            (tmp_path / "lock.pid").unlink()
            with pytest.raises(DataFolderInUseError, match="another process"):
                DataFolder(tmp_path).acquire()

    def test_that_cannot_be_made_says_what_to_set(self, tmp_path: Path):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataFolderError, match=r"file/data cannot be used: .*Set ACESTEP_DATA_DIR"):
            DataFolder(tmp_path / "file" / "data").acquire()


class TestTemporaryFolder:
    def test_python_uses_it(self, tmp_path: Path):
        before = tempfile.gettempdir()
        make_temporary_folder(tmp_path / "a" / "tmp")
        with temporary_folder(tmp_path / "a" / "tmp"), tempfile.NamedTemporaryFile() as file:
            assert Path(file.name).parent == tmp_path / "a" / "tmp"
        assert tempfile.gettempdir() == before

    def test_one_that_cannot_be_made(self, tmp_path: Path):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataFolderError, match="ACESTEP_TMPDIR"):
            make_temporary_folder(tmp_path / "file" / "tmp")
