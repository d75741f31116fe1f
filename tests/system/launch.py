"""A project's launch scripts with a stand-in for `uv`, which shows what reaches the server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MULTIMODEL, LOWVRAM = "run_api_server_multimodel.sh", "run_api_server_lowvram.sh"
BACKGROUND, CLOSE = "run_api_server.sh", "close_api_server.sh"
SYSTEM_PATH = "/usr/bin:/bin"

# Dumps what it got; then listens, dies, or ignores being asked to stop, as STUB says.
STUB = """
import json, os, signal, socket, sys, time
with open(os.environ["STUB_DUMP"], "w") as dump:
    json.dump({"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}, dump)
mode = os.environ.get("STUB", "dump")
if mode == "die":
    sys.exit("ACESTEP_DEVICE='gpu' cannot be used")
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "slow":
    print("importing", flush=True)
    sleeps = os.environ["STUB_SLEEPS"]
    while not os.path.exists(sleeps) or sum(map(float, open(sleeps).read().split())) < 5.1:
        time.sleep(0.01)
if mode != "dump":
    listener = socket.create_server(("127.0.0.1", int(os.environ["ACESTEP_API_PORT"])))
    print("listening", flush=True)
    signal.pause()
"""

# Notes how long it was to sleep, and sleeps hardly.
SLEEP = """#!/bin/sh
echo "$1" >>"$STUB_SLEEPS"
exec /bin/sleep 0.01
"""


class Project:
    """A copy of the scripts in a folder with a space in its name, run from elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "my project"
        self.bin = folder / "my bin"
        self.dump = folder / "dump.json"
        self.sleeps = folder / "sleeps"
        self.elsewhere = folder / "elsewhere"
        for made in (self.folder / "scripts", self.bin, self.elsewhere):
            made.mkdir(parents=True)
        for script in ROOT.glob("*.sh"):
            shutil.copy(script, self.folder)
        shutil.copy(ROOT / "scripts" / "launch.sh", self.folder / "scripts")
        self.install(self.bin / "uv")
        (self.bin / "sleep").write_text(SLEEP, encoding="utf-8")
        (self.bin / "sleep").chmod(0o755)

    def install(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        stub = path.with_name(f"{path.name}.py")
        stub.write_text(STUB, encoding="utf-8")
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stub}" "$@"\n', encoding="utf-8")
        path.chmod(0o755)

    def dotenv(self, text: str) -> None:
        (self.folder / ".env").write_text(text, encoding="utf-8")

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        bare = {name: value for name, value in os.environ.items() if not name.startswith("ACESTEP_")}
        path = f"{self.bin}:{SYSTEM_PATH}"
        return subprocess.run(
            [str(self.folder / script), *arguments],
            env={
                **bare,
                "PATH": path,
                "STUB_DUMP": str(self.dump),
                "STUB_SLEEPS": str(self.sleeps),
                **environment,
            },
            cwd=self.elsewhere,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def launch(self, script: str, *arguments: str, **environment: str) -> dict[str, str]:
        """Run a foreground script; what of our variables the server got."""
        result = self.run(script, *arguments, **environment)
        assert result.returncode == 0, result.stderr
        dump = json.loads(self.dump.read_text(encoding="utf-8"))
        assert Path(dump["folder"]) == self.folder
        assert dump["arguments"] == ["run", "acestep-api", *arguments]
        return {name: value for name, value in dump["environment"].items() if name.startswith("ACESTEP_")}

    @property
    def slept(self) -> float:
        """Seconds that the scripts were to sleep, of which next to nothing passed."""
        return sum(map(float, self.sleeps.read_text(encoding="utf-8").split()))

    @property
    def pid(self) -> int:
        return int((self.folder / "server.pid").read_text(encoding="utf-8"))

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text(encoding="utf-8")


def alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(state.stdout.strip()) and not state.stdout.startswith("Z")
