"""How long an answer that holds songs is waited for: to their end, a time limit, or the client's leaving.

The job itself goes on in every case.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request

from acestep.domain.models import PlannerInfo
from acestep.domain.song import Draft, DraftRequest, Song
from acestep.files import AudioStore
from acestep.jobs.model import Job, JobView
from acestep.jobs.worker import Worker
from acestep.rest.deps import HttpServices
from acestep.rest.response.jobs import error_of

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


UNWIND_SECONDS = 1.0  # how long a draft that nobody waits for any more may take to stop


async def wait_for_draft(request: Request, worker: Worker, asked: DraftRequest, seconds: float) -> Draft:
    """Return the planner's draft. It is stopped where it takes longer than `seconds`, or the client leaves.

    Raises what `Worker.draft` does, 504 after the time limit, and 400 (which nobody reads) without a client.
    """
    stop = threading.Event()
    draft = asyncio.ensure_future(worker.draft(asked, stop.is_set))
    gone = asyncio.create_task(until_disconnect(request))
    try:
        await asyncio.wait({draft, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if draft.done():
            return draft.result()
        if gone.done():
            raise HTTPException(400, "The connection ended before the answer")
        raise HTTPException(504, _draft_too_slow(seconds, worker.planner(asked.options.model)))
    finally:
        stop.set()
        gone.cancel()
        await _end(draft)


async def until_disconnect(request: Request) -> None:
    """Return when the client has left; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _end(draft: asyncio.Future[Draft]) -> None:
    """Let a draft stop by itself, since it may have threads at work; then cancel it."""
    if draft.done():
        return
    draft.add_done_callback(_forget)
    await asyncio.wait({draft}, timeout=UNWIND_SECONDS)
    draft.cancel()


def _forget(draft: asyncio.Future[Draft]) -> None:
    if not draft.cancelled():
        draft.exception()


def _draft_too_slow(seconds: float, planner: PlannerInfo) -> str:
    if planner.state != "ready":
        state = f"is {planner.state} still" if planner.is_usable else f"is {planner.state}"
        about = f" ({planner.detail})" if planner.detail else ""
        return f"The planner {state}{about}; no answer within {seconds:g} s. Ask again later."
    return (
        f"The planner did not answer within {seconds:g} s, the limit of this server (ACESTEP_LM_TIMEOUT). "
        "Ask again later, or for less."
    )
