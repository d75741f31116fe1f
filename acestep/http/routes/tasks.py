"""Songs are asked for, and asked after."""

from __future__ import annotations

from fastapi import APIRouter

from acestep.errors import InvalidFieldError
from acestep.http.accept import accept
from acestep.http.answers import QueryEntry, Submitted
from acestep.http.deps import RequestBody, Services
from acestep.http.envelope import Envelope
from acestep.http.openapi import body_of
from acestep.http.parse import Body, stored
from acestep.http.schemas import GenerateTask, QueryTask, read_query
from acestep.http.wire import query_entry, unknown_entry

router = APIRouter(tags=["songs"])


@router.post("/release_task", openapi_extra=body_of(GenerateTask))
async def release_task(body: RequestBody, services: Services) -> Envelope[Submitted]:
    """Ask for songs. The answer comes at once; what becomes of them is asked with /query_result."""
    config = services.config
    async with stored(body.files, services.uploads, services.probe):
        _refuse_audio(body)
        models, planner = services.worker.models(), services.worker.planner()
        request = accept(body.fields, models, planner, config.strict, config.strict_model)
        ticket = await services.queue.submit(request)
    return Envelope(
        data=Submitted(task_id=ticket.job_id, queue_position=ticket.position, warnings=list(request.warnings))
    )


@router.post("/query_result", openapi_extra=body_of(QueryTask))
async def query_result(body: RequestBody, services: Services) -> Envelope[list[QueryEntry]]:
    """Ask after jobs: one entry for each id, in order; `result` is a JSON string."""
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


def _refuse_audio(body: Body) -> None:
    """Nothing that this server does takes audio in."""
    for kind, upload in body.files.items():
        raise InvalidFieldError(kind, upload.filename, "no file", "It is not supported by this server yet")
