"""Checks of the data folder: before a start, and for `acestep-api --check`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from acestep.data_folder import DataFolder, load_secret
from acestep.errors import AceStepError, DataFolderError
from acestep.jobs.database import check_database


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, and what was found. `is_good`: a start may use it."""

    what: str
    found: str
    is_good: bool = True


def check_data(folder: DataFolder) -> None:
    """Look at what a start reads. Raises DataFolderError that says what to do."""
    _secret(folder.secret)
    check_database(folder.database)


def checks(folder: DataFolder) -> Iterator[Check]:
    """The same, one by one, without changing anything."""
    yield _checked("data folder", lambda: _folder(folder))
    yield _checked("songs", lambda: _songs(folder.audio))
    yield _checked("key of audio links", lambda: _key(folder.secret))
    yield _checked("job database", lambda: _jobs(folder.database))


def _checked(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, look())
    except AceStepError as error:
        return Check(what, str(error), is_good=False)
    except OSError as error:
        return Check(what, f"{error.filename} cannot be read: {error.strerror}.", is_good=False)


def _folder(folder: DataFolder) -> str:
    root = folder.root
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise DataFolderError(
            f"{existing} is no folder that this user may write to. Set ACESTEP_DATA_DIR to another one."
        )
    free = f"{shutil.disk_usage(existing).free / 1e9:.1f} GB free"
    if existing != root:
        return f"{root}, which the first start makes; {free}"
    holder = folder.holder()
    return f"{root}, {free}" + (f"; in use by {holder}" if holder else "")


def _songs(audio: Path) -> str:
    if not audio.exists():
        return "none yet"
    sizes = [path.stat().st_size for path in audio.iterdir() if path.is_file()]
    return f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"


def _key(path: Path) -> str:
    if not path.exists():
        return "none yet"
    _secret(path)
    return "readable"


def _secret(path: Path) -> None:
    try:
        load_secret(path)
    except OSError as error:
        raise DataFolderError(
            f"{path} cannot be read: {error.strerror}. Let this user read it, or move it away: the next "
            "start makes a new one, and links to audio that were given out before stop working."
        ) from error


def _jobs(path: Path) -> str:
    jobs = check_database(path)
    return "none yet" if jobs is None else f"{jobs} jobs, whole"
