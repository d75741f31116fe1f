"""Connections as uvicorn serves them, with short times."""

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from acestep.rest.connections import QUIET_SECONDS, report_full, timed

GENEROUS = 20.0  # seconds
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK"


class App:
    """Reads a body, waits, and answers; notes the last message of each request."""

    def __init__(self) -> None:
        self.last: list[Message] = []
        self.takes = 0.0  # seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive()).get("more_body"):
            pass
        self.last.append(message)
        await asyncio.sleep(self.takes)
        with contextlib.suppress(Exception):  # the client may be gone
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def connected(
    app: App, request_timeout: float = 0.2, keep_alive: int = 60
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    config = uvicorn.Config(app, http=timed(request_timeout), timeout_keep_alive=keep_alive, lifespan="off")
    config.load()
    state = ServerState()

    def protocol() -> asyncio.Protocol:
        return config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            yield reader, writer
        finally:
            writer.close()


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server closes."""
    return await asyncio.wait_for(reader.read(), GENEROUS)


class TestClosed:
    async def test_nothing_is_sent(self):
        async with connected(App(), request_timeout=60, keep_alive=1) as (reader, _):
            assert await rest_of(reader) == b""

    @pytest.mark.parametrize("half", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\n", HEAD[:-1]])
    async def test_half_a_head(self, half: bytes):
        async with connected(App()) as (reader, writer):
            writer.write(half)
            assert await rest_of(reader) == b""

    async def test_a_head_that_trickles(self):
        async with connected(App()) as (reader, writer):
            reading = asyncio.create_task(rest_of(reader))
            writer.write(b"GET / HTTP/1.1\r\nX: ")
            while not reading.done():
                writer.write(b"x")
                await asyncio.wait({reading}, timeout=0.05)
            assert await reading == b""

    @pytest.mark.parametrize("half", [b"", b"1234567"])
    async def test_half_a_body(self, half: bytes):
        app = App()
        async with connected(app) as (reader, writer):
            writer.write(HEAD + half)
            assert await rest_of(reader) == b""
        assert app.last == [{"type": "http.disconnect"}]

    async def test_half_of_a_second_request(self):
        async with connected(App()) as (reader, writer):
            writer.write(HEAD + b"12345678")
            await asyncio.wait_for(reader.readuntil(b"ok"), GENEROUS)
            writer.write(HEAD[:20])
            assert await rest_of(reader) == b""


class TestKept:
    async def test_an_answer_takes_longer(self):
        app = App()
        app.takes = 0.6
        async with connected(app) as (reader, writer):
            for _ in range(2):
                writer.write(HEAD + b"12345678")
                head = await asyncio.wait_for(reader.readuntil(b"ok"), GENEROUS)
                assert head.startswith(ANSWER)

    async def test_a_body_comes_slowly(self):
        app = App()
        async with connected(app, request_timeout=1) as (reader, writer):
            writer.write(HEAD)
            for byte in b"12345678":
                await asyncio.sleep(0.15)
                writer.write(bytes([byte]))
            assert (await asyncio.wait_for(reader.readuntil(b"ok"), GENEROUS)).startswith(ANSWER)


class TestFull:
    async def test_one_line_a_minute(self, caplog: pytest.LogCaptureFixture):
        loop, now = asyncio.get_running_loop(), [100.0]
        report_full(loop, lambda: now[0])
        context = {"message": "socket.accept() out of system resource", "socket": object()}
        with caplog.at_level(logging.ERROR):
            for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EMFILE):
                loop.call_exception_handler({**context, "exception": OSError(code, "Too many open files")})
            assert len(caplog.records) == 1
            assert "ulimit -n" in caplog.text
            now[0] += QUIET_SECONDS
            loop.call_exception_handler({**context, "exception": OSError(errno.EMFILE, "x")})
            assert len(caplog.records) == 2

    async def test_other_errors_are_told_in_full(self, caplog: pytest.LogCaptureFixture):
        loop = asyncio.get_running_loop()
        report_full(loop)
        for error in (ValueError("strange"), OSError(errno.EMFILE, "of a task")):
            loop.call_exception_handler({"message": "Task exception", "exception": error})
        assert "strange" in caplog.text
        assert "of a task" in caplog.text
