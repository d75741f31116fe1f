from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from fastapi.sse import EventSourceResponse
from starlette.exceptions import HTTPException

from acestep.errors import AceStepError
from acestep.jobs.model import ENDED
from acestep.rest.deps import HttpConfig, HttpServices, Services, require_key
from acestep.rest.dialects.chat_answers import DONE, ChatAnswer
from acestep.rest.dialects.chat_fields import ChatRequest
from acestep.rest.dialects.chat_input import decode, read_chat, song_of
from acestep.rest.errors import problem_of
from acestep.rest.openapi import CHAT_ANSWERS, dialect_of
from acestep.rest.request.body import Body, BodyReader
from acestep.rest.request.task_rules import planner_name
from acestep.rest.submit import submit
from acestep.rest.wait import cancel_unwanted, job_headers, recordings_of, succeeded, wait_for_songs

router = APIRouter(tags=["songs"], dependencies=[Depends(require_key)])

HEARTBEAT_SECONDS = 2.0
UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # as routes that yield events have
# Base64 is held in memory several times over; forms are spooled to disk.
MAX_INLINE_AUDIO = 64 * 1024**2


@router.post(
    "/v1/chat/completions", openapi_extra=dialect_of(ChatRequest), responses=CHAT_ANSWERS, response_model=None
)
async def chat_completions(request: Request, services: Services) -> Response:
    """Make songs from the last message of a chat; `choices[0].message.audio` holds them in base64.

    The key is read from the headers only.
    """
    body = await _reader(services.config).read(request)
    chat = read_chat(body.fields)
    song = song_of(chat, services.worker.planner(planner_name(chat.task.lm_model_path)))
    files = await run_in_threadpool(decode, song.audio)
    submission = await submit(Body(song.fields, files), services, song.warnings)
    asked, model = submission.request, chat.task.model or submission.request.model or ""
    answer = ChatAnswer(submission.job_id, model, int(time.time()), asked.warnings)
    headers = job_headers(answer.job_id)
    if chat.request.stream:
        events = _events(answer, services, chat.request.stream_options.include_usage)
        return EventSourceResponse(events, headers={**headers, **UNBUFFERED})
    job = await wait_for_songs(request, services, answer.job_id)
    whole = await run_in_threadpool(answer.completion, job, recordings_of(job, services.links))
    return Response(whole, media_type="application/json", headers=headers)


async def _events(answer: ChatAnswer, services: HttpServices, with_usage: bool) -> AsyncIterator[bytes]:
    # Yield events until the job ends; the library stops this when the client disconnects.
    try:
        yield answer.opening()
        async for event in _song(answer, services):
            yield event
    except (asyncio.CancelledError, GeneratorExit):
        await asyncio.shield(cancel_unwanted(services, answer.job_id))
        raise
    except (AceStepError, HTTPException, OSError) as error:
        for event in answer.failure(problem_of(error)):
            yield event
    else:
        yield answer.end()
        if with_usage:
            yield answer.usage()
    yield DONE


async def _song(answer: ChatAnswer, services: HttpServices) -> AsyncIterator[bytes]:
    seconds = services.config.generation_timeout
    until = asyncio.get_running_loop().time() + seconds
    while True:
        left = until - asyncio.get_running_loop().time()
        view = await services.queue.wait(answer.job_id, max(0.0, min(HEARTBEAT_SECONDS, left)))
        if view is None or view.job.state in ENDED or left <= HEARTBEAT_SECONDS:
            break
        yield answer.heartbeat(view)
    job = succeeded(view, answer.job_id, seconds)
    recordings = recordings_of(job, services.links)
    yield answer.words(job.songs[0])
    yield await run_in_threadpool(answer.sound, job, recordings)


def _reader(config: HttpConfig) -> BodyReader:
    # Read bodies with songs in base64, four characters for three bytes.
    inline = min(config.upload_limit, MAX_INLINE_AUDIO)
    return BodyReader(config.body_limit + inline * 4 // 3, 0)
