from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from acestep.engine.engine import Engine
from acestep.files import AudioStore
from tests.engine.clock import Clock
from tests.engine.fakes import FakeRenderer, loads, running


@pytest.fixture
def files(tmp_path: Path) -> AudioStore:
    return AudioStore(tmp_path / "audio", b"s" * 32)


@pytest.fixture
def renderer() -> FakeRenderer:
    return FakeRenderer()


@pytest.fixture
async def engine(files: AudioStore, renderer: FakeRenderer) -> AsyncIterator[Engine]:
    async with running(files, loads(renderer)) as engine:
        await engine.wait_ready()
        yield engine


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("acestep.engine.threads.time", clock)
    monkeypatch.setattr("acestep.planner.loop.time", clock)
    for seconds in ("_POLL_STUCK_SECONDS", "_POLL_ENDING_SECONDS"):
        monkeypatch.setattr(f"acestep.engine.threads.{seconds}", 0.005)
    return clock
