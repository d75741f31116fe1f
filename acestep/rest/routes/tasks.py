from __future__ import annotations

from fastapi import APIRouter

from acestep.rest.deps import RequestBody, Services
from acestep.rest.envelope import Envelope
from acestep.rest.openapi import body_of
from acestep.rest.request.schemas import GenerateTask, QueryTask, read_query
from acestep.rest.response.jobs import query_entry, unknown_entry
from acestep.rest.response.schemas import QueryEntry, Submitted
from acestep.rest.submit import submit

router = APIRouter(tags=["songs"])


@router.post("/release_task", openapi_extra=body_of(GenerateTask))
async def release_task(body: RequestBody, services: Services) -> Envelope[Submitted]:
    """Submit a request for songs. The answer comes at once; /query_result returns the result."""
    submission = await submit(body, services)
    return Envelope(
        data=Submitted(
            task_id=submission.job_id,
            queue_position=submission.position,
            warnings=list(submission.request.warnings),
        )
    )


@router.post("/query_result", openapi_extra=body_of(QueryTask))
async def query_result(body: RequestBody, services: Services) -> Envelope[list[QueryEntry]]:
    """Return the state and results of jobs: one entry for each id, in order; `result` is a JSON string."""
    ids = read_query(body.fields).task_id_list
    average = await services.queue.average_seconds()
    views = await services.queue.find(ids)
    return Envelope(
        data=[
            query_entry(view, services.audio.token, average)
            if view
            else unknown_entry(task_id, services.config.unknown_task_status)
            for task_id, view in zip(ids, views, strict=True)
        ]
    )
