"""A worker that makes files instead of music, and short forms of what tests often do."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from acestep.domain.draft import Draft, DraftRequest, Metadata
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import Progress, Sampling, Song, SongPlan, SongRequest, TaskOptions
from acestep.files import AudioStore
from acestep.jobs.model import Job, JobView
from acestep.jobs.store import JobStore
from acestep.jobs.worker import Cancelled, OnProgress

Run = Callable[[SongRequest, OnProgress, Cancelled], Awaitable[tuple[Song, ...]]]


def request(caption: str = "a song", songs: int = 1) -> SongRequest:
    return SongRequest(caption=caption, batch_size=songs, seeds=tuple(range(songs)))


def with_audio(source: Path, reference: Path | None = None) -> SongRequest:
    return replace(request(), task=TaskOptions(source=str(source), reference=str(reference or "")))


def song(file: str, caption: str = "a song", seed: int = 0) -> Song:
    plan = SongPlan(caption, "la la", "en", 30.0, seed, "Fill", Sampling(8, 1.0, 3.0), bpm=120)
    return Song(file, plan, "mp3", "nano", timings={"render": 0.5}, warnings=("short",))


def write_songs(files: AudioStore, asked: SongRequest) -> tuple[Song, ...]:
    """One file a seed, holding the caption and the seed."""
    songs = []
    for seed in asked.seeds:
        with files.new_file("mp3") as file:
            file.path.write_text(f"{asked.caption} {seed}")
        songs.append(song(file.name, asked.caption, seed))
    return tuple(songs)


async def submit(store: JobStore, caption: str = "a song") -> str:
    receipt = await store.submit(request(caption), max_waiting=0)
    assert receipt is not None
    return receipt.job_id


async def view(store: JobStore, job_id: str) -> JobView:
    (found,) = await store.find([job_id])
    assert found is not None
    return found


async def job(store: JobStore, job_id: str) -> Job:
    return (await view(store, job_id)).job


async def claim(store: JobStore) -> Job:
    claimed = await store.claim()
    assert claimed is not None
    return claimed.job


def edit(path: Path, statement: str, *values: object) -> None:
    """Change the database as another version or a broken disk would."""
    database = sqlite3.connect(path)
    with database:
        database.execute(statement, values)
    database.close()


class FakeWorker:
    """Does what `run` says. `waits` is set while a call waits for it to be `ready`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.ready = asyncio.Event()
        self.ready.set()
        self.waits = asyncio.Event()
        self.begun: list[str] = []
        self.at_work = 0
        self.most_at_work = 0

    def models(self) -> tuple[ModelInfo, ...]:
        return ()

    def planner(self, name: str = "") -> PlannerInfo:
        return PlannerInfo()

    def planners(self) -> tuple[PlannerInfo, ...]:
        return (PlannerInfo(),)

    async def draft(self, request: DraftRequest, cancelled: Callable[[], bool]) -> Draft:
        return Draft(Metadata(caption=request.caption), request.lyrics)

    async def wait_ready(self) -> None:
        if not self.ready.is_set():
            self.waits.set()
            await self.ready.wait()
            self.waits.clear()

    def trouble(self) -> str:
        return "" if self.ready.is_set() else "It is not ready."

    async def run(
        self, request: SongRequest, on_progress: OnProgress, cancelled: Cancelled
    ) -> tuple[Song, ...]:
        self.begun.append(request.caption)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            on_progress(Progress(0.25, "render", "half way there"))
            return await self._run(request, on_progress, cancelled)
        finally:
            self.at_work -= 1
