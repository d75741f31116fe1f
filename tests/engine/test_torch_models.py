from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderOobleck

from acestep.audio.encode import FileSpec, write
from acestep.catalog.checkpoints import Checkpoint, Defaults
from acestep.codec.sine_bank import SineBankConfig
from acestep.domain.latents import SourceLatents
from acestep.domain.models import ModelInfo
from acestep.domain.song import AudioClip
from acestep.engine import torch_models
from acestep.engine.renderer import Loaded, LoadedPlanner
from acestep.engine.torch_models import LoadContext, choose_device, load_model, load_planner
from acestep.errors import (
    CheckpointError,
    JobCancelledError,
    ModelUnavailableError,
    UntimedLyricsError,
    UnusableAudioError,
)
from acestep.limits import BASE_TASKS
from acestep.memory import number_formats
from acestep.memory.plan import MemoryPlan
from acestep.planner.backends import vllm
from acestep.planner.backends.pt import TorchLanguageModel
from acestep.settings.types import NumberFormatWish, Quantization
from acestep.synthesizer import synthesizer
from acestep.synthesizer.loading import SynthesizerModules, load_synthesizer
from acestep.weights.shared_modules import SharedModules
from tests.planner.fakes import WalkingModel
from tests.planner.toy import Toy, write_toy
from tests.synthesizer import toy

# The class of diffusers uses torch's older weight_norm, as the published files do.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")

EXPECTED = ModelInfo(
    name="toy",
    is_turbo=False,
    steps=50,
    guidance_scale=7.0,
    shift=3.0,
    max_steps=200,
    is_default=True,
    state="loading",
    detail="reading",
    notice="only a toy",
)


def write_sine_bank(folder: Path) -> None:
    """As many channels and frames a second as the toy DiT: 12 semitones, 12 bands, 12.5 Hz."""
    edges = tuple(4000.0 * band / 12 for band in range(13))
    SineBankConfig(
        sampling_rate=8000, hop_length=640, lowest_midi_note=48, semitones=12, noise_edges_hz=edges
    ).write(folder)


def write_oobleck(folder: Path) -> None:
    torch.manual_seed(3)
    AutoencoderOobleck(
        encoder_hidden_size=2 * toy.CHANNELS,
        downsampling_ratios=[2, 4, 4],
        channel_multiples=[1, 1, 1],
        decoder_channels=8,
        decoder_input_channels=toy.CHANNELS,
        audio_channels=2,
        sampling_rate=400,
    ).save_pretrained(folder)


def write_checkpoint(folder: Path, write_codec: Callable[[Path], None]) -> Checkpoint:
    written = toy.write_published(folder)
    write_codec(folder / "vae")
    return Checkpoint(
        name="toy",
        dit=written.dit,
        layout="published",
        vae=folder / "vae",
        text_encoder=written.text_encoder,
        is_turbo=False,
        version="base",
        notice="",
        defaults=Defaults(steps=2, guidance_scale=1.5, shift=1.0),
    )


