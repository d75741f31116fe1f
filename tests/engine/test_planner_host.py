from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from acestep.domain.models import PlannerInfo
from acestep.domain.song import Draft, DraftRequest, Metadata
from acestep.engine.idle import IdlePolicy
from acestep.engine.planner_host import LoadedPlanner, LoadPlanner, PlannerHost
from acestep.engine.renderer import OnLoading
from acestep.engine.threads import Watchdog
from acestep.errors import (
    CheckpointError,
    ModelUnavailableError,
    NotEnoughMemoryError,
    PlannerError,
    PlannerUnavailableError,
    StageStuckError,
)
from acestep.files import AudioStore
from acestep.planner.language_model import StepOutput
from acestep.planner.planner import Watch
from tests.engine.fakes import PATIENCE, FakeRenderer, loads, request, running, unheard, until, wanted
from tests.engine.test_planning import MODEL, PLAIN, THINKING, host
from tests.planner.fakes import WalkingModel, read
from tests.planner.test_loop import GatedModel


async def test_who_sits_there_is_known_once_loaded() -> None:
    at_work = host(WalkingModel())
    assert at_work.info() == PlannerInfo("acestep-5Hz-lm-toy", "loading")
    await at_work.start()
    async with at_work.borrow() as planner:
        assert planner.name == "acestep-5Hz-lm-toy"
    assert at_work.info() == PlannerInfo("acestep-5Hz-lm-toy", "ready", "runs on a toy", "toy")
    await at_work.close()


async def test_an_empty_desk_says_why() -> None:
    empty = PlannerHost(PlannerInfo(detail="Set ACESTEP_INIT_LLM."))
    await empty.start()
    assert not empty.info().is_usable
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


async def test_a_file_is_heard_as_codes_before_it_is_understood(files: AudioStore, tmp_path: Path) -> None:
    model = WalkingModel()
    recording = tmp_path / "recording"
    recording.write_bytes(bytes([7, 3] * 30))  # what the fake renderer hears in it
    async with running(files, loads(FakeRenderer(), MODEL), MODEL, host(model)) as engine:
        draft = await engine.draft(DraftRequest("understand", audio_path=str(recording)), wanted)
    assert draft.metadata.duration == 12
    assert "<|audio_code_7|><|audio_code_3|>" in read(model.generations[0].prompt)


class Swapping:
    """A desk with a planner, and another to put there."""

    def __init__(self) -> None:
        self.host = host(WalkingModel())
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
    await there.host.start()
    yield there
    await there.host.close()


async def test_another_planner_comes_when_the_texts_of_the_first_have_ended(swapping: Swapping) -> None:
    at_work = swapping.host
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
    at_work = swapping.host
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
    empty, swapping = PlannerHost(PlannerInfo(detail="Set ACESTEP_INIT_LLM.")), Swapping()
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
    infos = await asyncio.gather(*(swapping.host.put(*swapping.other(name)) for name in names))
    assert [info.name for info in infos] == swapping.loads == names
    assert await named(swapping.host) == "c"


async def test_a_client_that_left_does_not_stop_it_half_way(swapping: Swapping) -> None:
    async with swapping.host.borrow():
        putting = asyncio.create_task(swapping.host.put(*swapping.other()))
        await asyncio.sleep(0.01)
        putting.cancel()
        await asyncio.sleep(0.01)
    assert await named(swapping.host) == "other"


SILENCE = 0.8  # seconds that a stage may be silent; a busy machine holds up what is not stuck for less
FORMAT = DraftRequest("format", caption="a song", metadata=Metadata(bpm=90))


class Stuck:
    """A desk whose planner takes no step until it is let, and which loads others when `go_on` is set."""

    def __init__(self) -> None:
        self.model = GatedModel()
        self.go_on = threading.Event()
        self.go_on.set()
        self.loads: list[str] = []
        self.watchdog = Watchdog(SILENCE)
        info, load = self.planner("first", self.model)
        self.host = PlannerHost(info, load, idle_policy=IdlePolicy(self.watchdog))

    def planner(self, name: str, model: WalkingModel | None = None) -> tuple[PlannerInfo, LoadPlanner]:
        there = model or WalkingModel()
        there.name = name

        def load(on_loading: OnLoading) -> LoadedPlanner:
            self.loads.append(name)
            assert self.go_on.wait(PATIENCE)
            return LoadedPlanner(there, "toy")

        return PlannerInfo(name, "loading"), load

    async def draft(self) -> Draft:
        return await self.host.draft(FORMAT, 600.0, Watch())


