from __future__ import annotations

import json

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from acestep.jobs.model import Job
from acestep.rest.deps import HttpServices, RequestBody, Services
from acestep.rest.dialects.generations import AudioGeneration, read_generation
from acestep.rest.dialects.jobs import job_object
from acestep.rest.dialects.speech import AudioSpeech, read_speech
from acestep.rest.envelope import Json
from acestep.rest.openapi import GENERATION_ANSWERS, SPEECH_ANSWERS, dialect_of
from acestep.rest.prefer import APPLIED, PREFER, RESPOND_ASYNC, preferences, waited_for
from acestep.rest.request.body import Body
from acestep.rest.spelling import disposition, label_of, media_type
from acestep.rest.submit import submit
from acestep.rest.wait import SEED, TASK_ID, WARNINGS, Recording, job_headers, recordings_of, wait_for_songs

router = APIRouter(tags=["songs"])


@router.post(
    "/v1/audio/generations",
    openapi_extra=dialect_of(AudioGeneration),
    responses=GENERATION_ANSWERS,
    response_class=FileResponse,
    response_model=None,
)
async def audio_generations(request: Request, body: RequestBody, services: Services) -> Response:
    """Make one song and answer with its file, or at once with a job (`"async": true`)."""
    preferred = RESPOND_ASYNC in preferences(request.headers.getlist(PREFER))
    fields, run_async, warnings = read_generation(body.fields, preferred)
    submission = await submit(Body(fields, body.files), services, warnings)
    if run_async:
        answer: Response
        told = Response()
        ended = await waited_for(request, told, services, submission.job_id)
        if (
            ended and preferred and len(ended.job.songs) < 2
        ):  # the song itself, as it was not asked for "async"
            answer = await _finished(request, services, submission.job_id)
        else:
            answer = await _job(submission.job_id, services, 200 if ended else 202)
        applied = (RESPOND_ASYNC if preferred and not ended else "", told.headers.get(APPLIED, ""))
        if any(applied):
            answer.headers[APPLIED] = ", ".join(filter(None, applied))
        return answer
    return await _finished(request, services, submission.job_id)


@router.post(
    "/v1/audio/speech",
    openapi_extra=dialect_of(AudioSpeech),
    responses=SPEECH_ANSWERS,
    response_class=FileResponse,
    response_model=None,
)
async def audio_speech(request: Request, body: RequestBody, services: Services) -> Response:
    """Make one song from the lyrics or the caption in `input`, and answer with its file."""
    fields, warnings = read_speech(body.fields)
    submission = await submit(Body(fields, body.files), services, warnings)
    return await _finished(request, services, submission.job_id)


async def _finished(request: Request, services: HttpServices, job_id: str) -> Response:
    job = await wait_for_songs(request, services, job_id)
    if recordings := recordings_of(job, services.links):
        return _song(job, recordings[0])
    return await _job(job.id, services, 200)  # it ends in a plan, without a song


async def _job(job_id: str, services: HttpServices, status: int) -> Json:
    (view,) = await services.queue.find([job_id])
    assert view is not None  # it was accepted or finished just now
    found = job_object(view, services.links.to)
    return Json(found.model_dump(), status, headers=job_headers(job_id))


def _song(job: Job, recording: Recording) -> FileResponse:
    song, path = recording.song, recording.path
    warnings = list(dict.fromkeys((*job.request.warnings, *song.warnings)))
    return FileResponse(
        path,
        media_type=media_type(path),
        headers={
            "Content-Disposition": disposition("attachment", label_of(song.plan.caption), path),
            TASK_ID: job.id,
            SEED: str(song.plan.seed),
            WARNINGS: json.dumps(warnings),
        },
    )
