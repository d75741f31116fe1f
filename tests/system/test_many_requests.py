"""Two hundred requests for models that come and go, from the wire to files; the models hum."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from acestep.audio.encode import SongWriter
from acestep.domain.models import ModelInfo
from acestep.engine.engine import Engine
from acestep.engine.model_entry import ModelEntry
from acestep.engine.model_manager import ModelManager
from acestep.engine.renderer import Loaded, OnLoading
from acestep.files import AudioStore, FileStore
from acestep.jobs.cleaner import Cleaner
from acestep.jobs.queue import MAX_OVERTAKES
from acestep.jobs.runner import Runner
from acestep.jobs.store import JobStore
from tests.engine.fakes import planner_host
from tests.engine.models import BASE, SFT, TURBO, Folder
from tests.rest.conftest import CONFIG, FakeWorker, Server
from tests.rest.conftest import running as answering

XL = replace(BASE, name="xl")
REQUESTS, ROOM = 200, 2
NAMES = (None, "turbo", "base", "acestep/base", "sft", "xl", "nobody")


class Watched(Folder):
    """A folder that notes, whenever a model comes, how many are in memory with it."""

    def __init__(self, *infos: ModelInfo) -> None:
        super().__init__(*infos)
        self.model_manager: ModelManager | None = None
        self.together: list[int] = []

    def ready(self) -> list[str]:
        return (
            [info.name for info in self.model_manager.infos() if info.state == "ready"]
            if self.model_manager
            else []
        )

    def find(self, name: str, beside: Sequence[ModelInfo] | None = None) -> ModelEntry:
        slot = super().find(name, beside)

        def load(on_loading: OnLoading) -> Loaded:
            self.together.append(len(self.ready()) + 1)
            assert slot.load is not None
            return slot.load(on_loading)

        return ModelEntry(slot.info, load)


@asynccontextmanager
async def serving(tmp_path: Path, strict_model: bool = False) -> AsyncIterator[tuple[Server, Watched]]:
    folder = Watched(TURBO, BASE, SFT, XL)
    folder.model_manager = model_manager = ModelManager(folder.slots("turbo"), folder, ROOM)
    writer = SongWriter(AudioStore(tmp_path / "audio", b"s" * 32), 128)
    engine = Engine(model_manager, writer, planner_host())
    worker = cast(FakeWorker, engine)  # they have the same protocol
    config = replace(CONFIG, strict_model=strict_model)
    async with answering(tmp_path, config, max_waiting=REQUESTS, worker=worker) as server:
        store = JobStore(tmp_path / "cleaner.sqlite3")
        cleaner = Cleaner(store, server.audio, 3600, FileStore(server.uploads))
        runner = Runner(server.queue, engine, cleaner, concurrency=2)
        await engine.start()
        await runner.start()
        try:
            yield server, folder
        finally:
            await runner.stop()
            await engine.close()
            await store.close()


async def results(server: Server, ids: list[str]) -> list[list[dict[str, Any]]]:
    for job_id in ids:
        await server.queue.wait(job_id, seconds=60)
    return [json.loads(entry["result"]) for entry in await server.query(*ids)]


async def test_each_song_is_made_by_the_model_that_it_names(tmp_path: Path) -> None:
    rng = random.Random(7)
    async with serving(tmp_path) as (server, folder):
        wishes = [(rng.choice(NAMES), rng.randint(1, 2)) for _ in range(REQUESTS)]
        ids = []
        for number, (name, songs) in enumerate(wishes):
            named = {} if name is None else {"model": name}
            fields = {"prompt": f"song {number}", "audio_duration": 10, "batch_size": songs}
            ids.append(await server.release(**fields, **named, audio_format="wav"))
        made = await results(server, ids)
        assert len(folder.ready()) == max(folder.together) == ROOM
    for (name, songs), result in zip(wishes, made, strict=True):
        model = "turbo" if name in (None, "nobody") else name.removeprefix("acestep/")
        assert [(song["status"], song["dit_model"]) for song in result] == [(1, model)] * songs
        assert any("'nobody' is not loaded here" in warning for warning in result[0]["warnings"]) == (
            name == "nobody"
        )
    hummed = {
        plan.caption: name
        for name, renderer in folder.renderers.items()
        for batch in renderer.batches
        for plan in batch
    }
    assert hummed == {f"song {number}": result[0]["dit_model"] for number, result in enumerate(made)}
    # In the order of arrival it would be more than 90 loads.
    assert len(folder.loads) < 3 * REQUESTS / MAX_OVERTAKES


async def test_a_strict_server_refuses_what_is_not_there(tmp_path: Path) -> None:
    async with serving(tmp_path, strict_model=True) as (server, _):
        answer = await server.client.post("/release_task", json={"prompt": "x", "model": "nobody"})
        assert answer.status_code == 404
        assert all(name in answer.json()["error"] for name in ("turbo", "base", "sft", "xl"))
        ids = [await server.release(prompt="x", audio_duration=10, model="sft", batch_size=1)]
        ((song,),) = await results(server, ids)
        assert song["dit_model"] == "sft"
