"""A small server that a test kills. It submits jobs if the folder has none, and runs all to their end.

`python -m tests.jobs.drill FOLDER JOBS [--stay]`; with `--stay` it does not leave when the jobs are done.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from acestep.data_folder import DataFolder, load_secret
from acestep.domain.song import Song, SongRequest
from acestep.errors import DataFolderInUseError
from acestep.files import AudioStore
from acestep.jobs.cleaner import Cleaner
from acestep.jobs.queue import JobQueue
from acestep.jobs.runner import Runner
from acestep.jobs.store import JobStore
from acestep.jobs.worker import Cancelled, OnProgress
from tests.jobs.fakes import FakeWorker, request, write_songs

SECONDS_A_SONG = 0.02


async def main(folder: DataFolder, jobs: int, stay: bool) -> None:
    files = AudioStore(folder.audio, load_secret(folder.secret))

    async def slowly(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
        await asyncio.sleep(SECONDS_A_SONG)
        return write_songs(files, asked)

    store = JobStore(folder.database)
    queue = JobQueue(store)
    runner = Runner(queue, FakeWorker(slowly), Cleaner(store, files, 3600), concurrency=2)
    for number in range((await queue.stats()).total, jobs):
        await queue.submit(request(f"song {number}", songs=1 + number % 2))
    await runner.start()
    while stay or (await queue.stats()).succeeded < jobs:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await runner.stop()
    await store.close()


if __name__ == "__main__":
    try:
        with DataFolder(Path(sys.argv[1])) as owned:
            asyncio.run(main(owned, int(sys.argv[2]), stay="--stay" in sys.argv))
    except DataFolderInUseError as error:
        sys.exit(str(error))
