from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask
from starlette.staticfiles import NotModifiedResponse, StaticFiles

from acestep.domain.song import AudioFormat
from acestep.rest.deps import RequestBody, Services, check_key
from acestep.rest.envelope import Envelope, ErrorEnvelope
from acestep.rest.openapi import body_of
from acestep.rest.prefer import PREFER, waited_for
from acestep.rest.request.schemas import GenerateTask, QueryTask, read_query
from acestep.rest.response.jobs import query_entry, rounded, unknown_entry
from acestep.rest.response.schemas import QueryEntry, Submitted
from acestep.rest.spelling import AUDIO_PATH, JsonObject, disposition, media_type
from acestep.rest.submit import submit

router = APIRouter(tags=["songs"])

_FILES = StaticFiles()  # only to compare the headers of files

PARTS: dict[int | str, JsonObject] = {
    304: {"description": "The client has the file (`If-None-Match`, `If-Modified-Since`)"},
    206: {"description": "The part of the file that `Range` names"},
    416: {"model": ErrorEnvelope, "description": "The file has no such part"},
}


@router.post("/release_task", openapi_extra=body_of(GenerateTask))
async def release_task(
    request: Request, response: Response, body: RequestBody, services: Services
) -> Envelope[Submitted | QueryEntry]:
    """Submit a request for songs. The answer comes at once; /query_result returns the result.

    With `Prefer: wait=60` it is the result, as there, if that comes within 60 seconds.
    """
    submission = await submit(body, services)
    if PREFER in request.headers and (
        view := await waited_for(request, response, services, submission.job_id)
    ):
        return Envelope(data=query_entry(view, services.links.to))
    return Envelope(
        data=Submitted(
            task_id=submission.job_id,
            queue_position=submission.position,
            eta_seconds=rounded(submission.eta),
            warnings=list(submission.request.warnings),
        )
    )


@router.post("/query_result", openapi_extra=body_of(QueryTask))
async def query_result(body: RequestBody, services: Services) -> Envelope[list[QueryEntry]]:
    """Return the state and results of jobs: one entry for each id, in order; `result` is a JSON string."""
    ids = read_query(body.fields).task_id_list
    views = await services.queue.find(ids)
    return Envelope(
        data=[
            query_entry(view, services.links.to)
            if view
            else unknown_entry(task_id, services.config.unknown_task_status)
            for task_id, view in zip(ids, views, strict=True)
        ]
    )


# The first line is for the OpenAPI document, the second answers.
@router.get(AUDIO_PATH, response_class=FileResponse, responses=PARTS)
@router.api_route(AUDIO_PATH, methods=["GET", "HEAD"], response_class=FileResponse, include_in_schema=False)
def audio(
    request: Request,
    services: Services,
    path: Annotated[str, Query(description="As in `file` of a result.")],
    audio_format: Annotated[
        AudioFormat | None, Query(alias="format", description="Another file format: the song is converted.")
    ] = None,
) -> Response:
    """Download a song. The link needs no key unless ACESTEP_AUDIO_NEEDS_KEY is set.

    `format` makes another file of the one that there is, with its tags; what MP3 has lost does not come back.
    """
    label, found = services.links.open(path)
    if found is None or services.config.audio_needs_key:
        check_key(request, services)
    if found is None:
        raise HTTPException(404, "Audio file not found")
    if services.convert is not None and audio_format not in (None, found.suffix[1:]):
        made = services.convert(found, audio_format)
        headers = {"Content-Disposition": disposition("attachment", label, found.with_suffix(made.suffix))}
        done = BackgroundTask(made.unlink, missing_ok=True)
        return FileResponse(made, media_type=media_type(made), headers=headers, background=done)
    headers = {"Content-Disposition": disposition("inline", label, found)}
    response = FileResponse(found, media_type=media_type(found), headers=headers, stat_result=found.stat())
    services.audio.note_fetch(found)
    if _FILES.is_not_modified(response.headers, request.headers):
        return NotModifiedResponse(response.headers)
    return response
