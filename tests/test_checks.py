from __future__ import annotations

import os
from pathlib import Path

import pytest

from acestep.checks import check_data, checks
from acestep.data_folder import DataFolder
from acestep.errors import DataFolderError
from acestep.jobs.store import JobStore
from tests.jobs.fakes import submit
from tests.jobs.outages import overwrite


@pytest.fixture
async def folder(tmp_path: Path) -> DataFolder:
    """A data folder after a server with two jobs and a song."""
    folder = DataFolder(tmp_path / "data")
    with folder:
        check_data(folder)
        store = JobStore(folder.database)
        for _ in range(2):
            await submit(store, "la " * 10_000)
        await store.close()
        (folder.audio / f"{'a' * 32}.mp3").write_bytes(bytes(100_000))
    return folder


def found(folder: DataFolder) -> dict[str, str]:
    return {check.what: check.found for check in checks(folder)}


def bad(folder: DataFolder) -> dict[str, str]:
    return {check.what: check.found for check in checks(folder) if not check.is_good}


def test_a_folder_that_is_well(folder: DataFolder) -> None:
    before = sorted(folder.root.iterdir())
    lines = found(folder)
    assert lines.pop("data folder").startswith(f"{folder.root}, ")
    assert lines == {
        "songs": "1 files, 0.1 MB",
        "key of audio links": "readable",
        "job database": "2 jobs, whole",
    }
    assert (bad(folder), sorted(folder.root.iterdir())) == ({}, before)


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "none" / "data")
    assert "which the first start makes; " in found(folder)["data folder"]
    assert bad(folder) == {} and not (tmp_path / "none").exists()


def test_a_server_at_work_is_named(folder: DataFolder) -> None:
    with DataFolder(folder.root):
        assert found(folder)["data folder"].endswith(f"; in use by process {os.getpid()}")
        assert bad(folder) == {}


def test_what_is_bad_is_said_and_stops_a_start(folder: DataFolder) -> None:
    overwrite(folder.database)
    folder.secret.write_bytes(b"short")
    assert set(bad(folder)) == {"key of audio links", "job database"}
    with pytest.raises(DataFolderError, match="holds 5 bytes instead of 32"):
        check_data(folder)
    folder.secret.unlink()
    with pytest.raises(DataFolderError, match="is damaged"):
        check_data(folder)


def test_folders_in_the_place_of_files_are_said(folder: DataFolder) -> None:
    folder.secret.unlink()
    folder.secret.mkdir()
    with pytest.raises(
        DataFolderError, match=f"{folder.secret} cannot be read: Is a directory. Let this user"
    ):
        check_data(folder)
    assert list(bad(folder)) == ["key of audio links"]


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    assert "is no folder that this user may write to" in bad(DataFolder(tmp_path / "data"))["data folder"]
