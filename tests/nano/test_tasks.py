"""What tasks do to the sound itself, heard on the bundled model: ten seconds, a few steps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acestep import checkpoints
from acestep.audio.decode import read
from acestep.audio.encode import FileSpec, write
from acestep.domain import AudioClip, ModelInfo, PlannerInfo, SamplerOptions, SongRequest, TaskOptions
from acestep.engine.desk import PlannerDesk
from acestep.engine.engine import Engine
from acestep.engine.loading import TorchRenderer, load_model
from acestep.engine.models import PRIMARY, ModelShelf, Slot
from acestep.engine.renderer import Loaded
from acestep.engine.write import SongWriter
from acestep.files import AudioStore

RATE = 48_000
SECONDS = 10.0
INFO = ModelInfo("acestep-nano", is_turbo=False, steps=8, guidance_scale=4.0, shift=1.0, max_steps=50)


def tune(seed: int) -> AudioClip:
    """Half-second notes of a mode of its own, each with three overtones."""
    draw = np.random.default_rng(seed)
    scale = draw.choice(12, 5, replace=False)
    notes = 60 + draw.choice(scale, round(2 * SECONDS))
    time = np.arange(RATE // 2) / RATE
    envelope = np.minimum(1.0, 20 * time) * np.exp(-2 * time)
    waves = [
        sum(np.sin(2 * np.pi * n * 440 * 2 ** ((note - 69) / 12) * time) / n for n in (1, 2, 3, 4)) * envelope
        for note in notes
    ]
    mono = 0.2 * np.concatenate(waves).astype(np.float32)
    return AudioClip(np.stack([mono, mono]), RATE)


class Studio:
    """The bundled model behind a real engine; what is made comes back as samples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = AudioStore(folder / "audio", b"s" * 32)
        checkpoint = checkpoints.require(checkpoints.NANO_MODEL, folder)
        self.loaded: Loaded = load_model(checkpoint, "cpu", INFO)

    @property
    def renderer(self) -> TorchRenderer:
        assert isinstance(self.loaded.renderer, TorchRenderer)
        return self.loaded.renderer

    def file(self, name: str, clip: AudioClip) -> str:
        write(clip, self.folder / name, FileSpec("wav32"))
        return str(self.folder / name)

    def make(self, task_type: Any, clip: AudioClip | None = None, steps: int = 8, **task: Any) -> AudioClip:
        options = TaskOptions(source=self.file("source.wav", clip) if clip else "", **task)
        asked = SongRequest(caption="calm piano", seeds=(5,), batch_size=1, task_type=task_type, task=options)
        return self.play(replace(asked, sampler=SamplerOptions(steps=steps)))

    def play(self, asked: SongRequest) -> AudioClip:
        return asyncio.run(self._run(replace(asked, audio_format="wav32")))

    async def _run(self, asked: SongRequest) -> AudioClip:
        shelf = ModelShelf({PRIMARY: Slot(INFO, lambda on_loading: self.loaded)})
        engine = Engine(shelf, SongWriter(self.files, 128), PlannerDesk(PlannerInfo()))
        await engine.start()
        await engine.wait_ready()
        try:
            (song,) = await engine.run(asked, lambda progress: None, lambda: False)
        finally:
            await engine.close()
        path = self.files.path(song.file)
        assert path is not None
        return read(path)

    def reconstruction(self, clip: AudioClip) -> NDArray[np.float32]:
        with torch.inference_mode():
            latents = self.renderer.encode(clip)
            return self.renderer.codec.decode(latents[None])[0, :, : clip.samples.shape[1]].numpy()

    def chroma(self, clip: AudioClip) -> NDArray[np.float32]:
        """How loud each of the twelve notes is, a row each quarter of a second, of norm 1."""
        codec: Any = self.renderer.codec
        with torch.inference_mode():
            tone, _ = codec._from_latents(self.renderer.encode(clip)[None])
        loud = tone[0].numpy()
        classes = (np.arange(loud.shape[1]) + codec.config.lowest_midi_note) % 12
        folded = np.stack([loud[:, classes == note].sum(axis=1) for note in range(12)], axis=1)
        rows = len(folded) // 6
        slow = folded[: rows * 6].reshape(rows, 6, 12).mean(axis=1)
        return slow / (np.linalg.norm(slow, axis=1, keepdims=True) + 1e-6)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    yield Studio(tmp_path_factory.mktemp("studio"))


def likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float((one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other)))


@pytest.mark.parametrize("crossfade", [0, 10])
def test_a_repaint_leaves_the_rest_as_the_codec_hears_it(studio: Studio, crossfade: int) -> None:
    source = tune(1)
    painted = studio.make("repaint", source, steps=2, start=3.3, end=6.1, crossfade_frames=crossfade).samples
    whole = studio.reconstruction(source)
    start, stop = round(3.3 * RATE), round(6.1 * RATE)
    assert painted.shape == whole.shape
    outside = np.abs(painted - whole)
    assert outside[:, :start].max() < 1e-3 and outside[:, stop:].max() < 1e-3
    assert np.sqrt(np.mean(outside[:, start:stop] ** 2)) > 0.01


def test_a_song_grows_at_both_ends_around_its_source(studio: Studio) -> None:
    source = tune(1)
    grown = studio.make("repaint", source, steps=2, start=9.5, end=12.0).samples
    assert grown.shape[1] == 12 * RATE
    whole = studio.reconstruction(source)
    settled = round(9.5 * RATE)
    np.testing.assert_allclose(grown[:, :settled], whole[:, :settled], atol=1e-3)
    assert np.abs(grown[:, 10 * RATE :]).max() > 0.01  # it goes on
    earlier = studio.make("repaint", source, steps=2, start=-2.0, end=0.5).samples
    assert earlier.shape[1] == 12 * RATE


def test_a_cover_keeps_the_notes_of_its_own_source(studio: Studio) -> None:
    """Two songs of the model's own, in keys that share two notes; each is covered."""
    song = SongRequest(seeds=(1,), batch_size=1, duration=SECONDS, bpm=100, sampler=SamplerOptions(steps=8))
    sources = [
        studio.play(replace(song, caption="piano pop", key_scale="C major")),
        studio.play(replace(song, caption="upbeat piano with bass", key_scale="F# major", seeds=(2,))),
    ]
    heard = [studio.chroma(source).mean(axis=0) for source in sources]
    covers = [studio.chroma(studio.make("cover", source)).mean(axis=0) for source in sources]
    # Both ways at once, since what nano likes to play is nearer to the one than to the other.
    own = likeness(covers[0], heard[0]) + likeness(covers[1], heard[1])
    other = likeness(covers[0], heard[1]) + likeness(covers[1], heard[0])
    assert own > other + 0.05, (own, other)


def test_a_cover_that_starts_near_its_source_keeps_its_tune(studio: Studio) -> None:
    source = tune(1)
    near = studio.chroma(studio.make("cover", source, noise_strength=0.6))
    others = [studio.chroma(tune(seed)) for seed in range(2, 8)]
    assert likeness(near, studio.chroma(source)) > max(likeness(near, other) for other in others) + 0.2


def test_another_track_is_another_sound(studio: Studio) -> None:
    source = tune(1)
    drums, bass = (studio.make("extract", source, steps=2, tracks=(track,)) for track in ("drums", "bass"))
    assert drums.samples.shape == bass.samples.shape == source.samples.shape
    assert np.abs(drums.samples - bass.samples).max() > 0.01


@pytest.mark.parametrize("task", ["lego", "complete"])
def test_the_rest_of_the_tasks_make_as_long_a_song(studio: Studio, task: str) -> None:
    source = tune(1)
    made = studio.make(task, source, steps=2, tracks=("drums",))
    assert made.samples.shape == source.samples.shape
    assert np.isfinite(made.samples).all() and np.abs(made.samples).max() > 0.1


def test_the_same_request_is_the_same_song(studio: Studio) -> None:
    reference = studio.file("reference.wav", tune(2))
    first, again = (studio.make("cover", tune(1), steps=2, reference=reference) for _ in range(2))
    np.testing.assert_array_equal(first.samples, again.samples)
    without = studio.make("cover", tune(1), steps=2)
    assert np.abs(without.samples - first.samples).max() > 1e-3
