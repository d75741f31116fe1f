from __future__ import annotations

from fastapi import APIRouter, Depends, HTTPException

from acestep.rest.deps import RequestBody, Services, require_key
from acestep.rest.dialects.jobs import JobObject, SubmittedJob, job_object, submitted_job
from acestep.rest.openapi import body_of
from acestep.rest.request.schemas import GenerateTask
from acestep.rest.response.jobs import UNKNOWN_TASK
from acestep.rest.submit import submit
from acestep.rest.wait import JOBS_PATH

router = APIRouter(tags=["songs"])


@router.post("/v1/music/generate", openapi_extra=body_of(GenerateTask))
async def generate(body: RequestBody, services: Services) -> SubmittedJob:
    """Submit a request with the fields of /release_task; the answer has no envelope."""
    return submitted_job(await submit(body, services))


@router.get(JOBS_PATH + "/{job_id}", dependencies=[Depends(require_key)])
async def job(job_id: str, services: Services) -> JobObject:
    """Return the state of one job; `job_id` is the `task_id` of the other endpoints."""
    (view,) = await services.queue.find([job_id])
    if view is None:
        raise HTTPException(404, f"{UNKNOWN_TASK}: {job_id[:80]!r}")
    return job_object(view, services.links.to, await services.queue.average_seconds())
