"""How long an answer that holds songs is waited for: to their end, a time limit, or the client's leaving.

Owns what a client is told where there are no songs in the end. The job itself goes on in every case. Knows
nothing of what answers look like.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request

from acestep.domain import Song
from acestep.files import AudioStore
from acestep.http.deps import HttpServices
from acestep.http.patience import until_disconnect
from acestep.http.wire import error_of
from acestep.jobs.model import Job, JobView

# How answers that are no envelope tell of their job; warnings are a JSON list, in ASCII as headers must be.
TASK_ID, SEED, WARNINGS = "X-ACE-Step-Task-Id", "X-ACE-Step-Seed", "X-ACE-Step-Warnings"
JOB_HEADERS = (TASK_ID, SEED, WARNINGS)
JOBS_PATH = "/v1/jobs"


def job_path(job_id: str) -> str:
    """Return where a job can be asked after."""
    return f"{JOBS_PATH}/{job_id}"


def job_headers(job_id: str) -> dict[str, str]:
    """Return the headers that name a job, for answers that come before or without its songs."""
    return {TASK_ID: job_id, "Location": job_path(job_id)}


async def wait_for_songs(request: Request, services: HttpServices, job_id: str) -> Job:
    """Return the job once it has succeeded; the body of `request` must have been read.

    Raises as `succeeded` does, and 400 (which nobody reads) when the client leaves.
    """
    seconds = services.config.generation_timeout
    waiting = asyncio.create_task(services.queue.wait(job_id, seconds))
    gone = asyncio.create_task(until_disconnect(request))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise HTTPException(400, "The connection ended before the answer")
        return succeeded(waiting.result(), job_id, seconds)
    finally:
        gone.cancel()
        waiting.cancel()


def succeeded(view: JobView | None, job_id: str, seconds: float) -> Job:
    """Return the job that was waited for.

    Raises 500 with its own sentence if it failed, 503 if it was cancelled, 504 if it is not finished after
    `seconds`, and 404 if it is not known any more.
    """
    headers = job_headers(job_id)
    if view is None:
        raise HTTPException(404, f"Task {job_id} is not known any more", headers)
    if not view.job.has_ended:
        raise HTTPException(504, _too_slow(job_id, seconds), headers)
    if view.job.state != "succeeded":
        status = 503 if view.job.state == "cancelled" else 500
        raise HTTPException(status, error_of(view.job) or "", headers)
    return view.job


@dataclass(frozen=True, slots=True)
class Recording:
    """A song that can be heard: its file, and the token that opens it."""

    song: Song
    path: Path
    token: str


def recordings_of(job: Job, audio: AudioStore) -> list[Recording]:
    """Return the songs of a job with their files; what ended in a plan has none.

    Raises 404 for a file that has been deleted since.
    """
    return [_recording(job, song, audio) for song in job.songs if song.file]


def _recording(job: Job, song: Song, audio: AudioStore) -> Recording:
    path = audio.path(song.file)
    if path is None:
        raise HTTPException(404, "Audio file not found", job_headers(job.id))
    return Recording(song, path, audio.token(song.file))


def _too_slow(job_id: str, seconds: float) -> str:
    return (
        f"The song was not finished within {seconds:g} s, the limit of this server "
        f"(ACESTEP_GENERATION_TIMEOUT). It goes on as task {job_id}: ask for it with GET {job_path(job_id)} "
        "or POST /query_result."
    )
