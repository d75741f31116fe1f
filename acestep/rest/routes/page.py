from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from acestep.rest.deps import Services
from acestep.rest.page import IMMUTABLE, PREFIX

router = APIRouter(include_in_schema=False)


@router.get(PREFIX + "/{version}/{name:path}")
async def page_file(request: Request, version: str, name: str, services: Services) -> Response:
    """Send a file of the page. It never changes: another version has another path."""
    found = services.page.find(version, name) if services.page else None
    if found is None:
        raise HTTPException(404, "There is no such file of the page. Load the page anew")
    headers = {"Cache-Control": IMMUTABLE, "X-Content-Type-Options": "nosniff", "Vary": "Accept-Encoding"}
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(found.content, media_type=found.media_type, headers=headers)
    headers["Content-Encoding"] = "gzip"
    return Response(found.packed, media_type=found.media_type, headers=headers)
