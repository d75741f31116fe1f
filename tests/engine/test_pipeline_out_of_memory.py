from __future__ import annotations

import asyncio
import wave
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acestep.audio.encode import FileSpec, SongWriter, write
from acestep.codec.oobleck import OobleckCodec
from acestep.domain.draft import DraftRequest
from acestep.domain.models import PlannerInfo
from acestep.domain.song import AnalysisOptions, AudioClip, Song, SongRequest, TaskOptions
from acestep.engine.engine import Engine
from acestep.engine.model_entry import ModelEntry
from acestep.engine.model_manager import PRIMARY, ModelManager
from acestep.engine.renderer import Loaded, LoadedPlanner
from acestep.engine.torch_models import load_model
from acestep.engine.torch_renderer import TorchRenderer
from acestep.errors import NotEnoughMemoryError
from acestep.files import AudioStore
from acestep.limits import BASE_TASKS
from acestep.planner.language_model import StepOutput
from tests.engine.fakes import RATE, FakeRenderer, loads, planner_host, request, running, unheard, wanted
from tests.engine.test_planning import GIVEN, MODEL, THINKING
from tests.engine.test_torch_models import EXPECTED, write_checkpoint, write_oobleck
from tests.planner.fakes import WalkingModel

ALWAYS = 1_000


class Scarce:
    """Each `spend` runs out of memory as often as `failures` says; `tries` counts the calls."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.tries: Counter[str] = Counter()
        self.together: list[int] = []  # texts of each step of the planner

    def spend(self, stage: str) -> None:
        self.tries[stage] += 1
        if self.failures[stage]:
            self.failures[stage] -= 1
            raise torch.OutOfMemoryError(f"Tried to allocate 20.00 GiB for {stage}.")


class ScarceRenderer(FakeRenderer):
    """`low_memory_calls` counts the calls of `low_memory`."""

    def __init__(self, scarce: Scarce) -> None:
        super().__init__()
        self.scarce = scarce
        self.low_memory_calls = 0

    def encode(self, clip: AudioClip) -> Any:
        self.scarce.spend("encode")
        return super().encode(clip)

    def render(self, *args: Any, **more: Any) -> Any:
        self.scarce.spend("render")
        return super().render(*args, **more)

    def decode(self, *args: Any) -> AudioClip:
        self.scarce.spend("decode")
        return super().decode(*args)

    def align_lyrics(self, *args: Any) -> Any:
        self.scarce.spend("listen")
        return super().align_lyrics(*args)

    def tokenize(self, path: Path) -> tuple[int, ...]:
        self.scarce.spend("encode")
        return super().tokenize(path)

    def low_memory(self) -> ScarceRenderer:
        self.low_memory_calls += 1
        return self


class CrowdedRenderer(FakeRenderer):
    """Has memory for `most` songs at once; `tried` has the size of each batch."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.tried: list[int] = []

    def render(self, plans: Any, *args: Any, **more: Any) -> Any:
        self.tried.append(len(plans))
        if len(plans) > self.most:
            raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB.")
        return super().render(plans, *args, **more)


class ScarceModel(WalkingModel):
    def __init__(self, scarce: Scarce) -> None:
        super().__init__()
        self.scarce = scarce

    def step(self) -> Sequence[StepOutput]:
        self.scarce.spend("plan")
        outputs = super().step()
        self.scarce.together.append(len(outputs))
        return outputs


class ScarceWriter(SongWriter):
    def __init__(self, store: AudioStore, scarce: Scarce) -> None:
        super().__init__(store, 128)
        self.scarce = scarce

    def write(self, *args: Any) -> str:
        self.scarce.spend("write")
        return super().write(*args)


@pytest.fixture
def scarce() -> Scarce:
    return Scarce()


@asynccontextmanager
async def scarce_engine(files: AudioStore, scarce: Scarce) -> AsyncIterator[tuple[Engine, ScarceRenderer]]:
    renderer, info = ScarceRenderer(scarce), replace(MODEL, tasks=BASE_TASKS)
    host = planner_host(
        PlannerInfo("toy", "loading"), lambda on_loading: LoadedPlanner(ScarceModel(scarce), "toy")
    )
    model_manager = ModelManager({PRIMARY: ModelEntry(info, loads(renderer, info))})
    engine = Engine(model_manager, ScarceWriter(files, scarce), host)
    await engine.start()
    await engine.wait_ready()
    try:
        yield engine, renderer
    finally:
        await engine.close()


@pytest.fixture
def recording(tmp_path: Path) -> str:
    path = tmp_path / "recording.wav"
    write(AudioClip(np.full((2, 12 * RATE), 0.1, np.float32), RATE), path, FileSpec("wav", 128))
    return str(path)


