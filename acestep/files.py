"""The stores of finished and of uploaded audio."""

from __future__ import annotations

import hmac
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from acestep.errors import NoRoomError

# 128 bits of an HMAC-SHA256: beyond guessing, and the token stays short enough for a log line.
SIGNATURE_BYTES = 16

_NAME = re.compile(r"[0-9a-f]{32}\.[a-z0-9]{1,8}")
_TOKEN = re.compile(r"([0-9a-f]{32})-[0-9a-f]{32}\.([a-z0-9]{1,8})")
_PARTIAL = ".partial-"


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is being written: `name` is what it will be called, `path` where to write it now."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class StoredFile:
    size: int  # bytes
    fetched_at: float  # or made


class FileStore:
    """A flat folder of files named `<uuid4 hex>.<extension>`. Safe to use from any thread."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root

    def begin(self, extension: str) -> NewFile:
        """Where to write a new file; it is none of this store until `finish`, or else to be `discard`ed."""
        name = f"{uuid4().hex}.{extension}"
        if not _NAME.fullmatch(name):
            raise ValueError(f"{extension!r} is no file extension: use 1 to 8 of a-z and 0-9, without a dot")
        self._root.mkdir(parents=True, exist_ok=True)  # it may have been deleted while the server runs
        return NewFile(name, self._root / f"{_PARTIAL}{name}")

    def finish(self, new: NewFile) -> Path:
        """Bring what was written onto the disk, whole, under its name; returns where it lies from now on."""
        flush(new.path)
        path = new.path.replace(self._root / new.name)
        flush(self._root)
        return path

    def discard(self, new: NewFile) -> None:
        """Forget a file that was begun; one that is finished stays."""
        new.path.unlink(missing_ok=True)

    @contextmanager
    def new_file(self, extension: str) -> Iterator[NewFile]:
        """Write a file that appears whole or not at all.

        The body of the `with` writes to `path`, which ends with the extension as well; when it leaves
        without an error the file is on the disk under `name`, otherwise nothing of it remains.
        """
        new = self.begin(extension)
        try:
            yield new
            self.finish(new)
        finally:
            self.discard(new)

    def path(self, name: str) -> Path | None:
        """Where the finished file `name` lies; None if this store has no regular file of that name."""
        if not _NAME.fullmatch(name):
            return None
        path = self._root / name
        # A link may lead out of the folder, and this store never makes one.
        return path if path.is_file() and not path.is_symlink() else None

    def owns(self, path: Path) -> bool:
        """Whether `path` is what this store calls one of its files, be it there or not."""
        return path.parent == self._root and _NAME.fullmatch(path.name) is not None

    def delete(self, name: str) -> None:
        path = self._root / name
        if _NAME.fullmatch(name.removeprefix(_PARTIAL)) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)

    def stale(self, seconds: float) -> list[str]:
        """The names of the files, finished and partial, that were last written at least `seconds` ago."""
        newest = time.time() - seconds
        return [name for name in self._names() if self._written(name) < newest]

    def sizes(self) -> dict[str, StoredFile]:
        """The files of this store by name."""
        found: dict[str, StoredFile] = {}
        for name in self._names():
            with suppress(FileNotFoundError):
                stat = (self._root / name).lstat()
                found[name] = StoredFile(stat.st_size, max(stat.st_atime, stat.st_mtime))
        return found

    def note_fetch(self, path: Path) -> None:
        """Keep the time of access, which many disks are set up not to do."""
        with suppress(OSError):
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))

    def check_room(self, reserve: int) -> None:
        """Raise NoRoomError where less than `reserve` bytes are free."""
        free = shutil.disk_usage(self._root.parent).free if reserve else 0
        if free < reserve:
            raise NoRoomError(free, reserve)

    def _names(self) -> list[str]:
        if not self._root.is_dir():
            return []
        names = (path.name for path in self._root.iterdir())
        return [name for name in names if _NAME.fullmatch(name.removeprefix(_PARTIAL))]

    def _written(self, name: str) -> float:
        try:
            return (self._root / name).lstat().st_mtime
        except FileNotFoundError:  # finished or deleted since the folder was listed
            return math.inf


class AudioStore(FileStore):
    """Finished audio files, and the tokens under which they are handed out."""

    def __init__(self, root: Path, secret: bytes) -> None:
        super().__init__(root)
        self._secret = secret

    def token(self, name: str) -> str:
        """The capability that opens `name`: URL-safe, unguessable, shows nothing of the disk."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no file of the audio store")
        stem, extension = name.split(".")
        signature = hmac.digest(self._secret, name.encode(), "sha256")[:SIGNATURE_BYTES]
        return f"{stem}-{signature.hex()}.{extension}"

    def open_token(self, token: str) -> Path | None:
        """The file that `token` was made for; None if it was not made here or the file is gone."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        name = ".".join(match.groups())
        return self.path(name) if hmac.compare_digest(self.token(name), token) else None


def flush(path: Path) -> None:
    # Bring a file, or the names in a folder, onto the disk: a finished job must survive a power cut.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
