"""What tests of the memory plan share."""

from pathlib import Path

import pytest

from acestep.catalog.checkpoints import Choice, choose
from acestep.memory import decide as deciding
from acestep.memory.plan import Abilities


@pytest.fixture(autouse=True)
def _bare(bare_environment: None) -> None:
    """The plan is made of settings, which the machine's own are not to change."""


@pytest.fixture
def turbo(tmp_path: Path) -> Choice:
    """The published model, which is still to be downloaded."""
    return choose("acestep-v15-turbo", tmp_path, lambda: True, lambda: True)


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this version carried out every placement."""
    monkeypatch.setattr(deciding, "ABILITIES", Abilities(True, True, True))
