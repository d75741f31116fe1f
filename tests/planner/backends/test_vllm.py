"""vLLM where it is not, or not as it should be. Where it is, it keeps the contract in `test_pt`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from acestep.errors import CheckpointError, ModelUnavailableError
from acestep.planner.backends import vllm
from acestep.planner.backends.vllm import load_vllm_language_model, why_not

CPU = torch.device("cpu")


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)


@pytest.fixture
def broken(absent: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be found, but not imported."""
    monkeypatch.setattr(vllm, "find_spec", lambda name: object())


@pytest.mark.usefixtures("absent")
def test_says_how_to_install_it() -> None:
    assert why_not(CPU) == "vLLM is not installed (`uv sync --extra vllm` installs it)"


@pytest.mark.usefixtures("broken")
def test_another_gpu_than_the_first_is_left_to_pytorch() -> None:
    assert why_not(torch.device("cuda:1")) == "vLLM runs on the first GPU alone, not on cuda:1"


@pytest.mark.usefixtures("broken")
def test_a_broken_installation_is_an_error() -> None:
    with pytest.raises(ModelUnavailableError, match=r"cannot be imported: .* Set ACESTEP_LM_BACKEND=pt"):
        why_not(CPU)


@pytest.mark.usefixtures("broken")
def test_what_does_not_start_names_the_model_and_the_way_out(toy: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=r"could not start acestep-5Hz-lm-toy: .*BACKEND=pt"):
        load_vllm_language_model(toy, CPU)


def test_a_folder_is_read_before_vllm_is_started(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_vllm_language_model(tmp_path, CPU)
