"""vLLM that is not installed, or broken. If it is installed, `test_pt` tests it as well."""

from __future__ import annotations

import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from acestep.engine.threads import collect, try_load
from acestep.errors import CheckpointError, ModelUnavailableError, NotEnoughMemoryError
from acestep.planner.backends import vllm
from acestep.planner.backends.vllm import load_vllm_language_model, why_not
from acestep.weights.safetensors import LoadTarget

CPU = torch.device("cpu")
TARGET = LoadTarget(CPU, torch.float32)


class Failing:
    """Raises this error for every attribute."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *_: object) -> None:
        raise self.error


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("vllm.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "vllm", None)


@pytest.fixture
def broken(absent: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be found, but not imported."""
    monkeypatch.setattr(vllm, "find_spec", lambda name: object())


def networks() -> int:
    """The number of vLLM's engines in memory."""
    gc.collect()
    return sum(type(each).__name__ == "AceStepPlanner" for each in gc.get_objects())


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_an_engine_that_is_closed_leaves_memory(toy: Path) -> None:
    before = networks()
    model = load_vllm_language_model(toy, TARGET, length=512)
    assert networks() == before + 1
    model.close()
    del model
    assert networks() == before


@pytest.mark.usefixtures("absent")
def test_says_how_to_install_it() -> None:
    assert why_not(CPU) == "vLLM is not installed (`uv sync --extra vllm` installs it)"


@pytest.mark.usefixtures("broken")
def test_pytorch_runs_on_other_gpus_than_the_first() -> None:
    assert why_not(torch.device("cuda:1")) == "vLLM runs on the first GPU alone, not on cuda:1"


@pytest.mark.usefixtures("broken")
def test_a_broken_installation_is_an_error() -> None:
    with pytest.raises(ModelUnavailableError, match=r"cannot be imported: .* Set ACESTEP_LM_BACKEND=pt"):
        why_not(CPU)


@pytest.mark.usefixtures("broken")
def test_an_engine_that_does_not_start_names_model_and_remedy(toy: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=r"could not start acestep-5Hz-lm-toy: .*BACKEND=pt"):
        load_vllm_language_model(toy, TARGET)


@pytest.mark.parametrize("error", [AttributeError("'_C' object has no attribute"), AssertionError()])
def test_the_reason_of_a_failed_start_is_reported(
    toy: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "_start", Failing(error))
    reason = str(error) or "AssertionError"
    with pytest.raises(ModelUnavailableError, match=rf"toy: {reason}\. Set ACESTEP_LM_BACKEND=pt"):
        load_vllm_language_model(toy, TARGET)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        ValueError("Free memory on device cuda:0 (0.3/79.2 GiB) on startup is less than desired"),
        ValueError("4.0 GiB KV cache is needed, which is larger than the available KV cache memory"),
    ],
)
def test_out_of_memory_is_not_a_broken_installation(
    toy: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "_start", Failing(error))
    with pytest.raises(NotEnoughMemoryError, match=r"the planner toy is too large for this server"):
        try_load("the planner toy", lambda: load_vllm_language_model(toy, TARGET), collect)


def test_a_wrong_setting_is_not_out_of_memory(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "_start", Failing(ValueError("gpu_memory_utilization must be positive")))
    with pytest.raises(ModelUnavailableError, match="must be positive"):
        load_vllm_language_model(toy, TARGET)


def test_the_planned_cache_size_overrides_the_environment(
    absent: None, broken: None, toy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    with pytest.raises(ModelUnavailableError):
        load_vllm_language_model(toy, TARGET)
    assert "VLLM_CPU_KVCACHE_SPACE" not in os.environ
    assert "VLLM_CPU_KVCACHE_SPACE has no effect" in caplog.text


def test_a_folder_is_read_before_vllm_is_started(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_vllm_language_model(tmp_path, TARGET)
