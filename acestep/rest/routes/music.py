from __future__ import annotations

from fastapi import APIRouter

from acestep.rest.deps import RequestBody, Services
from acestep.rest.dialects.jobs import SubmittedJob, submitted_job
from acestep.rest.openapi import body_of
from acestep.rest.request.schemas import GenerateTask
from acestep.rest.submit import submit

router = APIRouter(tags=["songs"])


@router.post("/v1/music/generate", openapi_extra=body_of(GenerateTask))
async def generate(body: RequestBody, services: Services) -> SubmittedJob:
    """Submit a request with the fields of /release_task; the answer has no envelope."""
    return submitted_job(await submit(body, services))
