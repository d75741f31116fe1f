"""The data folder: its layout, its lock, its secret, and the stores of finished and of uploaded audio."""

from __future__ import annotations

import hmac
import math
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from filelock import FileLock, Timeout

from acestep.errors import DataFolderError, DataFolderInUseError

SECRET_BYTES = 32
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
        _flush(new.path)
        path = new.path.replace(self._root / new.name)
        _flush(self._root)
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


class DataFolder:
    """The folder that one server process owns, and the lock that says so.

    Use it as a context manager for the life of the process. The lock belongs to the process, not to the
    file: it is gone when the process is, however it ended.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # Not thread-local: the server may be stopped on another thread than it was started on.
        self._lock = FileLock(root / "lock", timeout=0, thread_local=False)

    @property
    def audio(self) -> Path:
        return self.root / "audio"

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def database(self) -> Path:
        return self.root / "jobs.sqlite3"

    @property
    def secret(self) -> Path:
        return self.root / "secret"

    @property
    def _pid_file(self) -> Path:
        return self.root / "lock.pid"

    def acquire(self) -> None:
        """Make the folder and take its lock.

        Raises `DataFolderInUseError` if another process holds it and `DataFolderError` if the folder
        cannot be made or written.
        """
        try:
            for folder in (self.audio, self.uploads):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._pid_file.write_text(f"{os.getpid()}\n")
        except Timeout:
            raise DataFolderInUseError(self._in_use()) from None
        except OSError as error:
            self._lock.release()
            raise DataFolderError(
                f"The data folder {self.root} cannot be used: {error.strerror or error}. "
                "Set ACESTEP_DATA_DIR to a folder that this user may write to."
            ) from error

    def release(self) -> None:
        self._pid_file.unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> DataFolder:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def holder(self) -> str:
        """Which process holds the lock; "" if none does."""
        try:
            self._lock.acquire()
        except Timeout:
            return self._process()
        self._lock.release()
        return ""

    @property
    def holder_pid(self) -> int | None:
        """What the holder has written; None while it is between taking the lock and writing it."""
        try:
            return int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None

    def _process(self) -> str:
        pid = self.holder_pid
        return f"process {pid}" if pid else "another process"

    def _in_use(self) -> str:
        return (
            f"The data folder {self.root} is in use by {self._process()}. The server owns its queue and "
            "therefore runs as one process (--workers 1). Stop the other one first, or give this one a "
            "folder of its own with ACESTEP_DATA_DIR."
        )


def make_temporary_folder(path: Path) -> None:
    """Raises `DataFolderError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataFolderError(
            f"The folder of temporary files {path} cannot be used: {error.strerror or error}. "
            "Set ACESTEP_TMPDIR to a folder that this user may write to."
        ) from error


@contextmanager
def temporary_folder(path: Path) -> Iterator[None]:
    """Let Python put its temporary files there, uploads that are being read among them."""
    before, tempfile.tempdir = tempfile.tempdir, str(path)
    try:
        yield
    finally:
        tempfile.tempdir = before


def load_secret(path: Path) -> bytes:
    """The 32 secret bytes in `path`, readable by their owner alone; made if there are none.

    Concurrent calls get the same ones. Raises `DataFolderError` if the file is damaged.
    """
    if not path.exists():
        _create_secret(path)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise DataFolderError(
            f"{path} holds {len(secret)} bytes instead of {SECRET_BYTES}. Delete it: the next start makes "
            "a new one, and links to audio that were given out before stop working."
        )
    return secret


def _create_secret(path: Path) -> None:
    # mkstemp makes the file for its owner alone; a link, unlike a rename, never replaces another's secret.
    descriptor, name = tempfile.mkstemp(prefix=".secret-", dir=path.parent)
    new = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
        _flush(new)
        with suppress(FileExistsError):
            path.hardlink_to(new)
        _flush(path.parent)
    finally:
        new.unlink()


def _flush(path: Path) -> None:
    # Bring a file, or the names in a folder, onto the disk: a finished job must survive a power cut.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
