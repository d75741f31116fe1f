"""What a song without planner, adapter and quantization imports."""

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
    *("safetensors", "sniffio", "soxr", "sse_starlette", "starlette"),
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
