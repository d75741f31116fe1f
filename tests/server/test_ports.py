from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator

import psutil
import pytest

from acestep.errors import SettingError
from acestep.server.ports import PortTakenError, check_port, check_port_of_uvicorn


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_port_that_is_taken_names_its_process_and_the_flag(taken: int, host: str) -> None:
    with pytest.raises(PortTakenError) as told:
        check_port(host, taken)
    text = f"Port {taken} is taken by process {os.getpid()} ("
    assert str(told.value).startswith(text)
    assert re.search(r"choose another port: --port \d+ \(ACESTEP_API_PORT\)\.$", str(told.value))


def test_arguments_of_the_process_stay_secret(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: ["acestep-api", "--api-key", "sk-secret"])
    with pytest.raises(PortTakenError, match=r"\(another acestep server\)") as told:
        check_port("127.0.0.1", taken)
    assert "sk-secret" not in str(told.value)


@pytest.mark.parametrize("error", [psutil.AccessDenied, lambda: psutil.NoSuchProcess(1)])
def test_a_process_that_cannot_be_seen_is_another(taken: int, monkeypatch: pytest.MonkeyPatch, error) -> None:
    def refuse(kind: str) -> None:
        raise error()

    monkeypatch.setattr(psutil, "net_connections", refuse)
    with pytest.raises(PortTakenError, match=f"Port {taken} is taken by another process\\. Stop"):
        check_port("127.0.0.1", taken)


def test_a_free_port_and_any_port_are_well(taken: int) -> None:
    check_port("127.0.0.1", 0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    check_port("127.0.0.1", free)
    check_port("127.0.0.1", free)  # a look keeps it free


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "host.invalid"])
def test_a_host_that_is_not_here_is_named(host: str) -> None:
    with pytest.raises(SettingError, match=f"ACESTEP_API_HOST='{host}' cannot be used; allowed: an address"):
        check_port(host, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every port")
def test_a_port_for_root_alone_is_named() -> None:
    with pytest.raises(SettingError, match="ACESTEP_API_PORT=80 cannot be used; allowed: 1024 to 65535"):
        check_port("127.0.0.1", 80)


@pytest.mark.parametrize("program", ["/env/bin/uvicorn", "/env/site-packages/uvicorn/__main__.py"])
@pytest.mark.parametrize(
    "form", [["--port", "{}"], ["--port={}"], ["--host", "0.0.0.0", "--port", "{}", "--reload"]]
)
def test_uvicorns_own_port_is_looked_at(taken: int, program: str, form: list[str]) -> None:
    options = [each.format(taken) for each in form]
    with pytest.raises(PortTakenError, match=f"Port {taken} is taken by process"):
        check_port_of_uvicorn([program, "acestep.api_server:app", *options])


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("/env/bin/pytest", ["--port", "{}"]),
        ("/env/bin/gunicorn", ["--port", "{}"]),
        ("/env/bin/uvicorn", ["--port", "{}", "--uds", "/run/acestep"]),
        ("/env/bin/uvicorn", ["--fd", "3", "--port", "{}"]),
        ("/env/bin/uvicorn", ["--port", "many"]),
    ],
)
def test_a_port_that_is_not_opened_is_not_looked_at(taken: int, program: str, options: list[str]) -> None:
    check_port_of_uvicorn([program, "app", *(each.format(taken) for each in options)])
