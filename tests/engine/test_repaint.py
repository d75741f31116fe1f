"""What repaint and lego keep of their source, and how loud the rest becomes."""

from __future__ import annotations

import tracemalloc
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from acestep.audio.decode import read
from acestep.audio.encode import FileSpec, extension, write
from acestep.domain.latents import SongLatents, SourceLatents
from acestep.domain.song import AudioClip, AudioFormat, SongRequest, TaskOptions, Window
from acestep.engine.audio_inputs import load_inputs
from acestep.engine.renderer import Loaded
from acestep.engine.torch_models import load_model
from acestep.engine.torch_renderer import TorchRenderer
from acestep.errors import AceStepError
from acestep.limits import window_of
from tests.engine.test_torch_models import EXPECTED, hum, write_checkpoint, write_oobleck, write_sine_bank
from tests.synthesizer import toy

# The class of diffusers uses torch's older weight_norm, as the published files do.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


@pytest.fixture(scope="module", params=[write_sine_bank, write_oobleck], ids=["sine bank", "oobleck"])
def loaded(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load_model(write_checkpoint(tmp_path_factory.mktemp("toy"), request.param), "cpu", EXPECTED)


def repaint(loaded: Loaded, window: Window, source: AudioClip, duration: float = 4.08) -> SongLatents:
    plan = toy.song(task_type="repaint", window=window, duration=duration)
    sources = SourceLatents(loaded.renderer.encode(source), clip=source)
    (song,) = loaded.renderer.render([plan], lambda done, of: None, lambda: False, [sources])
    return song


def sound_of(loaded: Loaded, song: SongLatents, seconds: float = 4.08) -> AudioClip:
    return loaded.renderer.decode(song, seconds, lambda fraction: None)


# start and end in seconds: in the middle, as short as a frame, from the start, to the end, all but a moment
@pytest.mark.parametrize(
    "edges", [(1.013, 2.5), (0.2, 0.28), (0.0, 1.0), (3.0, 4.08), (0.005, 4.0775)], ids=str
)
def test_outside_the_window_a_repaint_is_its_source(loaded: Loaded, edges: tuple[float, float]) -> None:
    source = hum(loaded, 4.08)
    repainted = sound_of(loaded, repaint(loaded, Window(*edges, 0.0, 4.08), source)).samples

    start, stop = int(edges[0] * source.sample_rate), int(edges[1] * source.sample_rate + 1)
    assert repainted.shape == source.samples.shape
    np.testing.assert_array_equal(repainted[:, :start], source.samples[:, :start])
    np.testing.assert_array_equal(repainted[:, stop:], source.samples[:, stop:])
    assert not np.allclose(repainted[:, start:stop], source.samples[:, start:stop], atol=0.01)


def test_a_lego_keeps_the_sound_around_its_window(loaded: Loaded) -> None:
    source, rate = hum(loaded, 4.08), loaded.renderer.sample_rate
    plan = toy.song(task_type="lego", window=Window(1.0, 3.0, 0.0, 4.08), duration=4.08)
    sources = SourceLatents(loaded.renderer.encode(source), clip=source)
    (song,) = loaded.renderer.render([plan], lambda done, of: None, lambda: False, [sources])
    made = sound_of(loaded, song).samples
    np.testing.assert_array_equal(made[:, :rate], source.samples[:, :rate])
    np.testing.assert_array_equal(made[:, 3 * rate :], source.samples[:, 3 * rate :])


def test_a_source_that_ends_before_the_song_is_followed_by_silence(loaded: Loaded) -> None:
    source, rate = hum(loaded, 3.0), loaded.renderer.sample_rate
    made = sound_of(loaded, repaint(loaded, Window(1.0, 2.0, 0.0, 4.08), source)).samples
    np.testing.assert_array_equal(made[:, 2 * rate : 3 * rate], source.samples[:, 2 * rate :])
    assert not made[:, 3 * rate :].any()


@pytest.mark.parametrize(
    ("uploaded", "made", "rate", "channels"),
    [
        ("wav", "wav", 8000, 1),
        ("wav", "flac", 8000, 2),
        ("wav", "wav32", 8000, 2),
        ("flac", "flac", 8000, 1),  # 24 bits
        ("wav32", "wav32", 8000, 2),
        ("wav32", "wav32", 44100, 1),  # resampled once
    ],
)
def test_a_file_keeps_the_samples_that_were_uploaded(
    tmp_path: Path, uploaded: AudioFormat, made: AudioFormat, rate: int, channels: int
) -> None:
    renderer = load_model(write_checkpoint(tmp_path, write_sine_bank), "cpu", EXPECTED).renderer
    noise = np.random.default_rng(1).uniform(-0.9, 0.9, (channels, 4 * rate)).astype(np.float32)
    source = tmp_path / f"source.{extension(uploaded)}"
    write(AudioClip(noise, rate), source, FileSpec(uploaded))
    asked = SongRequest(
        task_type="repaint", task=TaskOptions(source=str(source), start=1.0, end=2.0, crossfade_seconds=0.1)
    )
    asked, sources = load_inputs(asked, EXPECTED, renderer)
    assert asked.duration is not None
    plan = toy.song(task_type="repaint", window=window_of(asked), duration=asked.duration)
    (song,) = renderer.render([plan], lambda done, of: None, lambda: False, [sources])
    path = tmp_path / f"song.{extension(made)}"
    write(renderer.decode(song, plan.duration, lambda fraction: None), path, FileSpec(made))

    given, found = read(source, 8000).samples, read(path).samples
    assert found.shape == given.shape
    np.testing.assert_array_equal(found[:, :8000], given[:, :8000])
    np.testing.assert_array_equal(found[:, 16000:], given[:, 16000:])
    assert not np.allclose(found[:, 8800:15200], given[:, 8800:15200], atol=0.01)


def test_a_window_begins_without_a_click(loaded: Loaded) -> None:
    source, rate = hum(loaded, 4.08), loaded.renderer.sample_rate
    made = sound_of(loaded, repaint(loaded, Window(1.0, 3.0, 0.0, 4.08), source)).samples
    fade = slice(rate, rate + round(0.01 * rate))
    share = np.arange(1, fade.stop - fade.start + 1) / (fade.stop - fade.start + 1)
    beside = source.samples[:, fade] * (1 - share)
    assert np.all(np.abs(made[:, fade] - beside).max(axis=0) <= 10 ** (-1 / 20) * share + 1e-6)


def test_a_repaint_of_everything_is_a_song_like_any_other(loaded: Loaded) -> None:
    song = repaint(loaded, Window(0.0, 4.08, 0.0, 4.08), hum(loaded, 4.08))
    assert np.abs(sound_of(loaded, song).samples).max() == pytest.approx(10 ** (-1 / 20))


def test_the_window_cross_fades_for_as_long_as_is_asked(loaded: Loaded) -> None:
    source, rate = hum(loaded, 4.08), loaded.renderer.sample_rate
    hard = repaint(loaded, Window(1.0, 3.0, 0.0, 4.08), source)
    assert hard.window is not None
    soft = replace(hard, window=replace(hard.window, crossfade_seconds=0.25))
    cut, faded = (sound_of(loaded, song).samples for song in (hard, soft))
    differ = np.flatnonzero(np.abs(cut - faded).max(axis=0) > 0)
    inside = (np.array([1.0, 1.25, 2.75, 3.0]) * rate).astype(int)
    assert inside[0] <= differ.min() and differ.max() <= inside[3]
    assert not np.any((differ > inside[1]) & (differ < inside[2]))


@pytest.mark.parametrize("volume", [0.05, 0.3, 0.99])
def test_a_window_is_no_louder_than_a_song_whatever_its_source(loaded: Loaded, volume: float) -> None:
    source, rate = hum(loaded, 4.08, volume=volume), loaded.renderer.sample_rate
    song = repaint(loaded, Window(1.0, 3.0, 0.0, 4.08), source)
    made = sound_of(loaded, replace(song, latents=song.latents + 6.0)).samples
    inside = slice(rate + rate // 100, 3 * rate - rate // 100)
    assert np.abs(made[:, inside]).max() <= 10 ** (-1 / 20)
    np.testing.assert_array_equal(made[:, :rate], source.samples[:, :rate])
    np.testing.assert_array_equal(made[:, 3 * rate :], source.samples[:, 3 * rate :])


def test_sound_that_is_none_fails(loaded: Loaded) -> None:
    song = repaint(loaded, Window(1.0, 3.0, 0.0, 4.08), hum(loaded, 4.08))
    with pytest.raises(AceStepError, match="not numbers"):
        sound_of(loaded, replace(song, latents=song.latents * torch.nan))


@pytest.mark.parametrize(
    ("window", "most"), [(None, 1.1), (Window(10.0, 12.0, 0.0, 60.0), 0.2)], ids=["whole", "repaint"]
)
def test_what_is_decoded_is_copied_once_at_most(window: Window | None, most: float) -> None:
    """As `memory.estimate.decoding` promises for any task. A repaint is joined in place."""
    sound = torch.full((1, 2, 60 * 1000), 0.5)
    codec = SimpleNamespace(sample_rate=1000, decode=lambda latents, on_fraction: sound)
    renderer: Any = SimpleNamespace(
        codec=codec, _device=lambda check: nullcontext(), _enter_codec=lambda: None
    )
    kept = AudioClip(np.full((2, 60 * 1000), 0.25, np.float32), 1000)
    song = SongLatents(torch.zeros(1, 1500, 4), window=window, kept=kept if window else None)
    tracemalloc.start()
    clip = TorchRenderer.decode(renderer, song, 60.0, lambda fraction: None)
    copied = tracemalloc.get_traced_memory()[1] / kept.samples.nbytes
    tracemalloc.stop()
    assert copied <= most
    assert np.shares_memory(clip.samples, sound.numpy()) == (window is not None)
