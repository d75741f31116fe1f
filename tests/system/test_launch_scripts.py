"""The launch scripts, run as a user runs them; a stand-in for `uv` shows what reaches the server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from acestep.settings.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
MULTIMODEL, LOWVRAM = "run_api_server_multimodel.sh", "run_api_server_lowvram.sh"
BACKGROUND, CLOSE = "run_api_server.sh", "close_api_server.sh"
SYSTEM_PATH = "/usr/bin:/bin"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

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


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@pytest.fixture
def running(project, port):
    """A server in the background, that is sure to be gone afterwards."""
    result = project.run(BACKGROUND, ACESTEP_API_PORT=port, STUB="serve")
    assert result.returncode == 0, result.stderr
    pid = project.pid
    yield pid
    if alive(pid):
        os.kill(pid, 9)


def alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(state.stdout.strip()) and not state.stdout.startswith("Z")


def settings_of(project: Project, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the server makes of the environment and the `.env` of the project."""
    for name in [name for name in os.environ if name.startswith("ACESTEP_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings.load(project.folder)


def test_multimodel_defaults(project):
    assert project.launch(MULTIMODEL) == {
        "ACESTEP_CONFIG_PATH": "acestep-v15-turbo",
        "ACESTEP_LAUNCHED_BY": f"./{MULTIMODEL}",
        "ACESTEP_CONFIG_PATH2": "acestep-v15-base",
        "ACESTEP_CONFIG_PATH3": "",
        "ACESTEP_LM_MODEL_PATH": "acestep-5Hz-lm-4B",
        "ACESTEP_LM_BACKEND": "vllm",
        "ACESTEP_API_HOST": "0.0.0.0",
        "ACESTEP_API_PORT": "8001",
        "ACESTEP_API_LOG_LEVEL": "debug",
    }


def test_lowvram_defaults(project):
    assert project.launch(LOWVRAM) == {
        "ACESTEP_CONFIG_PATH": "acestep-v15-turbo",
        "ACESTEP_LAUNCHED_BY": f"./{LOWVRAM}",
        "ACESTEP_CONFIG_PATH2": "",
        "ACESTEP_CONFIG_PATH3": "",
        "ACESTEP_MODELS": "",
        "ACESTEP_INIT_LLM": "1",
        "ACESTEP_LM_MODEL_PATH": "acestep-5Hz-lm-1.7B",
        "ACESTEP_LM_BACKEND": "vllm",
        "ACESTEP_OFFLOAD_TO_CPU": "1",
        "ACESTEP_LM_OFFLOAD_TO_CPU": "1",
        "ACESTEP_OFFLOAD_DIT_TO_CPU": "0",
        "ACESTEP_API_HOST": "0.0.0.0",
        "ACESTEP_API_PORT": "8001",
        "ACESTEP_API_LOG_LEVEL": "debug",
    }


@pytest.mark.parametrize("script", [MULTIMODEL, LOWVRAM])
def test_exported_beats_dotenv_beats_the_script(project, script, monkeypatch):
    project.dotenv(
        "# mine\n"
        "ACESTEP_API_PORT=9001\n"
        "export ACESTEP_LM_MODEL_PATH='acestep-5Hz-lm-0.6B'\n"
        "  ACESTEP_API_HOST = 127.0.0.1 # here only\r\n"
        "#ACESTEP_API_LOG_LEVEL=error\n"
    )
    exported = {"ACESTEP_API_PORT": "9002", "ACESTEP_CONFIG_PATH": "/models/my own"}
    settings = settings_of(project, project.launch(script, **exported), monkeypatch)
    assert (settings.api_port, settings.config_path) == (9002, "/models/my own")
    assert (settings.lm_model_path, settings.api_host) == ("acestep-5Hz-lm-0.6B", "127.0.0.1")
    assert settings.api_log_level == "debug"


def test_lowvram_runs_one_model_whatever_is_set(project, monkeypatch):
    project.dotenv("ACESTEP_CONFIG_PATH2=acestep-v15-base\n")
    environment = project.launch(LOWVRAM, ACESTEP_CONFIG_PATH3="acestep-v15-sft")
    settings = settings_of(project, environment, monkeypatch)
    assert (settings.config_path, settings.config_path2, settings.config_path3) == (
        "acestep-v15-turbo",
        None,
        None,
    )


def test_multimodel_can_do_without_its_second_model(project, monkeypatch):
    environment = project.launch(MULTIMODEL, ACESTEP_CONFIG_PATH2="")
    assert settings_of(project, environment, monkeypatch).config_path2 is None


@pytest.mark.parametrize("script", [MULTIMODEL, LOWVRAM])
@pytest.mark.parametrize("place", ["exported", "dotenv"])
def test_nano_is_tried_without_what_the_other_models_need(project, script, place, monkeypatch):
    project.dotenv("ACESTEP_CONFIG_PATH='acestep-nano'\n" if place == "dotenv" else "")
    exported = {"ACESTEP_CONFIG_PATH": "acestep-nano"} if place == "exported" else {}
    settings = settings_of(project, project.launch(script, **exported), monkeypatch)
    assert (settings.config_path, settings.config_path2, settings.lm_model_path) == (
        "acestep-nano",
        None,
        None,
    )
    assert settings.init_llm is None
    named = settings_of(
        project, project.launch(script, **exported, ACESTEP_LM_MODEL_PATH="mine"), monkeypatch
    )
    assert named.lm_model_path == "mine"  # as was asked for


def test_dotenv_is_read_not_run(project):
    project.dotenv("ACESTEP_API_HOST=$(touch ran)\ntouch ran\nX=`touch ran`\n")
    project.launch(MULTIMODEL)
    assert not (project.folder / "ran").exists()


def test_dotenv_with_a_byte_order_mark(project):
    project.dotenv("\ufeffACESTEP_API_PORT=9001\n")
    assert "ACESTEP_API_PORT" not in project.launch(MULTIMODEL)


def test_arguments_reach_the_server(project):
    project.launch(MULTIMODEL, "--api-key", "sk-your secret")


def test_the_environment_beside_the_scripts_serves_without_uv(project):
    if shutil.which("uv", path=SYSTEM_PATH):
        pytest.skip("uv is installed system-wide")
    project.install(project.folder / ".venv" / "bin" / "acestep-api")
    result = project.run(MULTIMODEL, PATH=SYSTEM_PATH)
    assert result.returncode == 0, result.stderr
    assert json.loads(project.dump.read_text(encoding="utf-8"))["arguments"] == []


@pytest.mark.parametrize("script", [MULTIMODEL, LOWVRAM, BACKGROUND])
def test_without_uv_and_environment_one_line_says_how_to_get_it(project, script, port):
    if shutil.which("uv", path=SYSTEM_PATH):
        pytest.skip("uv is installed system-wide")
    result = project.run(script, PATH=SYSTEM_PATH, ACESTEP_API_PORT=port)
    assert result.returncode == 1
    assert result.stderr == "uv is missing. Get it with: curl -LsSf https://astral.sh/uv/install.sh | sh\n"


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


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_is_content():
    scripts = [*ROOT.glob("*.sh"), ROOT / "scripts" / "launch.sh"]
    result = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
