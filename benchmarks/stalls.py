"""How long one request of 4 MB keeps the server from answering others, for each field of each route.

    uv run python -m benchmarks.stalls [--route /release_task] [--show 25]

Every field of the schema is sent with a million elements, nests, long texts and long numbers, and each
route with large forms. The event loop counts the processor time between its turns: the most of it is what
another request waits for at worst, however busy the machine is. No model is loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from rich.console import Console
from rich.table import Table

from tests.rest.conftest import running

_CHUNK = 64 * 1024  # bytes that a server hands over at once
_SIZE = 4 * 1024**2 - 500  # bytes, just under the limit of a body
_JSON, _FORM = "application/json", "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data; boundary=X"
# The value of a field as JSON: what it begins with, what is repeated, and its end.
_VALUES: Mapping[str, tuple[str, str, str]] = {
    "numbers": ("[", "1,", "1]"),
    "lists": ("[", "[],", "1]"),
    "objects": ("[", '{"a":1},', "1]"),
    "texts": ("[", '"a",', "1]"),
    "nested": ("", "[", ""),
    "long text": ('"', "a", '"'),
    "long list in a text": ('"[', "1,", '1]"'),
    "commas": ('"', "1,", '"'),
    "escapes": ('"', "\\u3042", '"'),
    "tags": ('"', "<prompt>", '"'),
    "lines": ('"', "\\n", 'x"'),
    "digits": ("", "9", ""),
    "digits in a text": ('"', "9", '"'),
}
_FORMS: Mapping[str, tuple[str, str, str, str]] = {
    "percents": (_FORM, "prompt=", "%41", ""),
    "fields": (_FORM, "", "a=1&", ""),
    "many parts": (
        _MULTIPART,
        "",
        '--X\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + "x" * 4_000 + "\r\n",
        "--X--\r\n",
    ),
    "almost boundaries": (
        _MULTIPART,
        '--X\r\nContent-Disposition: form-data; name="a"\r\n\r\n',
        "\r\n--",
        "\r\n--X--\r\n",
    ),
    "long header": (_MULTIPART, "--X\r\nA: ", "b", ""),
}
_MESSAGES = '"messages":[{"role":"user","content":"pop"}],'


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--route", help="this one only")
    parser.add_argument("--show", type=int, default=25, help="lines of the table")
    options = parser.parse_args()
    found = sorted(asyncio.run(measured(options.route)), reverse=True)
    if not found:
        parser.error(f"no route {options.route} takes a body")
    table = Table("processor time between two turns, ms", "route", "field", "value", "status")
    for stall, route, name, kind, status in found[: options.show]:
        table.add_row(f"{stall * 1000:.0f}", route, name, kind, str(status))
    console = Console()
    console.print(table)
    over = sum(stall > 0.1 for stall, *_ in found)
    console.print(
        f"{len(found)} requests; {over} over 100 ms; median {found[len(found) // 2][0] * 1000:.1f} ms"
    )


async def measured(only: str | None) -> list[tuple[float, str, str, str, int]]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder), max_waiting=0) as server:
            await answer(server.app, "/release_task", _JSON, b"{}")  # the first one is slower
            for route, fields in routes(server.app.openapi()):
                for name, kind, content_type, body in bodies(route, fields) if only in (None, route) else ():
                    found.append((*await stall_of(server.app, route, content_type, body), route, name, kind))
    return [(stall, route, name, kind, status) for stall, status, route, name, kind in found]


def routes(document: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield each route that takes a body, and the names of its fields."""
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        if _JSON in content:
            schema = content[_JSON]["schema"]
            if "$ref" in schema:
                schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            yield path, [*schema["properties"], "param_obj", "metas", "unknown", "ai_token"]


def bodies(route: str, fields: list[str]) -> Iterator[tuple[str, str, str, bytes]]:
    for name in fields:
        front = _MESSAGES if route.endswith("/chat/completions") and name != "messages" else ""
        for kind, (begin, repeated, end) in _VALUES.items():
            yield name, kind, _JSON, filled(f'{{{front}"{name}":{begin}', repeated, f"{end}}}")
    if route.endswith("/chat/completions"):
        begin = '{"messages":[{"role":"user","content":'
        for kind, (opening, repeated, end) in _VALUES.items():
            yield "messages[0].content", kind, _JSON, filled(begin + opening, repeated, f"{end}}}]}}")
    for kind, (content_type, begin, repeated, end) in _FORMS.items():
        yield "(form)", kind, content_type, filled(begin, repeated, end)


def filled(begin: str, repeated: str, end: str) -> bytes:
    count = (_SIZE - len(begin) - len(end)) // len(repeated)
    return (begin + repeated * count + end).encode()


async def stall_of(app: FastAPI, route: str, content_type: str, body: bytes) -> tuple[float, int]:
    """Return the most processor time between two turns of the loop, in seconds, and the answer's status."""
    asking = asyncio.create_task(answer(app, route, content_type, body))
    worst, before = 0.0, time.process_time()
    while not asking.done():
        await asyncio.sleep(0)
        now = time.process_time()
        worst, before = max(worst, now - before), now
    return worst, await asking


async def answer(app: FastAPI, route: str, content_type: str, body: bytes) -> int:
    chunks = [body[start : start + _CHUNK] for start in range(0, len(body), _CHUNK)]
    status = 0

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        if chunks:
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}
        await asyncio.sleep(0.02)
        return {"type": "http.disconnect"}  # no song comes here

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    headers = [(b"content-type", content_type.encode()), (b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": route, "raw_path": route.encode(), "query_string": b""}
    await app(
        scope | {"headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}, receive, send
    )
    return status


if __name__ == "__main__":
    main()
