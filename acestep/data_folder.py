"""The data folder: its layout, its lock, its secret; and the folder of temporary files."""

from __future__ import annotations

import base64
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from acestep.errors import DataFolderError, DataFolderInUseError
from acestep.files import flush

log = logging.getLogger(__name__)

SECRET_BYTES = 32


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


def webhook_secret(folder: DataFolder) -> str:
    """The secret that signs webhooks, in the form of Standard Webhooks; the log shows one that is made."""
    path = folder.root / "webhook_secret"
    is_new = not path.exists()
    secret = f"whsec_{base64.b64encode(load_secret(path)).decode()}"
    if is_new:
        log.info("Webhooks are signed with the new secret %s (kept in %s)", secret, path)
    return secret


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
        flush(new)
        with suppress(FileExistsError):
            path.hardlink_to(new)
        flush(path.parent)
    finally:
        new.unlink()
