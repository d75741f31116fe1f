"""Which models are loaded, leave memory and are waited for; and songs of several models side by side."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import pytest

from acestep.audio.encode import SongWriter
from acestep.domain.draft import DraftRequest
from acestep.domain.models import ModelInfo
from acestep.engine.batching import MAX_OVERTAKES
from acestep.engine.engine import Engine
from acestep.engine.idle import IdlePolicy
from acestep.engine.model_entry import ModelEntry
from acestep.engine.model_manager import PRIMARY, ModelManager
from acestep.engine.renderer import Loaded, OnLoading
from acestep.errors import CheckpointError, InvalidFieldError, ModelUnavailableError
from acestep.files import AudioStore
from acestep.limits import BASE_TASKS, TURBO_TASKS
from tests.engine.fakes import INFO, FakeRenderer, planner_host, request, unheard, until, wanted
from tests.engine.fakes import PATIENCE as SECONDS

TURBO = replace(
    INFO, name="turbo", is_turbo=True, steps=8, shift=3.0, max_steps=8, tasks=TURBO_TASKS, is_default=True
)
BASE = replace(INFO, name="base", steps=50, tasks=BASE_TASKS)
SFT = replace(INFO, name="sft", steps=30)


class Folder:
    """Models on disk; loading one waits for `go_on`, and fails while it is in `broken`.

    `most` is how many models were in memory at once.
    """

    def __init__(self, *infos: ModelInfo) -> None:
        self.infos = {info.name: info for info in infos}
        self.renderers = {info.name: FakeRenderer() for info in infos}
        self.broken: dict[str, str] = {}
        self.absent: tuple[ModelInfo, ...] = ()
        self.say: Any = None  # tells how far the latest load is
        self.loads: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.room = len(infos) + 1  # models that may be in memory at once
        self.asked: list[tuple[str, list[str] | None]] = []  # for which model, beside which others
        self.most = 0
        self._in_memory: WeakSet[Loaded] = WeakSet()

    def in_memory(self) -> list[str]:
        gc.collect()
        return sorted(loaded.info.name for loaded in self._in_memory)

    def no_room(self, infos: Sequence[ModelInfo]) -> str:
        return "" if len(infos) <= self.room else f"{len(infos)} are too many"

    def on_disk(self) -> tuple[ModelInfo, ...]:
        return tuple(replace(info, state="on_disk") for info in self.infos.values())

    def to_download(self) -> tuple[ModelInfo, ...]:
        return self.absent

    def find(self, name: str, beside: Sequence[ModelInfo] | None = None) -> ModelEntry:
        self.asked.append((name, None if beside is None else [info.name for info in beside]))
        if name not in self.infos:
            raise CheckpointError(f"There is no model {name!r}.")

        def load(on_loading: OnLoading) -> Loaded:
            self.loads.append(name)
            self.say = on_loading
            assert self.go_on.wait(SECONDS)
            if name in self.broken:
                raise CheckpointError(self.broken[name])
            loaded = Loaded(replace(self.infos[name], state="ready"), self.renderers[name])
            self._in_memory.add(loaded)
            self.most = max(self.most, len(self.in_memory()))
            return loaded

        return ModelEntry(self.infos[name], load)

    def slots(self, *names: str) -> dict[int, ModelEntry]:
        return {PRIMARY + number: self.find(name) for number, name in enumerate(names)}


@asynccontextmanager
async def opened(model_manager: ModelManager) -> AsyncIterator[ModelManager]:
    await model_manager.start()
    try:
        yield model_manager
    finally:
        await model_manager.close()


@asynccontextmanager
async def working(files: AudioStore, model_manager: ModelManager) -> AsyncIterator[Engine]:
    engine = Engine(
        model_manager,
        SongWriter(files, 128),
        planner_host(),
    )
    await engine.start()
    try:
        await engine.wait_ready()
        yield engine
    finally:
        await engine.close()


def states(model_manager: ModelManager) -> Mapping[str, str]:
    return {info.name: info.state for info in model_manager.infos()}


@pytest.fixture
def folder() -> Folder:
    return Folder(TURBO, BASE, SFT)


class TestSlots:
    async def test_a_song_is_made_by_the_model_that_it_names(self, files, folder):
        async with working(files, ModelManager(folder.slots("turbo", "base"))) as engine:
            asked = [request(model=name) for name in (None, "base", "acestep/base", "turbo")]
            songs = [song for one in asked for song in await engine.run(one, unheard, wanted)]
        assert [song.dit_model for song in songs] == ["turbo", "base", "base", "turbo"]
        assert [song.plan.sampling.steps for song in songs] == [8, 50, 50, 8]
        assert [song.plan.sampling.shift for song in songs] == [3.0, 1.0, 1.0, 3.0]
        assert [len(folder.renderers[name].batches) for name in ("turbo", "base")] == [2, 2]
        assert all("loaded" not in warning for song in songs for warning in song.warnings)

    async def test_a_model_does_what_it_does_and_no_more(self, files, folder):
        async with working(files, ModelManager(folder.slots("turbo", "base"))) as engine:
            with pytest.raises(InvalidFieldError, match="extract"):
                await engine.run(request(task_type="extract"), unheard, wanted)

    async def test_the_default_works_while_others_are_loaded(self, files, folder):
        model_manager = ModelManager(folder.slots("turbo", "base"))
        async with working(files, model_manager) as engine:
            await until(lambda: folder.loads == ["turbo", "base"])
            folder.go_on.clear()
            assert (await engine.run(request(), unheard, wanted))[0].dit_model == "turbo"
            folder.go_on.set()

    async def test_a_song_waits_for_its_model(self, files: AudioStore, folder: Folder) -> None:
        held = threading.Event()
        slots = folder.slots("turbo", "base")
        load = slots[2].load
        assert load is not None

        def slow(on_loading: OnLoading) -> Loaded:
            assert held.wait(SECONDS)
            return load(on_loading)

        async with working(files, ModelManager(slots | {2: ModelEntry(BASE, slow)})) as engine:
            job = asyncio.create_task(engine.run(request(model="base"), unheard, wanted))
            await asyncio.sleep(0.02)
            held.set()
            assert (await job)[0].dit_model == "base"

    async def test_a_second_model_that_cannot_be_loaded(self, files, folder, caplog):
        folder.broken["base"] = "The file vae is cut short."
        model_manager = ModelManager(folder.slots("turbo", "base", "sft"))
        async with working(files, model_manager) as engine:
            await until(lambda: states(model_manager)["sft"] == "ready")
            _, base, _ = engine.models()
            assert (base.state, base.detail) == ("failed", "The file vae is cut short.")
            assert "base cannot be loaded. The file vae is cut short." in caplog.text
            (song,) = await engine.run(request(model="base"), unheard, wanted)
        assert song.dit_model == "turbo"
        assert song.warnings[0].startswith("model: base could not be loaded: The file vae is cut short")

    async def test_a_model_that_fails_while_a_song_waits_for_it(self, files, folder):
        folder.broken["base"] = "Out of memory."
        folder.go_on.clear()
        model_manager = ModelManager(folder.slots("turbo", "base"))
        async with opened(model_manager):
            waiting = asyncio.create_task(_borrowed(model_manager, "base"))
            await asyncio.sleep(0.02)
            folder.go_on.set()
            name, (note,) = await waiting
        assert name == "turbo"
        assert note == "model: turbo is used instead of base, which could not be loaded: Out of memory."

    async def test_without_its_default_model_a_shelf_lends_nothing(self, folder):
        folder.broken["turbo"] = "Nothing there."
        async with opened(ModelManager(folder.slots("turbo"))) as model_manager:
            with pytest.raises(ModelUnavailableError, match="turbo could not be loaded: Nothing there"):
                await _borrowed(model_manager, None)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(model_manager.wait_ready(), 0.02)

    async def test_a_slot_that_nothing_is_known_for_has_failed(self, folder):
        missing = replace(BASE, state="failed", detail="There is no model 'base'.")
        async with opened(ModelManager(folder.slots("turbo") | {2: ModelEntry(missing)})) as model_manager:
            await model_manager.wait_ready()
            await until(lambda: states(model_manager) == {"turbo": "ready", "base": "failed"})
            assert model_manager.infos()[1].detail == "There is no model 'base'."

    async def test_what_only_lies_on_disk_is_listed_apart(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            assert [info.name for info in model_manager.infos()] == ["turbo"]
            assert [(info.name, info.state) for info in model_manager.inventory()[1:]] == [
                ("base", "on_disk"),
                ("sft", "on_disk"),
            ]
            name, (note,) = await _borrowed(model_manager, "base")
            assert name == "turbo" and "'base' is not loaded here" in note


class TestFailedDefault:
    """Other models serve the requests that name them; the rest ends with the reason."""

    @pytest.fixture(autouse=True)
    def _break_the_default(self, folder):
        folder.broken["turbo"] = "Nothing there."

    async def test_songs_that_name_a_loaded_model_are_made(self, files, folder):
        async with working(files, ModelManager(folder.slots("turbo", "base"))) as engine:
            (song,) = await engine.run(request(model="base"), unheard, wanted)
            for name in (None, "turbo", "sft"):
                with pytest.raises(ModelUnavailableError) as refused:
                    await engine.run(request(model=name), unheard, wanted)
                assert str(refused.value) == "turbo could not be loaded: Nothing there"
        assert song.dit_model == "base"

    async def test_songs_that_name_a_model_on_disk_are_made(self, files, folder):
        async with working(files, ModelManager(folder.slots("turbo"), folder, room=1)) as engine:
            (song,) = await engine.run(request(model="base"), unheard, wanted)
            with pytest.raises(ModelUnavailableError, match="turbo could not be loaded: Nothing there"):
                await engine.run(request(), unheard, wanted)
        assert song.dit_model == "base"

    async def test_a_model_that_fails_while_a_song_waits_for_it_gives_its_own_reason(self, folder):
        folder.broken["base"] = "Out of memory."
        async with opened(ModelManager(folder.slots("turbo"), folder, room=1)) as model_manager:
            await model_manager.wait_ready()
            with pytest.raises(ModelUnavailableError) as refused:
                await _borrowed(model_manager, "base")
        assert str(refused.value) == "base could not be loaded: Out of memory."

    async def test_nothing_is_ready_where_everything_failed(self, folder):
        folder.broken["base"] = "Out of memory."
        async with opened(ModelManager(folder.slots("turbo", "base"))) as model_manager:
            ready = asyncio.create_task(model_manager.wait_ready())
            await until(lambda: states(model_manager) == {"turbo": "failed", "base": "failed"})
            with pytest.raises(ModelUnavailableError) as refused:
                await _borrowed(model_manager, "base")
            assert str(refused.value) == (
                "base could not be loaded: Out of memory; turbo could not be loaded: Nothing there"
            )
            assert not ready.done()
            del folder.broken["base"]
            assert await model_manager.reload() == ("base",)
            await asyncio.wait_for(ready, SECONDS)

    async def test_a_model_on_disk_waits_for_the_default_to_be_tried(self, folder):
        folder.go_on.clear()
        async with opened(ModelManager(folder.slots("turbo"), folder, room=1)) as model_manager:
            ready = asyncio.create_task(model_manager.wait_ready())
            await until(lambda: folder.loads == ["turbo"])
            assert not ready.done()
            folder.go_on.set()
            await asyncio.wait_for(ready, SECONDS)

    async def test_what_is_to_be_described_ends_with_the_reason_too(self, files, folder):
        async with working(files, ModelManager(folder.slots("turbo", "base"))) as engine:
            with pytest.raises(ModelUnavailableError, match="turbo could not be loaded: Nothing there"):
                await engine.draft(DraftRequest("understand", audio_path="song.wav"), wanted)


class TestOnDemand:
    async def test_a_model_is_loaded_for_the_request_that_names_it(self, files, folder):
        model_manager = ModelManager(folder.slots("turbo"), folder, room=2)
        async with working(files, model_manager) as engine:
            assert states(model_manager) == {"turbo": "ready", "base": "on_disk", "sft": "on_disk"}
            (song,) = await engine.run(request(model="base"), unheard, wanted)
            assert (song.dit_model, song.plan.sampling.steps) == ("base", 50)
            assert states(model_manager) == {"turbo": "ready", "base": "ready", "sft": "on_disk"}
            await engine.run(request(model="base"), unheard, wanted)
        assert folder.loads == ["turbo", "base"]

    async def test_a_published_model_is_downloaded_for_the_request_that_names_it(self, folder):
        folder.absent = (replace(BASE, state="absent", loads_on_demand=True),)
        there = folder.infos.pop("base")
        model_manager = ModelManager(folder.slots("turbo"), folder, room=2)
        async with opened(model_manager):
            await model_manager.wait_ready()
            assert states(model_manager) == {"turbo": "ready", "sft": "on_disk", "base": "absent"}
            assert "base" not in [info.name for info in model_manager.inventory()]
            folder.infos["base"] = replace(there, loads_on_demand=True)
            folder.go_on.clear()
            waiting = asyncio.create_task(_borrowed(model_manager, "base"))
            await until(lambda: folder.loads == ["turbo", "base"])
            folder.say("downloading", "12 % of 4.8 GB")
            (info,) = [info for info in model_manager.infos() if info.name == "base"]
            assert (info.state, info.detail, info.is_usable) == ("downloading", "12 % of 4.8 GB", True)
            folder.go_on.set()
            assert await waiting == ("base", ())
            assert states(model_manager)["base"] == "ready"

    async def test_without_room_none_is_downloaded(self, folder):
        folder.absent = (replace(BASE, state="absent", loads_on_demand=True),)
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.wait_ready()
            assert states(model_manager) == {"turbo": "ready"}

    async def test_the_one_that_was_idle_for_longest_makes_room(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            for name in ("turbo", "base", "turbo", "sft"):
                assert await _borrowed(model_manager, name) == (name, ())
            assert states(model_manager) == {"turbo": "ready", "base": "on_disk", "sft": "ready"}
            assert await _borrowed(model_manager, "base") == ("base", ())
            assert states(model_manager) == {"turbo": "on_disk", "base": "ready", "sft": "ready"}
            assert await _borrowed(model_manager, None) == ("turbo", ())

    async def test_so_does_one_where_memory_is_short_before_its_number_is_full(self, folder):
        folder.room = 1
        async with opened(ModelManager(folder.slots("turbo"), folder, room=3)) as model_manager:
            await model_manager.wait_ready()
            assert await _borrowed(model_manager, "base") == ("base", ())
            assert states(model_manager) == {"turbo": "on_disk", "base": "ready", "sft": "on_disk"}
            assert await _borrowed(model_manager, None) == ("turbo", ())
            assert states(model_manager) == {"turbo": "ready", "base": "on_disk", "sft": "on_disk"}
            folder.room = 0
            with pytest.raises(ModelUnavailableError, match="1 are too many"):
                await _borrowed(model_manager, "sft")

    async def test_the_default_that_left_is_tried_again_too(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=1)) as model_manager:
            assert await _borrowed(model_manager, "base") == ("base", ())
            folder.broken["turbo"] = "Out of memory."
            with pytest.raises(ModelUnavailableError, match="turbo could not be loaded: Out of memory"):
                await _borrowed(model_manager, None)
            assert (model_manager.primary.state, model_manager.primary.detail) == (
                "on_disk",
                "Out of memory.",
            )
            folder.broken.clear()
            assert await _borrowed(model_manager, None) == ("turbo", ())
            assert model_manager.primary.detail == ""

    @pytest.mark.parametrize("broken", [{}, {"base": "Out of memory."}], ids=["comes", "fails"])
    async def test_a_model_that_nobody_waits_for_any_more_is_still_counted(self, folder, broken):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            await model_manager.wait_ready()
            folder.broken |= broken
            folder.go_on.clear()
            waiting = asyncio.create_task(_borrowed(model_manager, "base"))
            await until(lambda: folder.loads == ["turbo", "base"])
            waiting.cancel()
            await asyncio.wait([waiting])
            assert states(model_manager)["base"] == "loading"
            folder.go_on.set()
            await until(lambda: states(model_manager)["base"] == ("on_disk" if broken else "ready"))
            folder.broken.clear()
            assert await _borrowed(model_manager, "base") == ("base", ())
        assert folder.loads == ["turbo", "base", "base"][: 3 if broken else 2]

    async def test_what_could_not_be_loaded_takes_no_room(self, folder):
        folder.broken["base"] = "Out of memory."
        async with opened(ModelManager(folder.slots("turbo", "base"), folder, room=2)) as model_manager:
            await until(lambda: states(model_manager)["base"] == "failed")
            assert await _borrowed(model_manager, "sft") == ("sft", ())
            assert states(model_manager) == {"turbo": "ready", "base": "failed", "sft": "ready"}

    async def test_songs_keep_their_model_until_they_end(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=1)) as model_manager:
            async with model_manager.borrow("turbo"):
                waiting = asyncio.create_task(_borrowed(model_manager, "base"))
                later = asyncio.create_task(_borrowed(model_manager, "turbo"))
                await asyncio.sleep(0.02)
                assert states(model_manager)["turbo"] == "ready" and not waiting.done()
                assert not later.done()  # or base might wait for ever
            assert await waiting == ("base", ())
            assert await later == ("turbo", ())
        assert folder.loads == ["turbo", "base", "turbo"]

    async def test_who_stops_waiting_for_room_is_not_in_the_way(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=1)) as model_manager:
            async with model_manager.borrow("turbo"):
                waiting = asyncio.create_task(_borrowed(model_manager, "base"))
                await asyncio.sleep(0.02)
                waiting.cancel()
                await asyncio.wait([waiting])
            assert await _borrowed(model_manager, "sft") == ("sft", ())
        assert folder.loads == ["turbo", "sft"]

    async def test_one_that_fails_is_tried_again(self, folder):
        folder.broken["base"] = "Out of memory."
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            name, (note,) = await _borrowed(model_manager, "base")
            assert name == "turbo" and note.endswith("could not be loaded: Out of memory.")
            folder.broken.clear()
            assert await _borrowed(model_manager, "base") == ("base", ())


class TestPutting:
    async def test_another_model_takes_a_slot_while_songs_are_made(self, files, folder):
        model_manager = ModelManager(folder.slots("turbo", "base"), folder)
        async with working(files, model_manager) as engine:
            folder.renderers["base"].hold()
            job = asyncio.create_task(engine.run(request(model="base"), unheard, wanted))
            await folder.renderers["base"].wait_begun()
            assert (await model_manager.put(2, "sft")).name == "sft"
            assert states(model_manager) == {"turbo": "ready", "sft": "ready"}
            folder.renderers["base"].release()
            assert (await job)[0].dit_model == "base"
            (song,) = await engine.run(request(model="base"), unheard, wanted)
            assert song.dit_model == "turbo" and "'base' is not loaded here" in song.warnings[0]
            assert (await engine.run(request(model="sft"), unheard, wanted))[0].dit_model == "sft"

    async def test_another_default_model(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.put(PRIMARY, "base")
            (info,) = model_manager.infos()
            assert (info.name, info.is_default, model_manager.primary.name) == ("base", True, "base")
            assert await _borrowed(model_manager, None) == ("base", ())

    async def test_an_empty_slot_is_filled(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.put(3, "sft")
            await model_manager.put(2, "base")
            assert [(info.name, info.is_default) for info in model_manager.infos()] == [
                ("turbo", True),
                ("base", False),
                ("sft", False),
            ]

    async def test_one_that_fails_changes_nothing(self, folder):
        folder.broken["base"] = "Out of memory."
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.wait_ready()
            with pytest.raises(ModelUnavailableError, match=r"base could not be loaded: Out of memory\."):
                await model_manager.put(PRIMARY, "base")
            assert states(model_manager) == {"turbo": "ready"}
            assert await _borrowed(model_manager, None) == ("turbo", ())

    async def test_where_there_is_no_room_for_both_the_first_leaves_first(self, files, folder):
        folder.room = 1
        async with working(files, ModelManager(folder.slots("turbo"), folder)) as engine:
            model_manager = engine._model_manager
            folder.renderers["turbo"].hold()
            job = asyncio.create_task(engine.run(request(), unheard, wanted))
            await folder.renderers["turbo"].wait_begun()
            putting = asyncio.create_task(model_manager.put(PRIMARY, "base"))
            await until(lambda: states(model_manager) == {"base": "loading"})
            queued = asyncio.create_task(engine.run(request(), unheard, wanted))
            await asyncio.sleep(0.01)
            assert folder.loads == ["turbo"], "it waits for the song that is being made"
            folder.renderers["turbo"].release()
            assert (await putting).name == "base"
            assert [(await each)[0].dit_model for each in (job, queued)] == ["turbo", "base"]
            assert folder.loads == ["turbo", "base"]

    async def test_one_that_left_for_nothing_comes_back(self, files, folder):
        folder.room, folder.broken = 1, {"base": "Cut short."}
        async with working(files, ModelManager(folder.slots("turbo"), folder)) as engine:
            model_manager = engine._model_manager
            folder.go_on.clear()
            putting = asyncio.create_task(model_manager.put(PRIMARY, "base"))
            await until(lambda: states(model_manager) == {"base": "loading"})
            queued = asyncio.create_task(engine.run(request(), unheard, wanted))
            await asyncio.sleep(0.01)
            folder.go_on.set()
            with pytest.raises(ModelUnavailableError, match=r"base could not be loaded: Cut short\."):
                await putting
            assert (await queued)[0].dit_model == "turbo"
            assert states(model_manager) == {"turbo": "ready"}
            assert folder.loads == ["turbo", "base", "turbo"]

    async def test_what_has_no_room_beside_the_other_slots_is_refused(self, folder):
        folder.room = 1
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.wait_ready()
            with pytest.raises(InvalidFieldError, match=r"^model: 'base' .*2 are too many"):
                await model_manager.put(2, "base")
            assert states(model_manager) == {"turbo": "ready"}

    async def test_limits_are_those_beside_whoever_is_or_comes_back_into_memory(self, folder):
        lazy = IdlePolicy(is_lazy=True)
        async with opened(
            ModelManager(folder.slots("turbo", "base"), folder, idle_policy=lazy)
        ) as model_manager:
            folder.asked.clear()
            assert await _borrowed(model_manager, "base") == ("base", ())
            assert states(model_manager) == {"turbo": "on_disk", "base": "ready"}
            assert [info.name for info in model_manager.occupants()] == ["turbo", "base"]
            await model_manager.put(2, "sft")
            await model_manager.put(1, "base")
            assert folder.asked == [("sft", ["turbo"]), ("base", ["sft"])]
            assert [info.name for info in model_manager.occupants()] == ["base", "sft"]

    @pytest.mark.parametrize(
        ("number", "name"), [(2, "turbo"), (2, None), (1, "../base"), (1, "/base"), (1, "..")]
    )
    async def test_what_no_slot_takes(self, folder, number, name):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            with pytest.raises(InvalidFieldError, match=r"^model: "):
                await model_manager.put(number, name)
        assert set(folder.loads) <= {"turbo"}

    async def test_a_name_that_nobody_knows_lists_those_that_are_known(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            with pytest.raises(InvalidFieldError, match="a published name, or one of turbo, base, sft"):
                await model_manager.put(2, "gpt")

    async def test_what_failed_is_loaded_again(self, folder):
        folder.broken |= {"turbo": "Out of memory.", "base": "Out of memory.", "sft": "Cut short."}
        async with opened(ModelManager(folder.slots("turbo", "base", "sft"), folder)) as model_manager:
            await until(lambda: set(states(model_manager).values()) == {"failed"})
            del folder.broken["turbo"], folder.broken["base"]
            assert await model_manager.reload() == ("turbo", "base")
            assert states(model_manager) == {"turbo": "ready", "base": "ready", "sft": "failed"}
            await asyncio.wait_for(model_manager.wait_ready(), SECONDS)
            assert await model_manager.reload() == ()


class TestCounting:
    """Every model in memory counts until it has left, whatever keeps it there."""

    async def test_one_that_was_replaced_counts_until_its_songs_end(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            async with AsyncExitStack() as songs:
                async with model_manager.borrow("turbo"):
                    await model_manager.put(PRIMARY, "base")
                    await songs.enter_async_context(model_manager.borrow("base"))
                    assert [info.name for info in model_manager.occupants()] == ["base", "turbo"]
                    waiting = asyncio.create_task(_borrowed(model_manager, "sft"))
                    await _settle()
                    assert not waiting.done() and folder.loads == ["turbo", "base"]
                assert await waiting == ("sft", ())
            assert [info.name for info in model_manager.occupants()] == ["base", "sft"]
        assert folder.most == 2

    async def test_one_that_is_loaded_for_a_slot_counts_before_it_has_it(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            await model_manager.wait_ready()
            folder.go_on.clear()
            putting = asyncio.create_task(model_manager.put(PRIMARY, "base"))
            await until(lambda: folder.loads == ["turbo", "base"])
            assert states(model_manager)["turbo"] == "ready"
            waiting = asyncio.create_task(_borrowed(model_manager, "sft"))
            await until(lambda: states(model_manager)["turbo"] == "on_disk")
            folder.go_on.set()
            assert (await putting).name == "base"
            assert await waiting == ("sft", ())
        assert folder.most == 2

    async def test_a_slot_is_filled_once_a_replaced_model_has_left(self, folder):
        folder.room = 2
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            async with model_manager.borrow("turbo"):
                await model_manager.put(PRIMARY, "base")
                putting = asyncio.create_task(model_manager.put(2, "sft"))
                await until(lambda: states(model_manager) == {"base": "ready", "sft": "loading"})
                await _settle()
                assert folder.loads == ["turbo", "base"]
            assert (await putting).name == "sft"
        assert (folder.loads, folder.most) == (["turbo", "base", "sft"], 2)

    async def test_models_without_a_slot_leave_for_one_that_gets_one(self, folder):
        folder.room = 2
        async with opened(ModelManager(folder.slots("turbo"), folder, room=3)) as model_manager:
            assert await _borrowed(model_manager, "base") == ("base", ())
            await model_manager.put(2, "sft")
            assert states(model_manager) == {"turbo": "ready", "sft": "ready", "base": "on_disk"}
        assert folder.most == 2

    async def test_a_request_for_a_model_that_has_to_leave_loads_it_anew(self, folder):
        folder.room = 1
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            async with model_manager.borrow("turbo"):
                putting = asyncio.create_task(model_manager.put(PRIMARY, "base"))
                await until(lambda: model_manager.primary.name == "base")
                again = asyncio.create_task(_borrowed(model_manager, "turbo"))
                await _settle()
                assert not putting.done() and not again.done()
            assert (await putting).name == "base"
            assert await again == ("turbo", ())
        assert (folder.loads, folder.most) == (["turbo", "base", "turbo"], 1)

    async def test_a_model_that_was_dropped_is_not_kept(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.wait_ready()
            await model_manager.put(PRIMARY, "base")
            assert folder.in_memory() == ["base"]


class TestMoving:
    """A model is loaded once: it moves to where it is asked for."""

    async def test_from_a_request_to_a_slot(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            assert await _borrowed(model_manager, "base") == ("base", ())
            assert (await model_manager.put(PRIMARY, "base")).is_default
            assert states(model_manager) == {"base": "ready", "turbo": "on_disk", "sft": "on_disk"}
            assert await _borrowed(model_manager, None) == ("base", ())
        assert folder.loads == ["turbo", "base"]

    async def test_into_an_empty_slot_without_room_for_another(self, folder):
        folder.room = 2
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            assert await _borrowed(model_manager, "base") == ("base", ())
            await model_manager.put(2, "base")
            assert [info.name for info in model_manager.occupants()] == ["turbo", "base"]
        assert folder.loads == ["turbo", "base"]

    async def test_within_its_slot(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.wait_ready()
            assert (await model_manager.put(PRIMARY, "turbo")).state == "ready"
        assert folder.loads == ["turbo"]

    @pytest.mark.parametrize(("room", "most"), [(1, 1), (2, 2)])
    async def test_without_a_name_it_is_loaded_again_and_both_count(self, folder, room, most):
        folder.room = room
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            async with model_manager.borrow("turbo"):
                putting = asyncio.create_task(model_manager.put(PRIMARY))
                await until(lambda: len(model_manager.occupants()) == 2)
                if room == 2:
                    await putting
            assert (await putting).state == "ready"
            assert [info.name for info in model_manager.occupants()] == ["turbo"]
        assert (folder.loads, folder.most) == (["turbo", "turbo"], most)

    async def test_one_that_cannot_be_loaded_again_comes_back(self, folder):
        folder.room = 1
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.wait_ready()
            folder.broken["turbo"] = "Cut short."
            with pytest.raises(ModelUnavailableError, match="Cut short"):
                await model_manager.put(PRIMARY)
            await until(lambda: model_manager.primary.state == "on_disk")
            folder.broken.clear()
            assert await _borrowed(model_manager, None) == ("turbo", ())

    async def test_while_it_is_loaded_for_its_slot(self, folder):
        folder.go_on.clear()
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            putting = asyncio.create_task(model_manager.put(PRIMARY, "turbo"))
            await until(lambda: folder.loads == ["turbo"])
            folder.go_on.set()
            assert (await putting).state == "ready"
        assert folder.loads == ["turbo"]

    @pytest.mark.parametrize("broken", [{}, {"base": "Out of memory."}], ids=["comes", "fails"])
    async def test_while_it_is_loaded_for_a_request(self, folder, broken):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            await model_manager.wait_ready()
            folder.broken |= broken
            folder.go_on.clear()
            song = asyncio.create_task(_borrowed(model_manager, "base"))
            await until(lambda: folder.loads == ["turbo", "base"])
            putting = asyncio.create_task(model_manager.put(PRIMARY, "base"))
            await _settle()
            folder.go_on.set()
            if broken:
                with pytest.raises(ModelUnavailableError, match="base could not be loaded: Out of memory"):
                    await putting
            else:
                assert (await putting).name == "base"
            assert (await song)[0] == ("turbo" if broken else "base")
            assert model_manager.primary.name == ("turbo" if broken else "base")
        assert folder.loads == ["turbo", "base"]

    async def test_back_into_a_slot_that_it_lost_while_its_song_runs(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            async with model_manager.borrow("turbo"):
                await model_manager.put(PRIMARY, "base")
                assert (await model_manager.put(2, "turbo")).is_default is False
            assert states(model_manager) == {"base": "ready", "turbo": "ready"}
        assert folder.loads == ["turbo", "base"]

    async def test_from_a_lost_slot_to_a_request(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            async with model_manager.borrow("turbo"):
                await model_manager.put(PRIMARY, "base")
                assert await _borrowed(model_manager, "turbo") == ("turbo", ())
            assert states(model_manager) == {"base": "ready", "turbo": "ready", "sft": "on_disk"}
        assert folder.loads == ["turbo", "base"]

    async def test_a_model_that_left_memory_is_loaded_for_its_slot(self, folder):
        lazy = IdlePolicy(is_lazy=True)
        async with opened(ModelManager(folder.slots("turbo"), folder, idle_policy=lazy)) as model_manager:
            assert (await model_manager.put(PRIMARY)).state == "ready"
        assert folder.loads == ["turbo"]


class TestOrder:
    async def test_songs_of_the_model_at_work_go_first_but_not_for_ever(self, files, folder):
        turbo, base = folder.renderers["turbo"], folder.renderers["base"]
        order: list[str] = []
        turbo.on_decode = lambda plan: order.append(f"turbo {plan.seed}")
        base.on_decode = lambda plan: order.append(f"base {plan.seed}")
        async with working(files, ModelManager(folder.slots("turbo", "base"))) as engine:
            assert (await _borrowed(engine._model_manager, "base"))[0] == "base"
            turbo.hold()
            jobs = [_start(engine, 0, "turbo")]
            await turbo.wait_begun()
            # Every song has a length of its own, so that each is a batch.
            jobs += [_start(engine, n, "base" if n == 1 else "turbo") for n in range(1, MAX_OVERTAKES + 3)]
            await asyncio.sleep(0.05)
            turbo.release()
            await asyncio.gather(*jobs)
        before = order.index("base 1")
        assert order[:before] == [f"turbo {n}" for n in (0, *range(2, MAX_OVERTAKES + 2))]


async def _borrowed(model_manager: ModelManager, name: str | None) -> tuple[str, tuple[str, ...]]:
    async with model_manager.borrow(name) as (loaded, notes):
        return loaded.info.name, notes


async def _settle() -> None:
    """Let every task run as far as it can without a thread."""
    for _ in range(20):
        await asyncio.sleep(0)


def _start(engine: Engine, seed: int, model: str) -> asyncio.Task[object]:
    asked = request(seeds=(seed,), duration=10.0 + seed, model=model)
    return asyncio.create_task(engine.run(asked, unheard, wanted))