def asked(stage: str, recording: str) -> SongRequest:
    """A request that goes through `stage`."""
    special: dict[str, Any] = {
        "plan": {"planner": THINKING},
        "encode": {"task_type": "cover", "task": TaskOptions(source=recording, source_seconds=12.0)},
        "stems": {"analysis": AnalysisOptions(stems=("drums",))},
    }
    return request(seeds=(50, 51), **special.get(stage, {}))


STAGES = ("plan", "encode", "render", "decode", "write")


class TestEveryStage:
    @pytest.mark.parametrize("stage", STAGES)
    async def test_a_second_try_with_less_saves_the_job(self, files, scarce, recording, stage):
        async with scarce_engine(files, scarce) as (engine, renderer):
            scarce.failures[stage] = 1
            songs = await engine.run(asked(stage, recording), unheard, wanted)
            assert [song.plan.seed for song in songs] == [50, 51]
            assert renderer.low_memory_calls == (1 if stage in ("encode", "decode") else 0)

    @pytest.mark.parametrize("stage", STAGES)
    async def test_a_job_that_does_not_fit_fails_and_the_next_one_is_done(
        self, files, scarce, recording, stage
    ):
        async with scarce_engine(files, scarce) as (engine, _):
            scarce.failures[stage] = ALWAYS
            with pytest.raises(NotEnoughMemoryError, match=f"Out of memory at stage {stage}") as caught:
                await engine.run(asked(stage, recording), unheard, wanted)
            assert any(way in str(caught.value) for way in ("shorter", "fewer songs"))
            assert scarce.tries[stage] <= 5
            scarce.failures.clear()
            assert len(await engine.run(asked(stage, recording), unheard, wanted)) == 2

    async def test_stems_are_retried_like_songs(self, files, scarce, recording):
        async with scarce_engine(files, scarce) as (engine, renderer):
            scarce.failures["encode"] = 1
            songs = await engine.run(asked("stems", recording), unheard, wanted)
            assert [len(song.analysis.stems) for song in songs] == [1, 1] and renderer.low_memory_calls == 1

    async def test_a_song_outlives_its_analysis(self, files, scarce):
        analysis = AnalysisOptions(lyric_times=True, loudness=True)
        async with scarce_engine(files, scarce) as (engine, _):
            scarce.failures["listen"] = ALWAYS
            (song,) = await engine.run(request(lyrics="la", analysis=analysis), unheard, wanted)
        assert song.analysis.lyric_times is None and song.analysis.loudness is not None
        assert any("lyric_timestamps: left out. Out of memory" in warning for warning in song.warnings)
        assert scarce.tries["listen"] == 2

    async def test_a_draft_gets_a_second_try(self, files, scarce):
        async with scarce_engine(files, scarce) as (engine, _):
            scarce.failures["plan"] = 1
            draft = await engine.draft(DraftRequest("format", caption="a song", seed=3), wanted)
            assert draft.metadata.caption


class TestBatches:
    async def test_a_batch_is_split_and_every_song_is_made(self, files, scarce):
        async with scarce_engine(files, scarce) as (engine, renderer):
            scarce.failures["render"] = 1
            songs = await engine.run(request(seeds=(1, 2, 3, 4)), unheard, wanted)
        assert [song.plan.seed for song in songs] == [1, 2, 3, 4]
        assert [len(batch) for batch in renderer.batches] == [2, 2]

    async def test_a_batch_limit_holds_until_the_model_is_loaded_again(self, files):
        renderer = CrowdedRenderer(2)
        async with running(files, loads(renderer)) as engine:
            await engine.wait_ready()
            for _ in range(2):
                await engine.run(request(seeds=(1, 2, 3, 4)), unheard, wanted)
            assert renderer.tried == [4, 2, 2, 2, 2]
            await engine.run(request(seeds=(1, 2, 3), duration=20.0), unheard, wanted)
            assert renderer.tried[5:] == [1, 1, 1], "twice as long, half as many"
            await engine._model_manager.put(PRIMARY)
            await engine.run(request(seeds=(1, 2, 3, 4)), unheard, wanted)
            assert renderer.tried[8:] == [4, 2, 2]

    async def test_songs_of_other_jobs_are_not_lost(self, files):
        renderer = FakeRenderer()
        renderer.broken["too large"] = MemoryError()
        async with running(files, loads(renderer)) as engine:
            await engine.wait_ready()
            results = await _all(engine, request("too large"), request("good"), request("as good"))
        assert isinstance(results[0], NotEnoughMemoryError)
        assert [len(songs) for songs in results[1:]] == [1, 1]

    async def test_songs_are_planned_one_after_another_then(self, files, scarce):
        async with scarce_engine(files, scarce) as (engine, _):
            scarce.failures["plan"] = 1
            songs = await engine.run(request(seeds=(3, 4), planner=THINKING, **GIVEN), unheard, wanted)
            alone = [
                await engine.run(request(seeds=(seed,), planner=THINKING, **GIVEN), unheard, wanted)
                for seed in (3, 4)
            ]
        assert max(scarce.together) == 1
        assert [song.plan.audio_codes for song in songs] == [one[0].plan.audio_codes for one in alone]


