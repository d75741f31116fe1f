"""What a client prefers (RFC 7240): to be answered at once, or to wait for the job."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from acestep.jobs.model import ENDED, JobView
from acestep.rest.deps import HttpServices

PREFER = "prefer"
RESPOND_ASYNC = "respond-async"
APPLIED = "Preference-Applied"
# A token, perhaps with a value as a token or in quotes; parameters behind a semicolon say nothing here.
_PREFERENCE = re.compile(
    r'\s*([\w!#$%&\'*+.^`|~-]+)\s*(?:=\s*(?:"([^"]*)"|([^\s",;]*)))?(?:[^",]|"[^"]*")*(?:,|$)'
)


def preferences(headers: Sequence[str]) -> dict[str, str]:
    """The preferences by name in lower case; the first of a name counts."""
    found: dict[str, str] = {}
    for match in _PREFERENCE.finditer(",".join(headers)):
        name, quoted, bare = match.groups()
        found.setdefault(name.lower(), quoted or bare or "")
    return found


def wait_seconds(request: Request, most: float) -> float | None:
    """The seconds of `Prefer: wait`, at most `most`; None: it was not sent, or is no number."""
    wished = preferences(request.headers.getlist(PREFER)).get("wait", "")
    return min(float(wished), most) if wished.isascii() and wished.isdigit() else None


async def waited_for(
    request: Request, response: Response, services: HttpServices, job_id: str
) -> JobView | None:
    """The job if the client waits for it and it ends in that time, else None; `response` says so.

    The body of `request` must have been read before. A client that disconnects leaves the job as it is.
    """
    seconds = wait_seconds(request, services.config.generation_timeout)
    if seconds is None:
        return None
    response.headers[APPLIED] = f"wait={seconds:g}"
    view = await services.queue.wait(job_id, seconds)
    return view if view is not None and view.job.state in ENDED else None
