"""Deletes old jobs, and files that no job needs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Set
from functools import partial
from pathlib import Path

from acestep.domain.song import SongRequest
from acestep.errors import DataFolderError
from acestep.files import AudioStore, FileStore
from acestep.jobs.expiry import oldest_start, remove_least_fetched
from acestep.jobs.store import JobStore

log = logging.getLogger(__name__)

SWEEP_SECONDS = 600.0  # between two looks for files that belong to no job
LATE_SECONDS = 60.0  # that a job may be kept too long, and at most a tenth of its time
ORPHAN_SECONDS = 6 * 3600.0  # a song is on the disk before its job has ended
UPLOAD_SECONDS = 3600.0  # an upload is on the disk before its job is


class Cleaner:
    """Deletes jobs and their songs `keep_seconds` after the job ended, and those least recently fetched
    where all have more than `keep_bytes` (0: never).
    """

    def __init__(
        self,
        store: JobStore,
        files: AudioStore,
        keep_seconds: float,
        uploads: FileStore | None = None,
        keep_bytes: int = 0,
    ) -> None:
        self._store = store
        self._files = files
        self._keep_seconds = keep_seconds
        self._uploads = uploads
        self._keep_bytes = keep_bytes

    @property
    def interval(self) -> float:
        """Seconds between two looks for jobs that have expired."""
        most = LATE_SECONDS if self._keep_bytes else SWEEP_SECONDS
        return min(LATE_SECONDS, self._keep_seconds / 10) if self._keep_seconds > 0 else most

    async def run(self) -> None:
        while True:
            await self.clean()
            until = time.monotonic() + SWEEP_SECONDS
            while time.monotonic() < until:
                await asyncio.sleep(self.interval)
                await self.expire()
                await self.make_room()

    async def release(self, request: SongRequest) -> None:
        """Delete the uploads of a job that has ended."""
        uploads = self._uploads
        for path in {Path(request.task.source), Path(request.task.reference)}:
            if uploads is not None and uploads.owns(path):
                try:
                    await self._store.delete_unneeded(path.name, partial(_delete, uploads))
                except DataFolderError as error:
                    log.error("%s is kept until the next cleaning. %s", path, error)

    async def expire(self) -> None:
        if self._keep_seconds > 0:
            before = time.time() - self._keep_seconds
            while await self._store.expire(before, partial(_delete, self._files)):
                pass

    async def make_room(self) -> None:
        if self._keep_bytes <= 0:
            return
        files = await asyncio.to_thread(self._files.sizes)
        excess = sum(file.size for file in files.values()) - self._keep_bytes
        if excess > 0:
            choose = partial(remove_least_fetched, files=files, excess=excess)
            if removed := await self._store.remove(choose, partial(_delete, self._files)):
                log.info("Deleted %d jobs with their songs to keep within ACESTEP_KEEP_GB", removed)

    async def clean(self) -> None:
        await self.expire()
        # The songs of a running job are in its row only when it has ended.
        started = await self._store.call(oldest_start)
        age = ORPHAN_SECONDS if started is None else max(ORPHAN_SECONDS, time.time() - started)
        swept = await self._sweep(self._files, age, await self._store.files())
        if self._uploads is not None:
            swept += await self._sweep(self._uploads, UPLOAD_SECONDS)
        if swept:
            log.info("Deleted %d files that belonged to no job", swept)

    async def _sweep(self, files: FileStore, seconds: float, owned: Set[str] = frozenset()) -> int:
        stale = [name for name in await asyncio.to_thread(files.stale, seconds) if name not in owned]
        return sum([await self._store.delete_unneeded(name, partial(_delete, files)) for name in stale])


def _delete(files: FileStore, name: str) -> None:
    try:
        files.delete(name)
    except OSError:
        log.exception("%s cannot be deleted; the next cleaning tries again", name)