@pytest.fixture
async def stuck() -> AsyncIterator[Stuck]:
    there = Stuck()
    await there.host.start()
    yield there
    there.go_on.set()
    there.model.let(10_000)
    await until(lambda: not there.watchdog.trouble())
    await there.host.close()


class TestStuck:
    async def test_who_waits_for_a_planner_that_does_not_come_hears_so(self, stuck: Stuck) -> None:
        assert await named(stuck.host) == "first"
        await stuck.host.leave()
        stuck.go_on.clear()
        with pytest.raises(StageStuckError, match="Stage load first made no progress"):
            await named(stuck.host)
        assert "Stage load first" in stuck.watchdog.trouble()
        stuck.go_on.set()
        await until(lambda: not stuck.watchdog.trouble())
        assert await named(stuck.host) == "first"
        assert stuck.loads == ["first", "first"], "it came late, and is used"

    async def test_a_planner_whose_thread_is_stuck_is_not_replaced(self, stuck: Stuck) -> None:
        with pytest.raises(StageStuckError, match="Stage plan"):
            await stuck.draft()
        with pytest.raises(StageStuckError, match=r"Stage plan .* restart the server"):
            async with asyncio.timeout(SILENCE / 2):
                await stuck.host.put(*stuck.planner("other"))
        assert (stuck.host.info().name, stuck.host.info().state) == ("first", "ready")
        stuck.model.let(10_000)
        await until(lambda: not stuck.watchdog.trouble())
        assert (await stuck.draft()).metadata.bpm == 90
        assert stuck.loads == ["first"]
        assert (await stuck.host.put(*stuck.planner("other"))).name == "other"

    @pytest.mark.parametrize("left", [False, True], ids=["somebody waits", "nobody waits any more"])
    async def test_one_that_gets_stuck_before_it_is_replaced_stays(self, stuck: Stuck, left: bool) -> None:
        writing = asyncio.create_task(stuck.draft())
        await until(lambda: stuck.model.entered > 0)
        if left:
            writing.cancel()
        with pytest.raises(StageStuckError, match="Stage plan"):
            async with asyncio.timeout(PATIENCE / 2):
                await stuck.host.put(*stuck.planner("other"))
        await asyncio.wait([writing])
        assert await named(stuck.host) == "first"
        assert stuck.loads == ["first"]

    async def test_a_step_that_nobody_waits_for_ends_before_another_planner_comes(self, stuck: Stuck) -> None:
        writing = asyncio.create_task(stuck.draft())
        await until(lambda: stuck.model.entered > 0)
        writing.cancel()
        putting = asyncio.create_task(stuck.host.put(*stuck.planner("other")))
        await asyncio.sleep(0.1)
        assert not putting.done() and stuck.host.info().name == "first"
        stuck.model.let(10_000)
        assert (await putting).name == "other"

    async def test_where_another_does_not_come_the_first_is_wanted_again(self, stuck: Stuck) -> None:
        assert await named(stuck.host) == "first"
        stuck.go_on.clear()
        putting = asyncio.create_task(stuck.host.put(*stuck.planner("other")))
        with pytest.raises(StageStuckError, match="Stage load other"):
            await putting
        waiting = asyncio.create_task(named(stuck.host))
        await asyncio.sleep(SILENCE)
        assert not waiting.done(), "who waits behind it is not failed"
        stuck.go_on.set()
        assert await waiting == "first"
        assert stuck.loads == ["first", "other", "first"]


class FragileModel(WalkingModel):
    """Raises `broken` at every step from the one on that it is set at."""

    broken: Exception | None = None

    def step(self) -> Sequence[StepOutput]:
        if self.broken is not None and self.generations:
            raise self.broken
        return super().step()


