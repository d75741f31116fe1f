from __future__ import annotations

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse

from acestep.rest.deps import Services, check_key
from acestep.rest.envelope import ErrorEnvelope
from acestep.rest.spelling import AUDIO_PATH, JsonObject, media_type, speaking_name, split_link

router = APIRouter(tags=["songs"])

PARTS: dict[int | str, JsonObject] = {
    206: {"description": "The part of the file that `Range` names"},
    416: {"model": ErrorEnvelope, "description": "The file has no such part"},
}


# The first line is for the OpenAPI document, the second answers.
@router.get(AUDIO_PATH, response_class=FileResponse, responses=PARTS)
@router.api_route(AUDIO_PATH, methods=["GET", "HEAD"], response_class=FileResponse, include_in_schema=False)
def audio(
    request: Request, services: Services, path: str = Query(description="As in `file` of a result.")
) -> FileResponse:
    """Download a song. The link needs no key unless ACESTEP_AUDIO_NEEDS_KEY is set."""
    label, token = split_link(path)
    found = services.audio.open_token(token)
    if found is None or services.config.audio_needs_key:
        check_key(request, services)
    if found is None:
        raise HTTPException(404, "Audio file not found")
    return FileResponse(
        found,
        media_type=media_type(found),
        filename=speaking_name(label, found),
        content_disposition_type="inline",
    )
