"""The events of jobs as a stream for a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from fastapi.sse import ServerSentEvent

from acestep.jobs.model import ENDED, JobEvent, JobView
from acestep.jobs.outbox import Delivery
from acestep.jobs.queue import JobQueue, Listener
from acestep.rest.deps import HttpServices
from acestep.rest.dialects.jobs import job_object
from acestep.rest.response.jobs import progress_text, rounded
from acestep.rest.spelling import AudioLinks, JsonObject

RETRY_MILLISECONDS = 2000  # until a client connects again
PAUSE_SECONDS = 0.25  # between two looks, so that there are at most four reports of progress a second
LOOK_SECONDS = 15.0  # a change by another process wakes no listener


async def job_events(
    services: HttpServices, job_id: str | None, after: int
) -> AsyncIterator[ServerSentEvent]:
    """What happened after the event of that number, and what happens from now on; ends with the job.

    `job_id` None: all jobs, without an end.
    """
    stream = _Stream(services, job_id, after)
    yield ServerSentEvent(retry=RETRY_MILLISECONDS)
    with services.queue.listeners.listening(job_id) as listener:
        while True:
            for event in await stream.news(listener):
                yield event
            if stream.has_ended:
                return
            for event in await stream.progress():
                yield event
            with suppress(TimeoutError):
                await asyncio.wait_for(listener.changed.wait(), LOOK_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)


async def hook_data(queue: JobQueue, links: AudioLinks, delivery: Delivery) -> JsonObject:
    """What a webhook says of an event, beside its job and number."""
    data = dict(delivery.data)
    if file := str(data.pop("file", "")):
        data["file"] = links.to(str(data.pop("caption", "")), file)
    (view,) = await queue.find([delivery.job_id]) if delivery.kind in ENDED else (None,)
    if view is not None:
        data["status"] = view.job.state
        data["audio_paths"] = [links.to(song.plan.caption, song.file) for song in view.job.songs if song.file]
    return data


class _Stream:
    def __init__(self, services: HttpServices, job_id: str | None, after: int) -> None:
        self._services = services
        self._job_id = job_id
        self._after = after
        self._running: dict[str, JsonObject] = {}  # the progress that was told last
        self.has_ended = False

    async def news(self, listener: Listener) -> Sequence[ServerSentEvent]:
        has_news, listener.has_news = listener.has_news or not listener.changed.is_set(), False
        listener.changed.clear()  # before the look, so that no change is missed
        if not has_news:
            return []
        queue, told = self._services.queue, list[ServerSentEvent]()
        if self._job_id is not None:  # looked at before its events, so that the last is among them
            (view,) = await queue.find([self._job_id])
            self.has_ended = view is None or view.job.state in ENDED
        while events := await queue.events(self._after, self._job_id):
            self._after = events[-1].number
            views = await queue.find([event.job_id for event in events])
            told += [self._event(event, view) for event, view in zip(events, views, strict=True)]
            self.has_ended |= self._job_id is not None and events[-1].kind in ENDED
        return told

    def _event(self, event: JobEvent, view: JobView | None) -> ServerSentEvent:
        data: JsonObject = {"job_id": event.job_id, "at": event.at, **event.data}
        if event.kind == "queued" and view is not None and view.job.state == "queued":
            data["eta_seconds"] = rounded(view.eta)
        if event.kind == "started":
            self._running[event.job_id] = {}
        if event.kind == "requeued" or event.kind in ENDED:
            self._running.pop(event.job_id, None)
        if event.kind == "song":
            file, caption = str(data.pop("file")), str(data.pop("caption", ""))
            data["file"] = self._services.links.to(caption, file) if file else ""
        if event.kind in ENDED and view is not None and view.job.state in ENDED:
            data["job"] = job_object(view, self._services.links.to).model_dump()
        return ServerSentEvent(data=data, event=event.kind, id=str(event.number))

    async def progress(self) -> Sequence[ServerSentEvent]:
        # Of each running job, where it has changed. It has no number: it is not told again.
        told = []
        for view in self._services.queue.at_work():
            job, progress = view.job, view.progress
            if self._job_id not in (None, job.id) or progress is None:
                continue
            data = {
                "job_id": job.id,
                "progress": round(progress.fraction, 4),
                "stage": progress.stage,
                "progress_text": progress_text(view),
                "eta_seconds": rounded(view.eta),
            }
            if self._running.get(job.id) != data:
                self._running[job.id] = data
                told.append(ServerSentEvent(data=data, event="progress"))
        return told
