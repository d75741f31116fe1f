"""Counts what a reader of one plain song opens: files, lines and classes.

`python -m scripts.walk` runs the server with nano in this process and traces one POST /release_task
(text2music, no planner, no audio), its POST /query_result and its GET /v1/audio, on every thread. A file
counts if one of its functions ran, and then counts whole: all its lines, all its classes. Not traced is
what runs by the clock, song or no song.
"""

from __future__ import annotations

import ast
import asyncio
import json
import sys
import tempfile
import threading
from pathlib import Path
from types import CodeType, FrameType

import httpx

import acestep
from acestep.api_server import create_app
from acestep.server.build import prepare
from acestep.settings.settings import Settings

PACKAGE = Path(acestep.__file__).parent
NETWORKS = PACKAGE / "networks"  # the models themselves, which most servers take from a library
BODY = {"prompt": "upbeat piano pop", "audio_duration": 10, "batch_size": 1}
POLL_SECONDS = 0.1
BY_THE_CLOCK = (
    "idle model watch",
    "idle planner watch",
    "job database watch",
    "loading watch",
    "webhooks",
)  # tasks
SETTINGS = {"config_path": "acestep-nano", "init_llm": "false", "api_key": ""}


class Tracer:
    """Records the files of the package whose functions are called, in the order of the first call."""

    def __init__(self) -> None:
        self.is_on = False
        self.files: dict[str, None] = {}
        self._seen: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if not self.is_on or event != "call" or code in self._seen or code.co_name == "<module>":
            return
        if current_task_name() in BY_THE_CLOCK:
            return
        self._seen.add(code)
        if code.co_filename.startswith(str(PACKAGE)):
            self.files.setdefault(code.co_filename)


def current_task_name() -> str:
    """The name of the task of this thread; "" where none runs."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop is here
        return ""
    return task.get_name() if task else ""


async def make_song(tracer: Tracer, folder: str) -> None:
    """Make one song; only what happens between the request and its audio is traced."""
    app = create_app(prepare(Settings.load(data_dir=folder, **SETTINGS)))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://walk") as client,
    ):
        await until_ready(client)
        tracer.is_on = True
        task = (await client.post("/release_task", json=BODY)).json()["data"]["task_id"]
        (song,) = json.loads(await result(client, task))
        (await client.get(song["file"])).raise_for_status()
        tracer.is_on = False


async def until_ready(client: httpx.AsyncClient) -> None:
    """Return once the server has loaded its model."""
    while True:
        if (await client.get("/health")).json()["data"]["ready"]:
            return
        await asyncio.sleep(POLL_SECONDS)


async def result(client: httpx.AsyncClient, task: str) -> str:
    """Return the `result` of a task once it is done, which is JSON."""
    while True:
        entry = (await client.post("/query_result", json={"task_id_list": [task]})).json()["data"][0]
        if entry["status"] != 0:
            return str(entry["result"])
        await asyncio.sleep(POLL_SECONDS)


def main() -> None:
    """Print the files in the order in which the song enters them, and the sums."""
    tracer = Tracer()
    threading.setprofile(tracer)  # threads take it over when they start
    sys.setprofile(tracer)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(make_song(tracer, folder))
    sys.setprofile(None)
    counts = {file: count(Path(file)) for file in tracer.files}
    for file, (lines, classes) in counts.items():
        sys.stdout.write(f"{Path(file).relative_to(PACKAGE)}: {lines} lines, {classes} classes\n")
    inside = {file: counted for file, counted in counts.items() if Path(file).parent != NETWORKS}
    for name, part in (("in all", counts), ("without networks", inside)):
        lines, classes = map(sum, zip(*part.values(), strict=True))
        sys.stdout.write(f"{name}: {len(part)} files, {lines} lines, {classes} classes\n")


def count(path: Path) -> tuple[int, int]:
    """The lines and the classes of a file."""
    source = path.read_text(encoding="utf-8")
    classes = sum(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(source)))
    return len(source.splitlines()), classes


if __name__ == "__main__":
    main()