@pytest.fixture(scope="module", params=[write_sine_bank, write_oobleck], ids=["sine bank", "oobleck"])
def loaded(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load_model(write_checkpoint(tmp_path_factory.mktemp("toy"), request.param), "cpu", EXPECTED)


def sing(loaded: Loaded, seconds: float, seed: int = 1, told: list[float] | None = None) -> AudioClip:
    plan = toy.song(duration=seconds, seed=seed)
    (song,) = loaded.renderer.render([plan], lambda done, of: None, lambda: False)
    return loaded.renderer.decode(song, seconds, ([] if told is None else told).append)


@pytest.mark.parametrize("seconds", [10.0, 10.03, 10.05, 11.111])
def test_a_song_is_exactly_as_long_as_asked(loaded: Loaded, seconds: float) -> None:
    told: list[float] = []
    clip = sing(loaded, seconds, told=told)
    assert clip.samples.dtype == np.float32
    assert clip.samples.shape == (2, round(seconds * clip.sample_rate))
    assert np.abs(clip.samples).max() == pytest.approx(10 ** (-1 / 20), rel=1e-4)
    assert told[-1] == 1.0


@pytest.mark.parametrize("peak_db", [-12.0, 0.0])
def test_a_song_is_as_loud_as_is_asked(loaded: Loaded, peak_db: float) -> None:
    plan = toy.song(duration=2.0, peak_db=peak_db)
    (song,) = loaded.renderer.render([plan], lambda done, of: None, lambda: False)
    clip = loaded.renderer.decode(song, 2.0, lambda fraction: None)
    assert np.abs(clip.samples).max() == pytest.approx(10 ** (peak_db / 20), rel=1e-5)


def test_songs_of_a_batch_keep_apart(loaded: Loaded) -> None:
    """But for rounding, for which a CPU has no batches; on a GPU they save time."""
    assert not loaded.renderer.takes_batches
    plans = [toy.song(duration=10.0, seed=1), toy.song(duration=10.0, seed=2, caption="x" * 400)]
    songs_ = loaded.renderer.render(plans, lambda done, of: None, lambda: False)
    assert songs_[0].warnings == () and len(songs_[1].warnings) == 1
    for plan, song in zip(plans, songs_, strict=True):
        together = loaded.renderer.decode(song, 10.0, lambda fraction: None)
        (alone,) = loaded.renderer.render([plan], lambda done, of: None, lambda: False)
        torch.testing.assert_close(song.latents, alone.latents, atol=1e-5, rtol=1e-5)
        assert together.samples.shape[0] == 2


def test_the_words_of_a_song_are_timed_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesizer, "known_heads", lambda config: {0: (1, 3), 2: (2,)})
    renderer = load_model(write_checkpoint(tmp_path, write_sine_bank), "cpu", EXPECTED).renderer
    plan = toy.song(lyrics="[Verse]\nla la\nlo")
    (song,) = renderer.render([plan], lambda done, of: None, lambda: False)
    work_out = renderer.align_lyrics(plan, song, SourceLatents())
    with ThreadPoolExecutor(1) as aside:
        times = aside.submit(work_out).result()
    assert [line.text for line in times.lines] == ["la la", "lo"]
    assert 0.0 <= times.lines[0].start < times.lines[1].end <= plan.duration


def test_a_model_whose_heads_nobody_knows_times_no_words(loaded: Loaded) -> None:
    plan = toy.song(lyrics="la la")
    (song,) = loaded.renderer.render([plan], lambda done, of: None, lambda: False)
    with pytest.raises(UntimedLyricsError, match="published 2 B models"):
        loaded.renderer.align_lyrics(plan, song, SourceLatents())


def hum(loaded: Loaded, seconds: float, hz: float = 150.0, volume: float = 0.3) -> AudioClip:
    rate = loaded.renderer.sample_rate
    wave = volume * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return AudioClip(np.stack([wave, wave]).astype(np.float32), rate)


def test_the_same_sound_is_encoded_alike_and_its_end_is_heard(loaded: Loaded) -> None:
    clip = hum(loaded, 1.01)
    latents = loaded.renderer.encode(clip)
    assert torch.equal(loaded.renderer.encode(clip), latents)
    assert len(latents) == loaded.renderer.synthesizer.frames(1.01)  # type: ignore[attr-defined]


def test_a_reference_is_as_long_as_the_checkpoint_says(loaded: Loaded) -> None:
    assert loaded.renderer.reference_seconds * toy.FRAME_RATE == pytest.approx(toy.REFERENCE_FRAMES)


def test_decoding_can_be_stopped(loaded: Loaded) -> None:
    def stop(fraction: float) -> None:
        raise JobCancelledError("Enough.")

    (song,) = loaded.renderer.render([toy.song()], lambda done, of: None, lambda: False)
    with pytest.raises(JobCancelledError):
        loaded.renderer.decode(song, toy.song().duration, stop)


