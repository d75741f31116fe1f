"""A server with hardly any file descriptors, and clients that leave connections open."""

import resource
import socket
from contextlib import ExitStack
from pathlib import Path

from tests.live_server import WarmServer

DESCRIPTORS, CONNECTIONS = 64, 100


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


def test_idle_connections_stop_neither_requests_nor_the_model(tmp_path: Path):
    env = {"ACESTEP_KEEP_ALIVE": "1"}
    with WarmServer(tmp_path, env, few_descriptors) as server, ExitStack() as idle:
        for _ in range(CONNECTIONS):
            idle.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        server.wait_ready(120)
        assert server.client.get("/health").json()["data"]["status"] == "ok"
        log = server.log.read_text()
    assert log.count("No more connections can be accepted") in (1, 2)
    assert log.count("Traceback") == 0
