from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from acestep.domain.draft import DraftRequest, Metadata
from acestep.domain.models import PlannerInfo
from acestep.engine.planner_entry import PlannerEntry
from acestep.engine.planner_host import PlannerHost
from acestep.engine.renderer import LoadedPlanner, OnLoading
from acestep.errors import (
    CheckpointError,
    ModelUnavailableError,
    PlannerUnavailableError,
)
from acestep.files import AudioStore
from tests.engine.fakes import (
    FakeRenderer,
    loads,
    planner_host,
    running,
    wanted,
)
from tests.engine.test_planning import MODEL, host
from tests.planner.fakes import WalkingModel, read


async def test_the_backend_is_known_once_loaded() -> None:
    at_work = host(WalkingModel())
    assert at_work.known.info() == PlannerInfo("acestep-5Hz-lm-toy", "loading")
    await at_work.start()
    async with at_work.borrow() as planner:
        assert planner.name == "acestep-5Hz-lm-toy"
    assert at_work.known.info() == PlannerInfo("acestep-5Hz-lm-toy", "ready", "runs on a toy", "toy")
    await at_work.close()


async def test_an_absent_planner_says_why() -> None:
    empty = planner_host(PlannerInfo(detail="Set ACESTEP_INIT_LLM."))
    await empty.start()
    assert not empty.known.info().is_usable
    with pytest.raises(PlannerUnavailableError, match="Set ACESTEP_INIT_LLM"):
        async with empty.borrow():
            pass
    await empty.close()


async def test_an_engine_drafts(files: AudioStore) -> None:
    async with running(files, loads(FakeRenderer(), MODEL), MODEL, host(WalkingModel())) as engine:
        asked = DraftRequest("format", caption="a song", metadata=Metadata(bpm=90), seed=3)
        draft = await engine.draft(asked, wanted)
        assert draft.metadata.bpm == 90
        assert draft.metadata.caption
        assert await engine.draft(asked, wanted) == draft


async def test_a_file_is_encoded_before_it_is_understood(files: AudioStore, tmp_path: Path) -> None:
    model = WalkingModel()
    recording = tmp_path / "recording"
    recording.write_bytes(bytes([7, 3] * 30))  # what the fake renderer hears in it
    async with running(files, loads(FakeRenderer(), MODEL), MODEL, host(model)) as engine:
        draft = await engine.draft(DraftRequest("understand", audio_path=str(recording)), wanted)
    assert draft.metadata.duration == 12
    assert "<|audio_code_7|><|audio_code_3|>" in read(model.generations[0].prompt)


class Swapping:
    """A host with a planner, and others to replace it."""

    def __init__(self) -> None:
        self.host = host(WalkingModel())
        self.loads: list[str] = []

    def other(self, name: str = "other", reason: str = "") -> PlannerEntry:
        def load(_: OnLoading) -> LoadedPlanner:
            self.loads.append(name)
            if reason:
                raise CheckpointError(reason)
            model = WalkingModel()
            model.name = name
            return LoadedPlanner(model, "toy")

        return PlannerEntry(PlannerInfo(name, "loading"), load)

    async def put(self, name: str = "other", reason: str = "") -> PlannerInfo:
        await self.host.put(self.other(name, reason))
        return self.host.known.info()


@pytest.fixture
async def swapping() -> AsyncIterator[Swapping]:
    there = Swapping()
    await there.host.start()
    yield there
    await there.host.close()


async def test_a_replacement_waits_for_texts_that_are_being_generated(swapping: Swapping) -> None:
    at_work = swapping.host
    async with at_work.borrow() as planner:
        putting = asyncio.create_task(swapping.put())
        await asyncio.sleep(0.01)
        later = asyncio.create_task(named(at_work))
        await asyncio.sleep(0.01)
        assert planner.name == "acestep-5Hz-lm-toy" and not putting.done() and swapping.loads == []
        draft = await planner.draft(DraftRequest("format", caption="a song", metadata=Metadata(bpm=90)))
        assert draft.metadata.bpm == 90
    assert await putting == PlannerInfo("other", "ready", "", "toy")
    assert await later == "other", "it was queued behind the replacement"
    assert at_work.known.info().name == "other"


async def test_if_loading_fails_the_first_is_loaded_again(swapping: Swapping) -> None:
    at_work = swapping.host
    assert await named(at_work) == "acestep-5Hz-lm-toy"
    async with at_work.borrow():
        putting = asyncio.create_task(swapping.put(reason="a tensor is missing"))
        await asyncio.sleep(0.01)
        later = asyncio.create_task(named(at_work))
        await asyncio.sleep(0.01)
    with pytest.raises(ModelUnavailableError, match=r"other could not be loaded: a tensor is missing"):
        await putting
    assert await later == "acestep-5Hz-lm-toy"
    assert at_work.known.info().state == "ready"
    assert (await swapping.put("third")).name == "third"


async def test_an_absent_planner_is_replaced(swapping: Swapping) -> None:
    absent = planner_host(PlannerInfo(detail="Set ACESTEP_INIT_LLM."))
    await absent.start()
    with pytest.raises(ModelUnavailableError, match="a tensor is missing"):
        await absent.put(swapping.other(reason="a tensor is missing"))
    assert absent.known.info() == PlannerInfo(detail="Set ACESTEP_INIT_LLM.")
    with pytest.raises(PlannerUnavailableError, match="Set ACESTEP_INIT_LLM"):
        await named(absent)
    before = await absent.put(swapping.other())
    assert (absent.known.info().state, await named(absent)) == ("ready", "other")
    await absent.restore(before)
    assert absent.known.info() == PlannerInfo(detail="Set ACESTEP_INIT_LLM.")
    with pytest.raises(PlannerUnavailableError, match="Set ACESTEP_INIT_LLM"):
        await named(absent)
    await absent.close()


async def test_a_restored_planner_is_loaded_again(swapping: Swapping) -> None:
    assert await named(swapping.host) == "acestep-5Hz-lm-toy"
    before = await swapping.host.put(swapping.other())
    async with swapping.host.borrow() as planner:
        restoring = asyncio.create_task(swapping.host.restore(before))
        await asyncio.sleep(0.01)
        assert planner.name == "other" and not restoring.done()
    await restoring
    assert swapping.host.known.info().state == "loading"
    assert await named(swapping.host) == "acestep-5Hz-lm-toy"


async def test_replacements_take_turns(swapping: Swapping) -> None:
    names = ["a", "b", "c"]
    replaced = await asyncio.gather(*(swapping.host.put(swapping.other(name)) for name in names))
    assert [entry.info.name for entry in replaced] == ["acestep-5Hz-lm-toy", "a", "b"]
    assert swapping.loads == names
    assert await named(swapping.host) == "c"


async def test_a_request_that_is_cancelled_while_the_planner_drains_leaves_it_in_memory(
    swapping: Swapping,
) -> None:
    async with swapping.host.borrow() as planner:
        putting = asyncio.create_task(swapping.put())
        await asyncio.sleep(0.01)
        putting.cancel()
        await asyncio.wait([putting])
        assert (planner.name, swapping.loads) == ("acestep-5Hz-lm-toy", [])
    assert swapping.host.known.info().state == "ready"
    assert await named(swapping.host) == "acestep-5Hz-lm-toy"


async def named(host: PlannerHost) -> str:
    async with host.borrow() as planner:
        return planner.name
