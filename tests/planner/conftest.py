"""The installed backends."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.planner.loaders import Load, load_on_torch, load_on_vllm

LOADERS = {"pt": load_on_torch} | ({"vllm": load_on_vllm} if find_spec("vllm") else {})


@pytest.fixture(scope="module", params=LOADERS)
def load(request: pytest.FixtureRequest) -> Load:
    """Loads a toy's folder; on vLLM if it is installed (docs/planner.md)."""
    return LOADERS[request.param]
