"""Finished audio is fetched."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse

from acestep.rest import auth
from acestep.rest.deps import Services
from acestep.rest.envelope import ErrorEnvelope
from acestep.rest.spelling import AUDIO_PATH, media_type, speaking_name, split_link

router = APIRouter(tags=["songs"])

PARTS: dict[int | str, dict[str, Any]] = {
    206: {"description": "The part of the song that `Range` asked for"},
    416: {"model": ErrorEnvelope, "description": "There is no such part"},
}


@router.get(
    AUDIO_PATH, response_class=FileResponse, responses=PARTS
)  # for the document; the next line answers
@router.api_route(AUDIO_PATH, methods=["GET", "HEAD"], response_class=FileResponse, include_in_schema=False)
def audio(
    request: Request, services: Services, path: str = Query(description="As in `file` of a result.")
) -> FileResponse:
    """Fetch a song. The link is the permission, unless the server also asks for the key here."""
    label, token = split_link(path)
    found = services.audio.open_token(token)
    if found is None or services.config.audio_needs_key:
        auth.check_headers(services.config.api_key, request.headers)
    if found is None:
        raise HTTPException(404, "Audio file not found")
    return FileResponse(
        found,
        media_type=media_type(found),
        filename=speaking_name(label, found),
        content_disposition_type="inline",
    )
