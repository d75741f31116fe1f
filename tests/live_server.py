"""A real server process on a free port, for tests and benchmarks that must see what a client sees.

Most of a start is importing: a `WarmServer` has that behind it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from types import TracebackType
from typing import Any, Protocol

import httpx

# What a test must not inherit from whoever runs it.
_OWN = "ACESTEP_"

# A request for a song as short and as coarse as songs may be, in a format that is written at once.
QUICK: dict[str, Any] = {
    "prompt": "piano",
    "audio_duration": 10,
    "inference_steps": 1,
    "guidance_scale": 1,
    "batch_size": 1,
    "audio_format": "wav",
}


class Process(Protocol):
    """What is used of a process here; `subprocess.Popen` is one."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | Any: ...
    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...
    def terminate(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class LiveServer:
    """`acestep-api` in a process of its own, with its data in `data`; stopped when the block ends.

    `env` goes before what is set here; None: not to be set at all.
    """

    def __init__(self, data: Path, env: Mapping[str, str | None] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = data / "server.log"
        self._data = data
        self._env = dict(env or {})
        self.command = [sys.executable, "-m", "acestep.api_server", "--port", str(self.port)]
        self.process: Process | None = None
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def start(self) -> None:
        """Start and wait for the first answer; says what the log says if there is none."""
        self._data.mkdir(parents=True, exist_ok=True)
        env = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
        # A test that stops a server does not wait for its songs.
        own: dict[str, str | None] = {"ACESTEP_DATA_DIR": str(self._data), "ACESTEP_DRAIN_SECONDS": "0"}
        own = {**own, "ACESTEP_CONFIG_PATH": "acestep-nano", **self._env}
        env |= {name: value for name, value in own.items() if value is not None}
        self.process = self._launch(env)
        self._wait(lambda: self.client.get("/health").status_code == 200, 60)

    def _launch(self, env: dict[str, str]) -> Process:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, env=env, stdout=log, stderr=log)

    def wait_ready(self, seconds: float = 300) -> None:
        """Wait until the model is loaded."""
        self._wait(lambda: self.client.get("/health").json()["data"]["ready"], seconds)

    def kill(self) -> None:
        """SIGKILL: what a power cut or the OOM killer does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> int:
        """Stop as an operator does; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def submit(self, **fields: Any) -> str:
        """Submit a song and return its task id."""
        answer = self.client.post("/release_task", json=fields)
        assert answer.status_code == 200, answer.text
        task_id: str = answer.json()["data"]["task_id"]
        return task_id

    def query(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The entries of `/query_result`."""
        entries: list[dict[str, Any]] = self.client.post(
            "/query_result", json={"task_id_list": list(ids)}
        ).json()["data"]
        return entries

    def wait_for(self, ids: Sequence[str], seconds: float = 120) -> list[list[dict[str, Any]]]:
        """Wait until all jobs have ended; returns the songs of each."""
        self._wait(lambda: all(entry["status"] != 0 for entry in self.query(ids)), seconds)
        return [json.loads(entry["result"]) for entry in self.query(ids)]

    def download(self, song: Mapping[str, Any]) -> bytes:
        """The song's file."""
        answer = self.client.get(song["file"])
        assert answer.status_code == 200, answer.text
        return answer.content

    def _wait(self, is_so: Any, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self._tail()}")
            try:
                if is_so():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"nothing happened for {seconds} s:\n{self._tail()}")

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def __enter__(self) -> LiveServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.stop()


class WarmServer(LiveServer):
    """The same server, forked off a process that has imported all that it needs; `command` is not used.

    `prepare` is called in the forked process before the server starts.
    """

    def __init__(
        self,
        data: Path,
        env: Mapping[str, str | None] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(data, env)
        self._prepare = prepare

    def _launch(self, env: dict[str, str]) -> Process:
        return _fork(_Launch(self.command[3:], env, self.log, self.log, self._prepare))


def run_to_end(arguments: Sequence[str], folder: Path, env: Mapping[str, str]) -> CompletedProcess[str]:
    """Run `acestep-api` to its end in a forked process; what it prints goes through files in `folder`."""
    out, err = folder / "stdout", folder / "stderr"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    process = _fork(_Launch(arguments, clean | dict(env), out, err))
    return CompletedProcess(arguments, process.wait(60), out.read_text(), err.read_text())


@dataclass(frozen=True, slots=True)
class _Launch:
    arguments: Sequence[str]
    env: Mapping[str, str]
    out: Path
    err: Path
    prepare: Callable[[], None] | None = None


def _fork(launch: _Launch) -> _Forked:
    context = multiprocessing.get_context("forkserver")
    # That process is started by the first of these; this is without effect for the others.
    context.set_forkserver_preload(["acestep.api_server", "acestep.engine.torch_models", __name__])
    process = context.Process(target=_serve, args=(launch,))
    process.start()
    return _Forked(process)


class _Forked:
    """A process of multiprocessing, as those of subprocess are."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, sig: int, /) -> None:
        os.kill(self.pid, sig)

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked server", timeout or 0.0)
        return self._process.exitcode


def _serve(launch: _Launch) -> None:
    """What a forked process does."""
    os.environ.clear()
    os.environ.update(launch.env)
    for number, path in ((1, launch.out), (2, launch.err)):
        with path.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), number)
    from acestep.api_server import main

    if launch.prepare is not None:
        launch.prepare()
    sys.exit(main(launch.arguments))


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
