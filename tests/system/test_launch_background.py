"""Starting and stopping the server in the background, as a user does it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

from tests.system.launch import BACKGROUND, CLOSE, alive

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def running(project, port):
    """A server in the background, that is sure to be gone afterwards."""
    result = project.run(BACKGROUND, ACESTEP_API_PORT=port, STUB="serve")
    assert result.returncode == 0, result.stderr
    pid = project.pid
    yield pid
    if alive(pid):
        os.kill(pid, 9)


def test_background_start_and_stop(project, port):
    (project.folder / "server.log").write_text("from yesterday\n", encoding="utf-8")
    started = project.run(BACKGROUND, ACESTEP_API_PORT=port, STUB="serve")
    assert started.returncode == 0, started.stderr
    assert f"PID {project.pid}" in started.stdout
    assert str(project.folder / "server.log") in started.stdout
    assert f"Listening on 0.0.0.0:{port}" in started.stdout
    assert project.log.startswith("from yesterday\n")
    assert project.log.endswith("listening\n")
    environment = json.loads(project.dump.read_text(encoding="utf-8"))["environment"]
    assert (environment["ACESTEP_API_HOST"], environment["ACESTEP_API_LOG_LEVEL"]) == ("0.0.0.0", "debug")

    pid = project.pid
    assert alive(pid)
    stopped = project.run(CLOSE)
    assert (stopped.returncode, stopped.stdout) == (0, f"Stopped PID {pid}\n")
    assert not alive(pid)
    assert not (project.folder / "server.pid").exists()

    again = project.run(CLOSE, ACESTEP_API_PORT=port)
    assert (again.returncode, again.stdout) == (0, "No server is running.\n")


def test_background_refuses_to_start_twice(project, running):
    result = project.run(BACKGROUND, STUB="serve")
    assert result.returncode == 1
    assert f"runs already (PID {running})" in result.stderr
    assert project.pid == running


def test_background_refuses_a_port_that_is_taken(project):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        project.dotenv(f'ACESTEP_API_PORT="{port}"\n')
        result = project.run(BACKGROUND, STUB="serve")
    assert result.returncode == 2
    assert result.stderr.startswith(f"Port {port} is taken by ")
    assert f"ACESTEP_API_PORT={port + 1} " in result.stderr
    if shutil.which("lsof") or shutil.which("ss"):
        assert f"process {os.getpid()}." in result.stderr


def test_background_waits_and_shows_for_what(project, port):
    result = project.run(BACKGROUND, ACESTEP_API_PORT=port, STUB="slow")
    assert result.returncode == 0, result.stderr
    assert "Not listening yet after 5 s. The log says: importing\n" in result.stdout
    assert result.stdout.endswith(f"Listening on 0.0.0.0:{port}\n")
    assert project.run(CLOSE).returncode == 0


def test_background_leaves_a_server_that_starts_slowly(project, port):
    result = project.run(BACKGROUND, ACESTEP_API_PORT=port, STUB="slow", ACESTEP_START_SECONDS="1")
    assert result.returncode == 0
    assert result.stdout.endswith(f"tail -f '{project.folder}/server.log'\n")
    assert f"still starting (PID {project.pid})" in result.stdout
    assert project.run(CLOSE).returncode == 0


@pytest.mark.parametrize("name", ["server.log", "server.pid"])
def test_background_needs_a_folder_that_it_can_write(project, port, name):
    (project.folder / name).mkdir()  # which root cannot write either
    result = project.run(BACKGROUND, ACESTEP_API_PORT=port, STUB="serve")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert f"cannot write server.log and server.pid in {project.folder}. Make the folder" in result.stderr


def test_background_reports_a_start_that_fails_at_once(project, port):
    (project.folder / "server.log").write_text("from yesterday\n", encoding="utf-8")
    result = project.run(BACKGROUND, ACESTEP_API_PORT=port, STUB="die")
    assert result.returncode == 1
    assert "The server stopped at once" in result.stderr
    assert result.stderr.endswith("ACESTEP_DEVICE='gpu' cannot be used\n")
    assert "from yesterday" not in result.stderr
    assert not (project.folder / "server.pid").exists()


def test_background_takes_no_arguments(project):
    result = project.run(BACKGROUND, "--port", "8002")
    assert result.returncode == 2
    assert "ACESTEP_API_PORT=8002" in result.stderr


def test_a_stale_pidfile_is_no_hindrance_and_hits_nobody(project, port):
    (project.folder / "server.pid").write_text(
        f"{os.getpid()}\n", encoding="utf-8"
    )  # alive, but not a server
    closed = project.run(CLOSE, ACESTEP_API_PORT=port)
    assert (closed.returncode, closed.stdout) == (0, "No server is running.\n")
    (project.folder / "server.pid").write_text("garbage\n", encoding="utf-8")
    assert project.run(BACKGROUND, ACESTEP_API_PORT=port, STUB="serve").returncode == 0
    assert project.run(CLOSE).returncode == 0


@pytest.mark.skipif(not (shutil.which("lsof") or shutil.which("ss")), reason="needs lsof or ss")
def test_close_by_port(project, running, port):
    (project.folder / "server.pid").unlink()
    project.dotenv(f"ACESTEP_API_PORT={port}\n")
    result = project.run(CLOSE)
    assert (result.returncode, result.stdout) == (0, f"Stopped PID {running}\n")
    assert not alive(running)


def test_close_kills_what_does_not_stop(project, port):
    assert project.run(BACKGROUND, ACESTEP_API_PORT=port, STUB="stubborn").returncode == 0
    pid, before = project.pid, project.slept
    result = project.run(CLOSE, "--pid", str(pid), "--wait", "2")
    assert result.returncode == 0
    assert "killing it" in result.stderr
    assert 2 <= project.slept - before < 3  # it had its time, and little more
    assert not alive(pid)


@pytest.mark.skipif(not (shutil.which("lsof") or shutil.which("ss")), reason="needs lsof or ss")
def test_close_refuses_foreign_processes_unless_forced(project):
    program = (
        "import socket, sys; server = socket.create_server(('127.0.0.1', 0));"
        "print(server.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as foreign:
        assert foreign.stdout is not None
        port = foreign.stdout.readline().strip()
        for arguments in (["--port", port], ["--pid", str(foreign.pid)]):
            result = project.run(CLOSE, *arguments)
            assert result.returncode == 3
            assert f"PID {foreign.pid} is not this server" in result.stderr
            assert foreign.poll() is None
        assert project.run(CLOSE, "--port", port, "--force").returncode == 0
        assert foreign.wait(timeout=5) == -15


@pytest.mark.parametrize(
    "arguments", [["--port"], ["--port", "x"], ["--wait", "-3"], ["--pid", "-1"], ["--what"], ["8001"]]
)
def test_close_refuses_wrong_arguments(project, arguments):
    result = project.run(CLOSE, *arguments)
    assert result.returncode == 2
    assert "Usage:" in result.stderr


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_close_helps(project, flag):
    result = project.run(CLOSE, flag)
    assert result.returncode == 0
    assert "--force" in result.stdout
