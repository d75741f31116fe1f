"""The launch scripts, run as a user runs them; a stand-in for `uv` shows what reaches the server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from acestep.settings.settings import Settings
from tests.system.launch import BACKGROUND, LOWVRAM, MULTIMODEL, ROOT, SYSTEM_PATH, Project

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


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


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_is_content():
    scripts = [*ROOT.glob("*.sh"), ROOT / "scripts" / "launch.sh"]
    result = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
