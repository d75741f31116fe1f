from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from acestep.domain.song import SongRequest
from acestep.jobs.model import ENDED, JobState, JobView
from acestep.rest.deps import HttpServices, RequestBody, Services, require_key
from acestep.rest.dialects.jobs import JobObject, SubmittedJob, job_object, submitted_job
from acestep.rest.envelope import Envelope
from acestep.rest.job_events import job_events
from acestep.rest.openapi import body_of
from acestep.rest.prefer import waited_for
from acestep.rest.request.schemas import CancelTask, read_cancel
from acestep.rest.response.jobs import UNKNOWN_TASK, query_entry
from acestep.rest.response.schemas import QueryEntry
from acestep.rest.submit import Submission, submitted
from acestep.rest.wait import JOBS_PATH

router = APIRouter(tags=["songs"])

MAX_PAGE = 200
# A running job ends within a step of its stage; longer steps are not waited for.
CANCEL_SECONDS = 2.0


class JobPage(BaseModel):
    jobs: list[JobObject] = Field(description="The newest first.")
    next: str | None = Field(None, description="`after` of the next page; null: this is the last one.")


async def _known(job_id: str, services: Services) -> JobView:
    (view,) = await services.queue.find([job_id])
    return _found(view, job_id)


Known = Annotated[JobView, Depends(_known)]
After = Annotated[int | None, Query(ge=0, description="Number of the last event that is known.")]
LastEventId = Annotated[str | None, Header()]


@router.get(JOBS_PATH, dependencies=[Depends(require_key)])
async def jobs(
    services: Services,
    state: Annotated[list[JobState], Query(description="Only jobs in one of these states.")] = [],  # noqa: B006
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    after: Annotated[str | None, Query(max_length=200, description="`next` of the page before.")] = None,
) -> JobPage:
    """List jobs, the newest first."""
    views = await services.queue.newest(state, after, limit + 1)
    page = [job_object(view, services.links.to) for view in views[:limit]]
    return JobPage(jobs=page, next=page[-1].job_id if len(views) > limit else None)


@router.get(JOBS_PATH + "/{job_id}", dependencies=[Depends(require_key)])
async def job(view: Known, services: Services) -> JobObject:
    """Return the state of one job; `job_id` is the `task_id` of the other endpoints."""
    return await _object(view, services)


@router.post(JOBS_PATH + "/{job_id}/cancel", dependencies=[Depends(require_key)])
async def cancel(job_id: str, services: Services) -> JobObject:
    """Cancel a job: at once while it is queued, within a step of its work while it runs.

    A job that has ended stays as it is.
    """
    return await _object(await _cancelled(job_id, services), services)


@router.delete(JOBS_PATH + "/{job_id}", dependencies=[Depends(require_key)])
async def delete(view: Known, services: Services) -> JobObject:
    """Cancel a job that has not ended; delete one that has, with its files. Returns it as it was."""
    if view.job.state in ENDED:
        await services.queue.delete(view.job.id, services.audio.delete)
        return await _object(view, services)
    return await _object(await _cancelled(view.job.id, services), services)


@router.post("/cancel_task", openapi_extra=body_of(CancelTask))
async def cancel_task(body: RequestBody, services: Services) -> Envelope[QueryEntry]:
    """Cancel a job, and return it as /query_result does."""
    view = await _cancelled(read_cancel(body.fields), services)
    return Envelope(data=query_entry(view, services.links.to))


@router.post(JOBS_PATH + "/{job_id}/retry", dependencies=[Depends(require_key)])
async def retry(
    http: Request, response: Response, view: Known, services: Services
) -> SubmittedJob | JobObject:
    """Submit the request of a job once more, with the same seeds; `Prefer: wait` as in /v1/music/generate."""
    submission = await _again(view.job.request, services)
    if ended := await waited_for(http, response, services, submission.job_id):
        return job_object(ended, services.links.to)
    return submitted_job(submission)


async def _again(request: SongRequest, services: HttpServices) -> Submission:
    services.audio.check_room(services.config.disk_reserve)
    once = await services.call.once({}, {}) if services.call else None
    if services.call and once and (earlier := await submitted(once, services.call, services)):
        return earlier
    receipt = await services.queue.submit(request, once)
    return Submission(receipt.job_id, receipt.position, receipt.eta, request)


@router.get(
    JOBS_PATH + "/{job_id}/events",
    dependencies=[Depends(require_key)],
    response_class=EventSourceResponse,
)
async def events_of_job(
    view: Known, services: Services, after: After = None, last_event_id: LastEventId = None
) -> AsyncIterator[ServerSentEvent]:
    """Send the events of a job as they happen, from the first on. The stream ends with the job.

    `queued`, `started`, `progress`, `song`, `succeeded`, `failed`, `cancelled`; `requeued` after a restart.
    """
    async for event in job_events(services, view.job.id, _number(after, last_event_id) or 0):
        yield event


@router.get("/v1/events", dependencies=[Depends(require_key)], response_class=EventSourceResponse)
async def events(
    services: Services, after: After = None, last_event_id: LastEventId = None
) -> AsyncIterator[ServerSentEvent]:
    """Send the events of all jobs as they happen; without `after`, from now on."""
    number = _number(after, last_event_id)
    number = await services.queue.last_event() if number is None else number
    async for event in job_events(services, None, number):
        yield event


def _number(after: int | None, last_event_id: str | None) -> int | None:
    # A browser that connects again sends the header, which is then the later one.
    sent = (last_event_id or "").strip()
    return int(sent) if sent.isascii() and sent.isdigit() else after


async def _cancelled(job_id: str, services: HttpServices) -> JobView:
    view = _found(await services.queue.cancel(job_id), job_id)
    return await services.queue.wait(job_id, CANCEL_SECONDS) or view


async def _object(view: JobView, services: HttpServices) -> JobObject:
    return job_object(view, services.links.to)


def _found(view: JobView | None, job_id: str) -> JobView:
    if view is None:
        raise HTTPException(404, f"{UNKNOWN_TASK}: {job_id[:80]!r}")
    return view
