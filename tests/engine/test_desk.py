from __future__ import annotations

from pathlib import Path

import pytest

from acestep.domain import DraftRequest, Metadata, PlannerInfo
from acestep.engine.desk import PlannerDesk
from acestep.errors import PlannerUnavailableError
from acestep.files import AudioStore
from tests.engine.fakes import FakeRenderer, loads, running, wanted
from tests.engine.test_thinking import MODEL, desk
from tests.planner.fakes import WalkingModel, read


async def test_who_sits_there_is_known_once_loaded() -> None:
    at_work = desk(WalkingModel())
    assert at_work.info() == PlannerInfo("acestep-5Hz-lm-toy", "loading")
    await at_work.start()
    async with at_work.borrow() as planner:
        assert planner.name == "acestep-5Hz-lm-toy"
    assert at_work.info() == PlannerInfo("acestep-5Hz-lm-toy", "ready", "runs on a toy", "toy")
    await at_work.close()


async def test_an_empty_desk_says_why() -> None:
    empty = PlannerDesk(PlannerInfo(detail="Set ACESTEP_INIT_LLM."))
    await empty.start()
    assert not empty.info().is_usable
    with pytest.raises(PlannerUnavailableError, match="Set ACESTEP_INIT_LLM"):
        async with empty.borrow():
            pass
    await empty.close()


async def test_an_engine_drafts(files: AudioStore) -> None:
    async with running(files, loads(FakeRenderer(), MODEL), MODEL, desk(WalkingModel())) as engine:
        asked = DraftRequest("format", caption="a song", metadata=Metadata(bpm=90), seed=3)
        draft = await engine.draft(asked, wanted)
        assert draft.metadata.bpm == 90
        assert draft.metadata.caption
        assert await engine.draft(asked, wanted) == draft


async def test_a_file_is_heard_as_codes_before_it_is_understood(files: AudioStore, tmp_path: Path) -> None:
    model = WalkingModel()
    recording = tmp_path / "recording"
    recording.write_bytes(bytes([7, 3] * 30))  # what the fake renderer hears in it
    async with running(files, loads(FakeRenderer(), MODEL), MODEL, desk(model)) as engine:
        draft = await engine.draft(DraftRequest("understand", audio_path=str(recording)), wanted)
    assert draft.metadata.duration == 12
    assert "<|audio_code_7|><|audio_code_3|>" in read(model.generations[0].prompt)
