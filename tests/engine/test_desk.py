from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from acestep.domain import DraftRequest, Metadata, PlannerInfo
from acestep.engine.desk import LoadedPlanner, LoadPlanner, PlannerDesk
from acestep.engine.renderer import OnLoading
from acestep.errors import CheckpointError, ModelUnavailableError, PlannerUnavailableError
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


class Swapping:
    """A desk with a planner, and another to put there."""

    def __init__(self) -> None:
        self.desk = desk(WalkingModel())
        self.loads: list[str] = []

    def other(self, name: str = "other", reason: str = "") -> tuple[PlannerInfo, LoadPlanner]:
        def load(_: OnLoading) -> LoadedPlanner:
            self.loads.append(name)
            if reason:
                raise CheckpointError(reason)
            model = WalkingModel()
            model.name = name
            return LoadedPlanner(model, "toy")

        return PlannerInfo(name, "loading"), load


@pytest.fixture
async def swapping() -> AsyncIterator[Swapping]:
    there = Swapping()
    await there.desk.start()
    yield there
    await there.desk.close()


async def test_another_planner_comes_when_the_texts_of_the_first_have_ended(swapping: Swapping) -> None:
    at_work = swapping.desk
    async with at_work.borrow() as planner:
        putting = asyncio.create_task(at_work.put(*swapping.other()))
        await asyncio.sleep(0.01)
        later = asyncio.create_task(named(at_work))
        await asyncio.sleep(0.01)
        assert planner.name == "acestep-5Hz-lm-toy" and not putting.done() and swapping.loads == []
        draft = await planner.draft(DraftRequest("format", caption="a song", metadata=Metadata(bpm=90)))
        assert draft.metadata.bpm == 90
    assert await putting == PlannerInfo("other", "ready", "", "toy")
    assert await later == "other", "who came meanwhile waited for it"
    assert at_work.info().name == "other"


async def test_where_it_cannot_be_loaded_the_first_comes_again(swapping: Swapping) -> None:
    at_work = swapping.desk
    assert await named(at_work) == "acestep-5Hz-lm-toy"
    async with at_work.borrow():
        putting = asyncio.create_task(at_work.put(*swapping.other(reason="a tensor is missing")))
        await asyncio.sleep(0.01)
        later = asyncio.create_task(named(at_work))
        await asyncio.sleep(0.01)
    with pytest.raises(ModelUnavailableError, match=r"other could not be loaded: a tensor is missing"):
        await putting
    assert await later == "acestep-5Hz-lm-toy"
    assert at_work.info().state == "ready"
    assert (await at_work.put(*swapping.other("third"))).name == "third"


async def test_an_empty_desk_gets_a_planner() -> None:
    empty, swapping = PlannerDesk(PlannerInfo(detail="Set ACESTEP_INIT_LLM.")), Swapping()
    await empty.start()
    with pytest.raises(ModelUnavailableError, match="no"):
        await empty.put(*swapping.other(reason="no"))
    assert empty.info().detail == "Set ACESTEP_INIT_LLM."
    with pytest.raises(PlannerUnavailableError, match="Set ACESTEP_INIT_LLM"):
        await named(empty)
    assert (await empty.put(*swapping.other())).state == "ready"
    assert await named(empty) == "other"
    await empty.close()


async def test_one_after_the_other(swapping: Swapping) -> None:
    names = ["a", "b", "c"]
    infos = await asyncio.gather(*(swapping.desk.put(*swapping.other(name)) for name in names))
    assert [info.name for info in infos] == swapping.loads == names
    assert await named(swapping.desk) == "c"


async def test_a_client_that_left_does_not_stop_it_half_way(swapping: Swapping) -> None:
    async with swapping.desk.borrow():
        putting = asyncio.create_task(swapping.desk.put(*swapping.other()))
        await asyncio.sleep(0.01)
        putting.cancel()
        await asyncio.sleep(0.01)
    assert await named(swapping.desk) == "other"


async def named(desk: PlannerDesk) -> str:
    async with desk.borrow() as planner:
        return planner.name