class Fragile:
    """A desk whose planner may break; `models` are those that were loaded."""

    def __init__(self) -> None:
        self.models: list[FragileModel] = []
        self.reason = ""
        self.host = PlannerHost(PlannerInfo("fragile", "loading"), self._load)

    async def draft(self) -> Draft:
        asked = DraftRequest("format", caption="a song", metadata=Metadata(bpm=90), seed=3)
        return await self.host.draft(asked, 60.0, Watch(cancelled=wanted))

    async def until_dropped(self) -> None:
        await until(lambda: self.host.info().state == "on_disk")

    def _load(self, _: OnLoading) -> LoadedPlanner:
        if self.reason:
            raise ModelUnavailableError(self.reason)
        self.models.append(FragileModel())
        return LoadedPlanner(self.models[-1], "toy")


@pytest.fixture
async def fragile() -> AsyncIterator[Fragile]:
    there = Fragile()
    await there.host.start()
    await named(there.host)
    yield there
    await there.host.close()


class TestFailed:
    """A language model that fails at its work, as an engine does that has died."""

    async def test_a_planner_that_failed_is_loaded_again_for_the_next_request(self, fragile: Fragile) -> None:
        first = await fragile.draft()
        fragile.models[0].broken = RuntimeError("the engine is dead")
        with pytest.raises(PlannerError, match=r"failed: the engine is dead\. .* Send the request once more"):
            await fragile.draft()
        await fragile.until_dropped()
        assert fragile.host.info().is_usable
        assert fragile.host.info().detail == (
            "The language model failed: the engine is dead. It is loaded again when a request needs it."
        )
        assert (fragile.models[0].closed, len(fragile.models)) == (1, 1), "nobody has asked for it yet"
        assert await fragile.draft() == first
        assert (len(fragile.models), fragile.host.info().detail) == (2, "")

    async def test_all_that_it_wrote_fails_at_once_and_who_comes_meanwhile_waits(
        self, fragile: Fragile
    ) -> None:
        async with fragile.host.borrow() as planner:
            fragile.models[0].broken = RuntimeError("the engine is dead")
            failed = await asyncio.gather(*(fragile.draft() for _ in range(3)), return_exceptions=True)
            assert {type(each) for each in failed} == {PlannerError}
            with pytest.raises(PlannerError, match="the engine is dead"):  # which has been told it before
                await planner.draft(DraftRequest("format", caption="a song"))
            later = asyncio.create_task(fragile.draft())
            await asyncio.sleep(0.01)
            assert not later.done() and len(fragile.models) == 1
        assert (await later).metadata.bpm == 90
        assert len(fragile.models) == 2

    async def test_one_that_does_not_come_again_says_why_and_is_tried_each_time(
        self, fragile: Fragile
    ) -> None:
        fragile.models[0].broken = RuntimeError("the engine is dead")
        fragile.reason = "the driver is gone"
        with pytest.raises(PlannerError):
            await fragile.draft()
        await fragile.until_dropped()
        with pytest.raises(PlannerUnavailableError, match="the driver is gone"):
            await fragile.draft()
        fragile.reason = ""
        assert (await fragile.draft()).metadata.bpm == 90

    async def test_want_of_memory_passes_without_loading(self, fragile: Fragile) -> None:
        fragile.models[0].broken = MemoryError()
        with pytest.raises(NotEnoughMemoryError):
            await fragile.draft()
        fragile.models[0].broken = None
        assert (await fragile.draft()).metadata.bpm == 90
        assert len(fragile.models) == 1

    async def test_songs_without_a_planner_go_on(self, files: AudioStore, fragile: Fragile) -> None:
        fragile.models[0].broken = RuntimeError("the engine is dead")
        async with running(files, loads(FakeRenderer(), MODEL), MODEL, fragile.host) as engine:
            planned = asyncio.create_task(engine.run(request(planner=THINKING), unheard, wanted))
            plain = await engine.run(request(planner=PLAIN), unheard, wanted)
            assert len(plain) == 1
            with pytest.raises(PlannerError, match="the engine is dead"):
                await planned
            assert len(await engine.run(request(planner=THINKING), unheard, wanted)) == 1


async def named(host: PlannerHost) -> str:
    async with host.borrow() as planner:
        return planner.name
