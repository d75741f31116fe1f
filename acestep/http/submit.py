"""The one way into the queue, whatever dialect a request was written in.

Owns the order: the files are put away, the fields become a `SongRequest`, the request becomes a job. Knows
nothing of how fields were spelled or what the answer looks like.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from acestep.domain import SongRequest
from acestep.errors import InvalidFieldError
from acestep.http.accept import accept
from acestep.http.deps import HttpServices
from acestep.http.parse import Body, stored
from acestep.http.support import check_strict


@dataclass(frozen=True, slots=True)
class Submission:
    """A request that was accepted; `position` counts the waiting jobs including this one."""

    job_id: str
    position: int
    request: SongRequest


async def submit(body: Body, services: HttpServices, warnings: tuple[str, ...] = ()) -> Submission:
    """Queue what `body` asks for in the fields of `/release_task`; `warnings` are told first.

    Raises as `accept` does, `UnusableAudioError` for a file that is no audio, and `QueueFullError`.
    """
    config = services.config
    check_strict(warnings, config.strict)
    async with stored(body.files, services.uploads, services.probe):
        _refuse_audio(body)
        models, planner = services.worker.models(), services.worker.planner()
        request = accept(body.fields, models, planner, config.strict, config.strict_model, services.lora)
        request = replace(request, warnings=(*warnings, *request.warnings))
        ticket = await services.queue.submit(request)
    return Submission(ticket.job_id, ticket.position, request)


def _refuse_audio(body: Body) -> None:
    """Nothing that this server does takes audio in."""
    for kind, upload in body.files.items():
        raise InvalidFieldError(kind, upload.filename, "no file", "It is not supported by this server yet")
