"""Sends events of jobs as the Standard Webhooks specification has it, until the receiver takes them."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpcore

from acestep.background import BackgroundTasks
from acestep.jobs.outbox import Delivery, Outbox
from acestep.jobs.queue import JobQueue
from acestep.webhooks.addresses import PrivateAddressError, PublicBackend

log = logging.getLogger(__name__)

# Seconds before each attempt; https://www.standardwebhooks.com proposes such a schedule.
SCHEDULE = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER = 0.1  # share of a delay by which it may be longer
LIMIT_SECONDS = 20.0
MOST_AT_ONCE = 8
MAX_BODY = 20_000  # bytes
LOOK_SECONDS = 30.0
GONE = HTTPStatus.GONE

Describe = Callable[[Delivery], Awaitable[Mapping[str, object]]]


class WebhookSender:
    """`describe` gives what a delivery says beside its job and event; `secret` is read when it is needed."""

    def __init__(
        self,
        outbox: Outbox,
        queue: JobQueue,
        describe: Describe,
        secret: Callable[[], str],
        allows_private: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._outbox = outbox
        self._queue = queue
        self._describe = describe
        self._secret = secret
        self._clock = clock
        self._dice = random.Random()
        self._sending: set[int] = set()
        self._free = asyncio.Event()
        backend = PublicBackend(httpcore.AnyIOBackend(), allows_private)
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=MOST_AT_ONCE, max_keepalive_connections=0, network_backend=backend
        )

    async def run(self, tasks: BackgroundTasks) -> None:
        """Send what is due, for as long as the server runs."""
        listeners = self._queue.listeners
        listeners.hooked |= await self._outbox.hooked()
        while True:
            listeners.hook_news.clear()
            self._free.clear()
            now = self._clock()
            for delivery in await self._outbox.due(now, self._sending, MOST_AT_ONCE - len(self._sending)):
                self._sending.add(delivery.number)
                tasks.run(f"webhook {delivery.number}", self._send(delivery))
            at = None if len(self._sending) >= MOST_AT_ONCE else await self._outbox.next_at(self._sending)
            if not await self._wait(listeners.hook_news, LOOK_SECONDS if at is None else at - now):
                listeners.hooked &= await self._outbox.hooked()

    async def _wait(self, changed: asyncio.Event, seconds: float) -> bool:
        waiting = [asyncio.create_task(event.wait()) for event in (changed, self._free)]
        try:
            timeout = max(0.01, min(seconds, LOOK_SECONDS))
            done, _ = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            for task in waiting:
                task.cancel()

    async def _send(self, delivery: Delivery) -> None:
        try:
            await self._attempt(delivery)
        finally:
            self._sending.discard(delivery.number)
            self._free.set()

    async def _attempt(self, delivery: Delivery) -> None:
        what, wished = f"Webhook {delivery.number} of job {delivery.job_id}", 0.0
        try:
            status, wished = await self._post(delivery)
            reason = f"status {status}"
        except PrivateAddressError as error:
            remedy = "ACESTEP_WEBHOOK_ALLOW_PRIVATE=true allows those"
            log.warning("%s: %s leads to a private address. %s", what, error, remedy)
            status, reason = GONE, ""
        except (OSError, TimeoutError, httpcore.NetworkError, httpcore.TimeoutException) as error:
            status, reason = 0, f"{type(error).__name__} {error}".strip()
        except httpcore.ProtocolError as error:
            status, reason = 0, f"no HTTP: {error}"
        is_taken = HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
        if status == GONE:
            log.info("%s is the last: nothing more is sent of this job", what)
            await self._outbox.close(delivery.job_id)
        elif is_taken or delivery.attempts + 1 >= len(SCHEDULE):
            if not is_taken:
                log.warning("%s is given up after %d attempts: %s", what, len(SCHEDULE), reason)
            await self._outbox.remove(delivery)
        else:
            delay = SCHEDULE[delivery.attempts + 1] * (1 + self._dice.uniform(0, JITTER))
            delay = max(delay, min(wished, SCHEDULE[-1]))
            log.info("%s failed (%s); again in %d s", what, reason, delay)
            await self._outbox.put_off(delivery, self._clock() + delay)

    async def _post(self, delivery: Delivery) -> tuple[int, float]:
        # The status, and the seconds that Retry-After asks for. Redirects are not followed.
        from standardwebhooks import Webhook  # most servers send none

        body, now = await self._body(delivery), datetime.fromtimestamp(int(self._clock()), UTC)
        name = f"msg_{delivery.job_id}_{delivery.number}"
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "acestep-api",
            "webhook-id": name,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(self._secret()).sign(name, now, body),
        }
        async with asyncio.timeout(LIMIT_SECONDS):
            async with self._pool.stream(
                "POST", delivery.url, headers=[*headers.items()], content=body.encode()
            ) as answer:
                found = {key.lower(): value.decode("latin-1") for key, value in answer.headers}
                return answer.status, self._seconds_of(found.get(b"retry-after", ""))

    async def _body(self, delivery: Delivery) -> str:
        # Without what would make it too large.
        at = datetime.fromtimestamp(delivery.at, UTC).isoformat().replace("+00:00", "Z")
        core = {"job_id": delivery.job_id, "event": delivery.number}
        for data in ({**core, **await self._describe(delivery)}, core):
            text = json.dumps({"type": f"job.{delivery.kind}", "timestamp": at, "data": data})
            if len(text) < MAX_BODY:
                break
        return text

    def _seconds_of(self, sent: str) -> float:
        if sent.isascii() and sent.isdigit():
            return float(sent)
        with suppress(ValueError):
            return max(0.0, parsedate_to_datetime(sent).timestamp() - self._clock())
        return 0.0
