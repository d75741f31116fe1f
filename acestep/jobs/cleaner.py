"""Forgets old jobs and deletes what nobody needs any more."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from acestep.domain.song import SongRequest
from acestep.errors import DataFolderError
from acestep.files import AudioStore, FileStore
from acestep.jobs.store import JobStore

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 600.0
# A file is on the disk a little before its job says so: longer than any job takes, it belongs to nobody.
ORPHAN_SECONDS = 6 * 3600.0
# An upload is on the disk a moment before its job is.
UPLOAD_SECONDS = 3600.0


class Cleaner:
    """Deletes jobs `keep_seconds` after they ended (0: never), with their files, and files without a job.

    `uploads` are what clients sent: they go as soon as their job has ended.
    """

    def __init__(
        self, store: JobStore, files: AudioStore, keep_seconds: float, uploads: FileStore | None = None
    ) -> None:
        self._store = store
        self._files = files
        self._keep_seconds = keep_seconds
        self._uploads = uploads

    async def run(self) -> None:
        """Clean now and every ten minutes, until cancelled."""
        while True:
            try:
                await self.clean()
            except (OSError, DataFolderError):
                log.exception("Cleaning up failed; the next try is in %d s", INTERVAL_SECONDS)
            await asyncio.sleep(INTERVAL_SECONDS)

    async def release(self, request: SongRequest) -> None:
        """Delete what was uploaded for a job that has ended; what lies elsewhere is not ours to delete."""
        for path in (Path(request.task.source), Path(request.task.reference)):
            if self._uploads is not None and self._uploads.owns(path):
                try:
                    await asyncio.to_thread(self._uploads.delete, path.name)
                except OSError:
                    log.exception("%s cannot be deleted; the next cleaning tries again", path)

    async def clean(self) -> None:
        """Delete what has expired, then what belongs to no job."""
        if self._keep_seconds > 0:
            for name in await self._store.expire(time.time() - self._keep_seconds):
                await asyncio.to_thread(self._files.delete, name)
        swept = await asyncio.to_thread(self._files.sweep, ORPHAN_SECONDS, await self._store.files())
        if self._uploads is not None:
            needed = {Path(path).name for path in await self._store.sources()}
            swept += await asyncio.to_thread(self._uploads.sweep, UPLOAD_SECONDS, needed)
        if swept:
            log.info("Deleted %d files that belonged to no job", swept)
