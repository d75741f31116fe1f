"""One toy for all tests of the backends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.planner.toy import Toy, write_toy


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # vLLM's attention on CPUs takes heads of multiples of 32.
    return write_toy(tmp_path_factory.mktemp("lm") / "acestep-5Hz-lm-toy", Toy(head_dim=32))