async def _all(engine: Engine, *requests: SongRequest) -> list[Any]:
    jobs = (engine.run(each, unheard, wanted) for each in requests)
    return await asyncio.gather(*jobs, return_exceptions=True)


TILE = 100  # frames; a quarter of it is less than the smallest, which is 64


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    model = load_model(
        write_checkpoint(tmp_path_factory.mktemp("toy"), write_oobleck), "cpu", replace(EXPECTED, max_batch=4)
    )
    renderer = model.renderer
    assert isinstance(renderer, TorchRenderer) and isinstance(renderer.codec, OobleckCodec)
    return Loaded(model.info, replace(renderer, codec=OobleckCodec(renderer.codec.vae, TILE)))


@contextmanager
def lacking(kind: str, failures: int) -> Iterator[list[weakref.ref[torch.Tensor]]]:
    """Modules of this kind run out of memory so many times, at work on tensors that are yielded.

    The modules' inputs and one tensor more, which nobody but the failing frame holds.
    """
    held: list[weakref.ref[torch.Tensor]] = []

    def fail(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if type(module).__name__ == kind and len(held) < 2 * failures:
            partial_result = torch.zeros(1000)
            tensor = next((each for each in inputs if isinstance(each, torch.Tensor)), partial_result)
            held.extend([weakref.ref(partial_result), weakref.ref(tensor)])
            raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB.")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(fail)
    try:
        yield held
    finally:
        hook.remove()


KINDS = {
    "conditioning": ("Qwen3", "render"),
    "render": ("TimeEmbedder", "render"),
    "decode": ("OobleckDecoder", "decode"),
    "encode": ("OobleckEncoder", "encode"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
class TestToyWeights:
    """With real modules, whose activations must be freed when a job has failed."""

    @pytest.mark.parametrize("seam", KINDS)
    async def test_second_tries_make_the_same_songs(self, files, toy, recording, seam):
        kind, _ = KINDS[seam]
        async with running(files, lambda on_loading: toy, toy.info) as engine:
            as_ever = await _sounds(files, engine, seam, recording)
            with lacking(kind, 1) as held:
                again = await _sounds(files, engine, seam, recording)
            assert len(held) == 2
        for one, other in zip(as_ever, again, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4)

    @pytest.mark.parametrize("seam", KINDS)
    async def test_memory_is_back_when_a_job_has_failed(self, files, toy, recording, seam):
        kind, stage = KINDS[seam]
        async with running(files, lambda on_loading: toy, toy.info) as engine:
            with (
                lacking(kind, ALWAYS) as held,
                pytest.raises(NotEnoughMemoryError, match=f"stage {stage}") as caught,
            ):
                await engine.run(_request(seam, recording), unheard, wanted)
            assert len(held) >= 4
            assert [ref() for ref in held if ref() is not None] == []
            assert caught.value.__context__ is None
            assert len(await engine.run(_request(seam, recording), unheard, wanted)) == 2

    def test_smaller_pieces_are_smaller(self, toy):
        sizes = {name: _tiles(codec) for name, codec in _codecs(toy).items()}
        assert max(sizes["whole"]) > max(sizes["pieces"]) and sum(sizes["pieces"]) >= sum(sizes["whole"])


def _codecs(toy: Loaded) -> dict[str, Any]:
    renderer = toy.renderer
    assert isinstance(renderer, TorchRenderer)
    return {"whole": renderer.codec, "pieces": renderer.low_memory().codec}


def _tiles(codec: OobleckCodec) -> list[int]:
    """The frames that the decoder is given at a time, of 200."""
    sizes: list[int] = []
    hook = codec.vae.decoder.register_forward_pre_hook(
        lambda module, inputs: sizes.append(inputs[0].shape[-1])
    )
    codec.decode(torch.zeros(1, 200, codec.latent_channels))
    hook.remove()
    return sizes


def _request(seam: str, recording: str) -> SongRequest:
    more: dict[str, Any] = {}
    if seam == "encode":
        more = {"task_type": "cover", "task": TaskOptions(source=recording, source_seconds=12.0)}
    return request(seeds=(1, 2), **more)


async def _sounds(files: AudioStore, engine: Engine, seam: str, recording: str) -> list[Any]:
    songs: tuple[Song, ...] = await engine.run(_request(seam, recording), unheard, wanted)
    paths = [files.path(song.file) for song in songs]
    return [_samples(path) for path in paths if path is not None]


def _samples(path: Path) -> Any:
    """What is in a WAV file of 16 bits, whose sample rate may be a toy's."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16) / 2**15
