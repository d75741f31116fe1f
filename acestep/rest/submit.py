"""The one way into the queue, whatever dialect a request was written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from acestep.domain.song import SongRequest
from acestep.rest.deps import HttpServices
from acestep.rest.request.body import Body, Sound, look_at, stored
from acestep.rest.request.schemas import GenerateTask, read_task
from acestep.rest.request.support import check_strict, planner_name
from acestep.rest.request.task_rules import PATHS, finished_song, permitted
from acestep.rest.request.to_request import RequestContext, accept_task


@dataclass(frozen=True, slots=True)
class Submission:
    """A request that was accepted; `position` counts the waiting jobs including this one."""

    job_id: str
    position: int
    request: SongRequest


async def submit(body: Body, services: HttpServices, warnings: tuple[str, ...] = ()) -> Submission:
    """Queue what `body` asks for in the fields of `/release_task`; `warnings` are told first.

    Raises as `accept_task` does, `UnusableAudioError` for a file that is no audio, and `QueueFullError`.
    """
    config = services.config
    check_strict(warnings, config.strict)
    async with stored(body.files, services.uploads, services.probe) as uploads:
        read = read_task(body.fields)
        context = RequestContext(services.lora, await _sounds(read[0], uploads, services))
        models, planner = (
            services.worker.models(),
            services.worker.planner(planner_name(read[0].lm_model_path)),
        )
        request = accept_task(read, models, planner, config.strict, config.strict_model, context)
        request = replace(request, warnings=(*warnings, *request.warnings))
        _drop_unused(request, uploads)
        ticket = await services.queue.submit(request)
    return Submission(ticket.job_id, ticket.position, request)


async def _sounds(
    task: GenerateTask, uploads: Mapping[str, Sound], services: HttpServices
) -> dict[str, Sound]:
    """The audio that came along, and else what the fields name on this machine."""
    sounds = dict(uploads)
    for kind, field in PATHS.items():
        named = getattr(task, field)
        if named and kind not in sounds:
            sounds[kind] = await named_sound(field, named, services)
    return sounds


async def named_sound(field: str, named: str, services: HttpServices) -> Sound:
    """The audio that a request names in `field`: a song that was made here, or a file of this machine.

    Raises `InvalidFieldError` for what it may not name, `UnusableAudioError` for what is no audio.
    """
    song = finished_song(named, services.audio.open_token)
    path = song or permitted(field, named, services.config.audio_roots)
    return await look_at(field, named, path, services.probe)


def _drop_unused(request: SongRequest, uploads: Mapping[str, Sound]) -> None:
    """Delete what the request does not use; it was told so."""
    for sound in uploads.values():
        if str(sound.path) not in (request.task.source, request.task.reference):
            sound.path.unlink(missing_ok=True)
