"""Connections that clients leave open, and what happens when there are too many.

uvicorn closes a connection that is idle after an answer, but waits for ever for the first byte and for the
rest of a head or body; no setting changes that. A middleware could bound the body alone, as it runs once the
head is complete. So the protocol itself is timed, by the states that its parser (h11) documents.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)

# What a process or a machine has run out of.
USED_UP = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
QUIET_SECONDS = 60.0


class TimedProtocol(H11Protocol):
    """Closes a connection whose client owes the rest of a request and sends nothing more."""

    request_timeout = 30.0  # seconds for a head, and for each further piece of a body

    _timer: asyncio.TimerHandle | None = None
    _is_head = False  # what the timer is for

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self._start(self.request_timeout)
        elif state is not h11.IDLE:
            self._stop()
        elif not self._is_head:  # one time for the whole head, however it trickles
            self._start(self.request_timeout)
            self._is_head = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _start(self, seconds: float) -> None:
        self._stop()
        self._timer = self.loop.call_later(seconds, self._time_out)

    def _stop(self) -> None:
        self._is_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        if self.flow.read_paused:  # the client may be waiting for this server
            self._start(self.request_timeout)
        elif not self.transport.is_closing():
            self.transport.close()


def timed(request_timeout: float) -> type[TimedProtocol]:
    return type("TimedProtocol", (TimedProtocol,), {"request_timeout": request_timeout})


def report_full(loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
    """Log once a minute that no connection can be accepted: asyncio does so some thousand times a second."""
    quiet_until = 0.0

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal quiet_until
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in USED_UP and "socket" in context):
            loop.default_exception_handler(context)
        elif clock() >= quiet_until:
            quiet_until = clock() + QUIET_SECONDS
            log.error(
                "No more connections can be accepted: %s. Clients wait until others are closed. More may be "
                "open with `ulimit -n`, and idle ones close sooner with ACESTEP_KEEP_ALIVE.",
                error.strerror,
            )

    loop.set_exception_handler(handle)
