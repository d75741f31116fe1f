"""Where settings come from, what they accept, and what is said when they do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from acestep.errors import SettingError
from acestep.settings.docs import render
from acestep.settings.settings import Settings, export_dotenv, project_folder, variable

pytestmark = pytest.mark.usefixtures("bare_environment")


@pytest.fixture
def dotenv(tmp_path):
    def write(text: str, encoding: str = "utf-8") -> None:
        (tmp_path / ".env").write_text(text, encoding=encoding)

    return write


def test_defaults(tmp_path):
    settings = Settings.load(tmp_path)
    assert (settings.api_host, settings.api_port, settings.api_key) == ("127.0.0.1", 8001, None)
    assert (settings.config_path, settings.offload_to_cpu, settings.init_llm) == (None, None, None)
    assert (settings.keep_seconds, settings.mp3_bitrate) == (7 * 24 * 3600, 256)
    assert settings.data_dir == tmp_path / ".cache" / "acestep"
    assert settings.tmpdir == settings.data_dir / "tmp"
    assert settings.checkpoints_dir == tmp_path / "checkpoints"


def test_flag_beats_environment_beats_dotenv_beats_default(tmp_path, dotenv, monkeypatch):
    dotenv("ACESTEP_API_PORT=1\nACESTEP_API_HOST=from.dotenv\nACESTEP_DEVICE=cpu\n")
    monkeypatch.setenv("ACESTEP_API_PORT", "2")
    monkeypatch.setenv("ACESTEP_API_HOST", "from.env")
    settings = Settings.load(tmp_path, api_port=3, api_host=None)
    assert (settings.api_port, settings.api_host, settings.device) == (3, "from.env", "cpu")
    assert settings.queue_maxsize == 200


def test_a_misspelt_flag_is_a_programming_error(tmp_path):
    with pytest.raises(TypeError, match="key"):
        Settings.load(tmp_path, key="secret")


def test_project_folder_holds_pyproject():
    assert (project_folder() / "pyproject.toml").is_file()


@pytest.mark.parametrize(
    ("line", "port"),
    [
        ("export ACESTEP_API_PORT='9000' # mine", 9000),
        ("ACESTEP_API_PORT = 9000\r", 9000),
        ("ACESTEP_API_PORT", 8001),
    ],
)
def test_dotenv_dialects(tmp_path, dotenv, line, port):
    dotenv(f"# settings\n{line}\n")
    assert Settings.load(tmp_path).api_port == port


def test_dotenv_with_a_byte_order_mark(tmp_path, dotenv):
    dotenv("ACESTEP_API_PORT=9000\n", encoding="utf-8-sig")
    settings = Settings.load(tmp_path)
    assert (settings.api_port, settings.unknown) == (9000, ())


def test_dotenv_in_another_encoding_is_refused_in_one_line(tmp_path, dotenv):
    dotenv("# 音楽\n", encoding="cp932")
    with pytest.raises(SettingError, match=r"^\.env=.*UTF-8$"):
        Settings.load(tmp_path)


@pytest.mark.parametrize("word", ["1", "true", "YES", "y", "On"])
def test_true_words(tmp_path, monkeypatch, word):
    monkeypatch.setenv("ACESTEP_STRICT", word)
    monkeypatch.setenv("ACESTEP_INIT_LLM", word)
    settings = Settings.load(tmp_path)
    assert (settings.strict, settings.init_llm) == (True, True)


@pytest.mark.parametrize("word", ["0", "false", "NO", "n", "Off"])
def test_false_words(tmp_path, monkeypatch, word):
    monkeypatch.setenv("ACESTEP_USE_FLASH_ATTENTION", word)
    monkeypatch.setenv("ACESTEP_OFFLOAD_TO_CPU", word)
    settings = Settings.load(tmp_path)
    assert (settings.use_flash_attention, settings.offload_to_cpu) == (False, False)


def test_auto_is_a_third_word_where_it_means_something(tmp_path, monkeypatch):
    monkeypatch.setenv("ACESTEP_INIT_LLM", "auto")
    assert Settings.load(tmp_path).init_llm is None
    monkeypatch.setenv("ACESTEP_STRICT", "auto")
    with pytest.raises(SettingError, match="ACESTEP_STRICT"):
        Settings.load(tmp_path)


def test_empty_means_not_set_and_still_hides_dotenv(tmp_path, dotenv, monkeypatch):
    dotenv("ACESTEP_CONFIG_PATH2=acestep-v15-base\nACESTEP_API_PORT=9000\nACESTEP_API_KEY=secret\n")
    for name in ("ACESTEP_CONFIG_PATH2", "ACESTEP_API_PORT", "ACESTEP_API_KEY"):
        monkeypatch.setenv(name, "")
    settings = Settings.load(tmp_path)
    assert (settings.config_path2, settings.api_port, settings.api_key) == (None, 8001, None)


def test_empty_offload_means_false(tmp_path, monkeypatch):
    monkeypatch.setenv("ACESTEP_OFFLOAD_TO_CPU", "")
    assert Settings.load(tmp_path).offload_to_cpu is False


def test_an_empty_key_flag_turns_the_key_off(tmp_path, monkeypatch):
    monkeypatch.setenv("ACESTEP_API_KEY", "secret")
    assert Settings.load(tmp_path, api_key="").api_key is None


def test_the_key_is_readable_but_never_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("ACESTEP_API_KEY", " sk-your-secret ")
    settings = Settings.load(tmp_path)
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sk-your-secret"
    assert "sk-your-secret" not in f"{settings!r} {settings} {settings.model_dump_json()}"


BAD = {
    "ACESTEP_API_PORT": ("70000", "0 to 65535"),
    "ACESTEP_DEVICE": ("gpu", "auto, cpu, cuda, cuda:N, mps, xpu"),
    "ACESTEP_INIT_LLM": ("maybe", "auto, true or false"),
    "ACESTEP_QUEUE_MAXSIZE": ("many", "0 or more jobs"),
    "ACESTEP_MP3_BITRATE": ("200", "128, 160, 192, 224, 256 or 320 kbit/s"),
    "ACESTEP_UNKNOWN_TASK_STATUS": ("1", "2 or 0"),
    "ACESTEP_CORS_ORIGINS": ("example.org", "origins as https://example.org"),
    "ACESTEP_API_LOG_LEVEL": ("loud", "debug, info, warning, error, critical"),
    "ACESTEP_LM_BACKEND": ("sglang", "vllm, pt, mlx"),
    "ACESTEP_KEEP_SECONDS": ("1.5", "60 or more s"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_refused_in_one_line(tmp_path, dotenv, name):
    value, allowed = BAD[name]
    dotenv(f"{name}={value}\n")
    with pytest.raises(SettingError) as caught:
        Settings.load(tmp_path)
    assert caught.value.variable == name
    assert allowed in caught.value.allowed
    assert str(caught.value).startswith(f"{name}=")
    assert value in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_flag_is_named_by_its_variable(tmp_path):
    with pytest.raises(SettingError, match=r"^ACESTEP_API_PORT=-1 cannot be used"):
        Settings.load(tmp_path, api_port=-1)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "mps", "xpu"])
def test_devices(tmp_path, device):
    assert Settings.load(tmp_path, device=device).device == device


def test_several_devices_are_a_list(tmp_path):
    settings = Settings.load(tmp_path, device="cuda:0, cuda:2")
    assert settings.devices == ("cuda:0", "cuda:2")
    assert settings.on("cuda:2").devices == ("cuda:2",)
    assert Settings.load(tmp_path).devices == ("auto",)
    assert Settings.load(tmp_path, device="cpu,cpu").devices == ("cpu", "cpu")


@pytest.mark.parametrize("devices", ["cuda:0,cuda:0", "cuda,cuda:1", "auto,cpu", "cpu,", "cuda:0 cuda:1"])
def test_a_list_names_each_gpu_once_and_by_its_number(tmp_path, devices):
    with pytest.raises(SettingError, match="ACESTEP_DEVICE"):
        Settings.load(tmp_path, device=devices)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("none", "None", "false", ""), "none"),
        (("int8", "int8_weight_only", "INT8"), "int8"),
        (("fp8", "fp8_weight_only"), "fp8"),
    ],
)
def test_quantization_has_several_names(tmp_path, monkeypatch, words, kind):
    for word in words:
        monkeypatch.setenv("ACESTEP_QUANTIZATION", word)
        assert Settings.load(tmp_path).quantization == kind
    monkeypatch.setenv("ACESTEP_QUANTIZATION", "w8a8_dynamic")
    with pytest.raises(SettingError, match=r"^ACESTEP_QUANTIZATION='w8a8_dynamic' .*none, int8 \(or int8_w"):
        Settings.load(tmp_path)


def test_lists_and_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("ACESTEP_CORS_ORIGINS", "local, https://example.org")
    monkeypatch.setenv("ACESTEP_AUDIO_ROOTS", os.pathsep.join(["songs", "/srv/audio", "~/music"]))
    monkeypatch.setenv("ACESTEP_DATA_DIR", "data")
    settings = Settings.load(tmp_path)
    assert settings.cors_origins == ("local", "https://example.org")
    assert settings.audio_roots == (tmp_path / "songs", Path("/srv/audio"), Path("~/music").expanduser())
    assert (settings.data_dir, settings.tmpdir) == (tmp_path / "data", tmp_path / "data" / "tmp")


def test_unknown_variables_are_reported_with_a_suggestion(tmp_path, dotenv, monkeypatch):
    dotenv("ACESTEP_API_PROT=1\nHF_ENDPOINT=https://example.org\n")
    monkeypatch.setenv("ACESTEP_ZZZZZZ", "1")
    monkeypatch.setenv("ACESTEP_CONDA_ENV", "acestep")
    monkeypatch.setenv("ACESTEP_PARITY_DIR", "/parity")
    assert Settings.load(tmp_path).unknown == (
        "ACESTEP_API_PROT is not a setting of this server; did you mean ACESTEP_API_PORT?",
        "ACESTEP_CONDA_ENV is not a setting of this server: the launch scripts need no conda environment",
        "ACESTEP_ZZZZZZ is not a setting of this server",
    )


def test_what_was_set_without_effect_is_reported(tmp_path, dotenv):
    dotenv("ACESTEP_API_WORKERS=4\nACESTEP_API_PORT=9000\n")
    (said,) = Settings.load(tmp_path).without_effect
    assert said.startswith("ACESTEP_API_WORKERS: No effect")


def test_dotenv_can_be_exported_for_libraries(tmp_path, dotenv, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "exported")
    monkeypatch.setenv("HF_ENDPOINT", "to be restored")
    monkeypatch.delenv("HF_ENDPOINT")
    dotenv("HF_ENDPOINT=https://mirror.example.org\nHF_TOKEN=from-dotenv\n", encoding="utf-8-sig")
    export_dotenv(tmp_path)
    assert os.environ["HF_ENDPOINT"] == "https://mirror.example.org"
    assert os.environ["HF_TOKEN"] == "exported"


@pytest.mark.parametrize(
    ("sent", "origins"),
    [
        ("null,http://192.168.1.5:3000", ("null", "http://192.168.1.5:3000")),
        ("chrome-extension://abc", ("chrome-extension://abc",)),
        ("none", ("none",)),
        ("", ("local",)),
    ],
)
def test_origins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sent: str, origins: tuple[str, ...]):
    monkeypatch.setenv("ACESTEP_CORS_ORIGINS", sent)
    assert Settings.load(tmp_path).cors_origins == origins


@pytest.mark.parametrize(("sent", "path"), [("music/", "/music"), ("/a/b", "/a/b"), ("/", "")])
def test_root_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sent: str, path: str):
    monkeypatch.setenv("ACESTEP_ROOT_PATH", sent)
    assert Settings.load(tmp_path).root_path == path


def test_the_documentation_is_current():
    page = project_folder() / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == render(), "run `python -m acestep.settings.docs`"


def test_every_setting_is_documented_once():
    page = render()
    assert all(page.count(f"| `{variable(field)}` |") == 1 for field in Settings.model_fields)
    assert all(len(line.split(" | ")) == 4 for line in page.splitlines() if line.startswith("| `"))