def test_the_checkpoint_completes_what_is_known(loaded: Loaded) -> None:
    known = replace(
        EXPECTED, steps=2, guidance_scale=1.5, shift=1.0, state="ready", detail="", dtype="float32"
    )
    # What toy.py writes has 4 * 3 levels, and is a base model.
    assert loaded.info == replace(known, code_count=12, tasks=BASE_TASKS, layers=loaded.info.layers)
    assert loaded.info.layers["layers.2.cross_attn.k_proj"] == (16, 32)


def test_a_file_is_heard_as_codes(loaded: Loaded, tmp_path: Path) -> None:
    def recording(name: str, hz: float) -> Path:
        time = np.arange(round(10.03 * 44_100)) / 44_100
        wave = np.stack([np.sin(2 * np.pi * hz * time)] * 2)
        write(AudioClip((wave / 2).astype(np.float32), 44_100), tmp_path / name, FileSpec("flac"))
        return tmp_path / name

    codes = loaded.renderer.tokenize(recording("low.flac", 150.0))
    frames = loaded.renderer.synthesizer.frames(10.03)  # type: ignore[attr-defined]
    assert len(codes) == -(-frames // toy.POOLER["pool_window_size"])
    assert all(0 <= code < 12 for code in codes)
    assert loaded.renderer.tokenize(tmp_path / "low.flac") == codes
    with pytest.raises(UnusableAudioError):
        loaded.renderer.tokenize(Path(__file__))


@pytest.fixture
def planner_folder(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "acestep-5Hz-lm-toy", Toy(codes=12))


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)


