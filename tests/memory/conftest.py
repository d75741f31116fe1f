"""What tests of the memory plan share."""

from pathlib import Path

import pytest

from acestep.checkpoints import Choice, choose
from acestep.settings import Settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"ACESTEP_{field.upper()}", raising=False)
    monkeypatch.delenv("MAX_CUDA_VRAM", raising=False)


@pytest.fixture
def turbo(tmp_path: Path) -> Choice:
    """The published model, which is still to be downloaded."""
    return choose("acestep-v15-turbo", tmp_path, lambda: True, lambda: True)
