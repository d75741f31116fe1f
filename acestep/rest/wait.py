"""Waiting for songs and drafts: to their end, to a time limit, or until the client disconnects."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request

from acestep.domain.draft import Draft, DraftRequest
from acestep.domain.models import PlannerInfo
from acestep.domain.song import Song
from acestep.jobs.model import ENDED, Job, JobView
from acestep.jobs.worker import Cancelled, Worker
from acestep.rest.deps import HttpServices
from acestep.rest.response.jobs import error_of
from acestep.rest.spelling import AudioLinks

# Headers of answers without an envelope; warnings are a JSON list in ASCII.
TASK_ID, SEED, WARNINGS = "X-ACE-Step-Task-Id", "X-ACE-Step-Seed", "X-ACE-Step-Warnings"

JOB_HEADERS = (TASK_ID, SEED, WARNINGS)

JOBS_PATH = "/v1/jobs"

T = TypeVar("T")


def job_path(job_id: str) -> str:
    return f"{JOBS_PATH}/{job_id}"


def job_headers(job_id: str) -> dict[str, str]:
    return {TASK_ID: job_id, "Location": job_path(job_id)}


async def wait_for_songs(request: Request, services: HttpServices, job_id: str) -> Job:
    """Return the job once it has succeeded. The body of `request` must have been read before.

    Raises as `succeeded` does, and 400 when the client disconnects, which also cancels the job.
    """
    seconds = services.config.generation_timeout
    waiting = asyncio.create_task(services.queue.wait(job_id, seconds))
    gone = asyncio.create_task(until_disconnect(request))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            await cancel_unwanted(services, job_id)
            raise HTTPException(400, "The connection ended before the answer")
        return succeeded(waiting.result(), job_id, seconds)
    finally:
        gone.cancel()
        waiting.cancel()


async def cancel_unwanted(services: HttpServices, job_id: str) -> None:
    """Cancel a job whose client has gone, unless it may ask again, or the settings keep the job."""
    if services.config.cancel_on_disconnect and services.call is None:
        await services.queue.cancel(job_id)


def succeeded(view: JobView | None, job_id: str, seconds: float) -> Job:
    """Raises 500 for a job that failed, 503 if cancelled, 504 if it still runs, 404 if it was deleted."""
    # OpenAI's libraries send a request again after a 5xx: that would be another song.
    headers = job_headers(job_id) | {"X-Should-Retry": "false"}
    if view is None:
        raise HTTPException(404, f"Task {job_id} is not known any more", headers)
    if view.job.state not in ENDED:
        raise HTTPException(504, _too_slow(job_id, seconds), headers)
    if view.job.state != "succeeded":
        status = 503 if view.job.state == "cancelled" else 500
        raise HTTPException(status, error_of(view.job) or "", headers)
    return view.job


@dataclass(frozen=True, slots=True)
class Recording:
    """A song with its file, and the link to it."""

    song: Song
    path: Path
    link: str


def recordings_of(job: Job, links: AudioLinks) -> list[Recording]:
    """Return the songs that have files. Raises 404 for a file that was deleted."""
    return [_recording(job, song, links) for song in job.songs if song.file]


def _recording(job: Job, song: Song, links: AudioLinks) -> Recording:
    path = links.store.path(song.file)
    if path is None:
        raise HTTPException(404, "Audio file not found", job_headers(job.id))
    return Recording(song, path, links.to(song.plan.caption, song.file))


def _too_slow(job_id: str, seconds: float) -> str:
    return (
        f"The song was not finished within {seconds:g} s, the limit of this server "
        f"(ACESTEP_GENERATION_TIMEOUT). It continues as task {job_id}: fetch it with GET {job_path(job_id)} "
        "or POST /query_result."
    )


UNWIND_SECONDS = 1.0  # in which an abandoned draft may stop by itself


async def wait_for_draft(request: Request, worker: Worker, asked: DraftRequest, seconds: float) -> Draft:
    """Return the planner's draft; it is stopped after `seconds`, and when the client disconnects.

    Raises as `Worker.draft` does, 504 after `seconds`, and 400 when the client disconnects.
    """

    def too_slow() -> str:
        return _draft_too_slow(seconds, worker.planner(asked.options.model))

    return await wait_for(request, partial(worker.draft, asked), seconds, too_slow)


async def wait_for(
    request: Request,
    work: Callable[[Cancelled], Coroutine[None, None, T]],
    seconds: float,
    too_slow: Callable[[], str],
) -> T:
    """As `wait_for_draft`, for any work."""
    stop = threading.Event()
    answer = asyncio.ensure_future(work(stop.is_set))
    gone = asyncio.create_task(until_disconnect(request))
    try:
        await asyncio.wait({answer, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        if gone.done():
            raise HTTPException(400, "The connection ended before the answer")
        raise HTTPException(504, too_slow())
    finally:
        stop.set()
        gone.cancel()
        await _end(answer)


async def until_disconnect(request: Request) -> None:
    """Return when the client has disconnected. The body must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _end(answer: asyncio.Future[T]) -> None:
    if answer.done():
        return
    answer.add_done_callback(_forget)
    # Its threads see the stop event; cancelling at once would abandon them.
    await asyncio.wait({answer}, timeout=UNWIND_SECONDS)
    answer.cancel()


def _forget(answer: asyncio.Future[T]) -> None:
    if not answer.cancelled():
        answer.exception()


def _draft_too_slow(seconds: float, planner: PlannerInfo) -> str:
    if planner.state != "ready":
        state = f"is still {planner.state}" if planner.is_usable else f"is {planner.state}"
        about = f" ({planner.detail})" if planner.detail else ""
        return f"The planner {state}{about}; no answer within {seconds:g} s. Try again later."
    return (
        f"The planner did not answer within {seconds:g} s, the limit of this server (ACESTEP_LM_TIMEOUT). "
        "Try again later, or ask for less."
    )