@pytest.mark.parametrize(
    ("backend", "reason"),
    [("vllm", "vLLM is not installed (`uv sync --extra vllm` installs it)"), ("mlx", "nothing here runs it")],
)
def test_a_planner_runs_on_pytorch_where_another_backend_is_not(
    backend: str, reason: str, planner_folder: Path, no_vllm: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    planner = load_planner(planner_folder, "cpu", backend)
    assert (planner.model.name, planner.backend) == ("acestep-5Hz-lm-toy", "pt")
    assert planner.model.vocabulary.code_count == 12
    assert planner.detail == f"ACESTEP_LM_BACKEND={backend} is not available here: {reason}; pt is used"
    assert planner.detail in caplog.messages


def test_pytorch_as_asked_for_needs_no_word(planner_folder: Path) -> None:
    planner = load_planner(planner_folder, "cpu", "pt")
    assert (planner.backend, planner.detail) == ("pt", "")


@pytest.mark.parametrize(
    ("wish", "least", "expected"),
    [("auto", 256, "float32"), ("auto", 8, "bfloat16"), ("bfloat16", 256, "bfloat16")],
)
def test_a_song_in_the_format_of_the_setting(
    wish: NumberFormatWish, least: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_models, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    monkeypatch.setattr(number_formats, "_AMX_WIDTH", least)
    checkpoint = write_checkpoint(tmp_path, write_oobleck)
    exact = sing(load_model(checkpoint, "cpu", EXPECTED, LoadContext(dtype="float32")), 10.0)
    loaded = load_model(checkpoint, "cpu", EXPECTED, LoadContext(dtype=wish))
    assert loaded.info.dtype == expected
    assert {weight.dtype for weight in codec_of(loaded).vae.parameters()} == {torch.float32}
    clip, again = sing(loaded, 10.0), sing(loaded, 10.0)
    assert np.array_equal(clip.samples, again.samples)
    error = np.linalg.norm(clip.samples - exact.samples) / np.linalg.norm(exact.samples)
    assert (error == 0) if expected == "float32" else 1e-5 < error < 0.1


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_quantized_planner_runs_on_pytorch(
    kind: Quantization, planner_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "why_not", lambda entry: "")
    plan = MemoryPlan((), "write", 0, 1, 60.0, 64, quantization=kind)
    planner = load_planner(planner_folder, "cpu", "vllm", LoadContext(plan=plan))
    assert (planner.backend, kind in planner.detail) == ("pt", True)
    assert isinstance(planner.model, TorchLanguageModel)
    weights = [weight.dtype.itemsize for part in planner.model.movable for weight in part.parameters()]
    assert weights.count(1) == 2 * 4  # the joined matrices of two layers


def test_vllm_runs_the_planner_where_it_can(planner_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = WalkingModel()
    monkeypatch.setattr(vllm, "why_not", lambda entry: "")
    monkeypatch.setattr(vllm, "load_vllm_language_model", lambda folder, entry, *room: model)
    assert load_planner(planner_folder, "cpu", "vllm") == LoadedPlanner(model, "vllm")
    assert load_planner(planner_folder, "cpu", "pt").backend == "pt"


def test_a_vllm_that_does_not_start_is_an_error(
    planner_folder: Path, no_vllm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "why_not", lambda entry: "")
    with pytest.raises(ModelUnavailableError, match="could not start acestep-5Hz-lm-toy"):
        load_planner(planner_folder, "cpu", "vllm")


def test_a_codec_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, SineBankConfig().write)
    with pytest.raises(CheckpointError, match=f"101 channels.*{toy.CHANNELS}"):
        load_model(checkpoint, "cpu", EXPECTED)


def test_the_device_is_looked_for_before_weights_are_read(tmp_path: Path) -> None:
    missing = write_checkpoint(tmp_path, write_sine_bank)
    (missing.vae / "config.json").unlink()
    with pytest.raises(ModelUnavailableError):
        load_model(missing, "abacus", EXPECTED)


def test_a_cpu_is_always_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("wish", ["abacus", "meta", "cuda:9"])
def test_a_device_that_is_not_there(wish: str) -> None:
    with pytest.raises(ModelUnavailableError, match=f"ACESTEP_DEVICE={wish} is not there.*cpu"):
        choose_device(wish)


def test_a_gpu_is_taken_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:0")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ModelUnavailableError):
        choose_device("cuda:2")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> list[SynthesizerModules]:
    """The modules of every model that is loaded in the test, in this order."""
    found: list[SynthesizerModules] = []

    def load(*arguments: Any) -> SynthesizerModules:
        found.append(load_synthesizer(*arguments))
        return found[-1]

    monkeypatch.setattr(torch_models, "load_synthesizer", load)
    return found


@pytest.mark.parametrize("write_codec", [write_sine_bank, write_oobleck], ids=["sine bank", "oobleck"])
def test_what_two_models_have_in_common_is_loaded_once(
    tmp_path: Path, modules: list[SynthesizerModules], write_codec: Callable[[Path], None]
) -> None:
    first = write_checkpoint(tmp_path, write_codec)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "vae").symlink_to(first.vae)
    twin = replace(first, name="twin", vae=tmp_path / "links" / "vae")
    stranger = write_checkpoint(tmp_path / "stranger", write_codec)
    shared = SharedModules()
    codecs = [
        codec_of(load_model(checkpoint, "cpu", EXPECTED, LoadContext(shared=shared)))
        for checkpoint in (first, twin, stranger)
    ]
    one, two, three = modules
    assert codecs[0] is codecs[1] and codecs[0] is not codecs[2]
    for name in ("text_encoder", "silence_latent"):
        assert getattr(one, name) is getattr(two, name)
        assert getattr(one, name) is not getattr(three, name)
    assert one.condition_encoder.silence_latent is two.condition_encoder.silence_latent
    assert one.transformer is not two.transformer


def test_a_part_leaves_memory_with_the_last_model_that_used_it(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, write_sine_bank)
    shared = SharedModules()
    codec = weakref.ref(codec_of(load_model(checkpoint, "cpu", EXPECTED, LoadContext(shared=shared))))
    gc.collect()
    assert codec() is None


def codec_of(loaded: Loaded) -> Any:
    return loaded.renderer.codec  # type: ignore[attr-defined]
