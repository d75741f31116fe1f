"""Processes that serve a small application, since a stop ends them."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acestep.server.stopping import NOT_STARTED, STUCK
from tests.live_server import free_port

PROGRAM = """
import asyncio, sys, threading, time
from contextlib import asynccontextmanager
import uvicorn
from fastapi import FastAPI
from acestep.server.stopping import Stopping, end_process, end_well_at_sigterm

port, closed, *kinds = sys.argv[1:]

async def close():
    with open(closed, "a") as file:
        file.write("closed ")
    return "Thread x is stuck." if "stuck" in kinds else ""

async def drain():
    with open(closed, "a") as file:
        file.write("draining ")
    await asyncio.sleep(600 if "long" in kinds else 0)

@asynccontextmanager
async def lifespan(app):
    stopping = Stopping(close, drain if "drains" in kinds else None)
    if "busy" in kinds:
        threading.Thread(target=time.sleep, args=(600,), name="import of torch").start()
    with stopping.at_signals():
        try:
            yield
        finally:
            await stopping.finish()

app = FastAPI(lifespan=lifespan)
app.get("/big")(lambda: "x" * 50_000_000)
end_well_at_sigterm()
uvicorn.run(app, port=int(port), log_level="error")
sys.exit(7 if "busy" in kinds else 0)
"""

Start = Callable[..., "Served"]


class Served:
    def __init__(self, folder: Path, *kinds: str, port: int | None = None) -> None:
        self.closed = folder / "closed"
        self.port = port or free_port()
        command = [sys.executable, "-c", PROGRAM, str(self.port), str(self.closed), *kinds]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)

    def connection(self) -> socket.socket:
        until = time.monotonic() + 60
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.02)

    def stop(self, number: int) -> int:
        self.connection().close()
        self.process.send_signal(number)
        return self.end()

    def end(self) -> int:
        return self.process.wait(30)  # the thread that is busy would take 600 s

    def closings(self) -> str:
        return self.closed.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Served] = []

    def launch(*kinds: str, port: int | None = None) -> Served:
        started.append(Served(tmp_path, *kinds, port=port))
        return started[-1]

    yield launch
    for served in started:
        served.process.kill()
        served.process.communicate()


@pytest.mark.parametrize("kinds", [(), ("busy",)])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0)])
def test_a_busy_thread_changes_nothing_about_the_end(
    start: Start, kinds: tuple[str, ...], number: int, code: int
) -> None:
    served = start(*kinds)
    assert served.stop(number) == code
    assert served.closings() == "closed "


def test_a_client_that_reads_nothing_holds_nothing(start: Start) -> None:
    served = start()
    with served.connection() as client:
        client.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.recv(1)
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0
    assert served.closings() == "closed "


def test_a_port_that_is_taken_ends_it_although_a_thread_is_busy(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        served = start("busy", port=other.getsockname()[1])
        assert served.end() == NOT_STARTED
    assert served.closings() == "closed "


def test_a_stuck_thread_is_told_by_the_code(start: Start) -> None:
    assert start("stuck").stop(signal.SIGTERM) == STUCK


def test_it_is_drained_before_it_closes(start: Start) -> None:
    served = start("drains")
    assert served.stop(signal.SIGTERM) == 0
    assert served.closings() == "draining closed "


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_waits_for_nothing(start: Start, second: int) -> None:
    served = start("drains", "long")
    served.connection().close()
    served.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + 30
    while not (served.closed.exists() and served.closings()):
        assert time.monotonic() < until
        time.sleep(0.01)
    served.connection().close()  # it still answers
    served.process.send_signal(second)
    assert served.end() == 0
    assert served.closings() == "draining closed "
