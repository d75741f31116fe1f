"""What a song without planner, adapter and quantization imports, and a first request."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import asyncio, sys, tempfile
from scripts import walk
walk.BODY["inference_steps"] = 1
with tempfile.TemporaryDirectory() as folder:
    asyncio.run(walk.make_song(walk.Tracer(), folder))
installed = {
    name.partition(".")[0] for name, module in sys.modules.items()
    if "site-packages" in (getattr(module, "__file__", None) or "")
}
print(*sorted(name for name in installed if not name.startswith("_")))
print(*sorted(name for name in sys.modules if name in ("torch._dynamo", "torch._inductor")))
"""
# A name belongs here only if nearly every song needs it; what few requests need, they import.
IMPORTED = {
    *("annotated_doc", "annotated_types", "anyio", "av", "certifi", "click", "dotenv", "fastapi"),
    *("fastapi_offline", "filelock", "h11", "h2", "httpcore", "httptools", "httpx", "idna", "numpy"),
    *("psutil", "pydantic", "pydantic_core", "pydantic_settings", "pygments", "python_multipart", "rich"),
    *("safetensors", "sniffio", "soxr", "starlette"),
    *("tokenizers", "torch", "torchgen", "tqdm", "typing_extensions", "typing_inspection", "uvicorn"),
    *("uvloop", "yaml"),
    *(
        "email_validator",
        "opentelemetry",
        "orjson",
        "ujson",
        "websockets",
    ),  # FastAPI and uvicorn take them if there
}


def test_a_plain_song_imports_no_more_than_it_needs() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT, check=True)
    installed, compiler = done.stdout.splitlines()[-2:]
    assert "torch" in installed.split()
    assert set(installed.split()) - IMPORTED == set()
    assert compiler == ""


def test_the_first_request_imports_nothing(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from acestep.api_server import app

async def main():
    async with app.router.lifespan_context(app):
        before = set(sys.modules)
        sent, body = [], [{"type": "http.request", "body": b'{"bpm": "x"}'}]

        async def receive():
            return body.pop() if body else await asyncio.sleep(9)

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/release_task", "raw_path": b""}
        scope |= {"headers": [(b"host", b"localhost")], "query_string": b""}
        scope |= {"client": ("127.0.0.1", 1), "server": ("localhost", 1)}
        await app(scope, receive, send)
        print(sent[0]["status"], sorted(set(sys.modules) - before))

asyncio.run(main())
"""
    env = {
        "ACESTEP_CONFIG_PATH": "acestep-nano",
        "ACESTEP_NO_INIT": "true",
        "ACESTEP_DATA_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, env=os.environ | env, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["422 []"], done.stderr
