from __future__ import annotations

from fastapi import APIRouter, Request, Response

from acestep.rest.deps import RequestBody, Services
from acestep.rest.dialects.jobs import JobObject, SubmittedJob, job_object, submitted_job
from acestep.rest.openapi import body_of
from acestep.rest.prefer import waited_for
from acestep.rest.request.schemas import GenerateTask
from acestep.rest.submit import submit

router = APIRouter(tags=["songs"])


@router.post("/v1/music/generate", openapi_extra=body_of(GenerateTask))
async def generate(
    request: Request, response: Response, body: RequestBody, services: Services
) -> SubmittedJob | JobObject:
    """Submit a request with the fields of /release_task; the answer has no envelope.

    With `Prefer: wait=60` it is the job as it ended, if it ends within 60 seconds.
    """
    submission = await submit(body, services)
    view = await waited_for(request, response, services, submission.job_id)
    return job_object(view, services.links.to) if view else submitted_job(submission)
