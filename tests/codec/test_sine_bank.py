import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from acestep.codec.codec import load_codec
from acestep.codec.sine_bank import SineBankCodec, SineBankConfig
from acestep.errors import CheckpointError

RATE = 48_000
CONFIG = SineBankConfig()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def codec() -> SineBankCodec:
    return SineBankCodec(CONFIG)


def tones(*pitches: int, seconds: float = 2.0, amplitude: float = 0.2) -> Tensor:
    """Sines at MIDI pitches, `[1, 2, samples]`."""
    time = torch.arange(round(seconds * RATE)) / RATE
    hz = [440.0 * 2 ** ((pitch - 69) / 12) for pitch in pitches]
    mono = torch.stack([amplitude * torch.sin(2 * math.pi * f * time) for f in hz]).sum(0)
    return mono.expand(1, 2, -1)


def loudest(latents: Tensor, count: int) -> list[int]:
    """MIDI pitches of the strongest local maxima in the middle frame."""
    frame = latents[0, latents.shape[1] // 2, : CONFIG.semitones]
    peaks = [n for n in range(1, len(frame) - 1) if frame[n] >= frame[n - 1] and frame[n] > frame[n + 1]]
    best = sorted(peaks, key=lambda n: -frame[n])[:count]
    return sorted(n + CONFIG.lowest_midi_note for n in best)


def test_sizes_are_those_of_the_config(codec: SineBankCodec) -> None:
    latents = codec.encode(tones(60, seconds=1.0))
    assert latents.shape == (1, 25, codec.latent_channels) == (1, 25, 101)
    assert codec.decode(latents).shape == (1, 2, RATE)


@pytest.mark.parametrize("pitches", [(60,), (48, 64, 67), (36, 60, 76, 84)])
def test_notes_are_found_and_come_back(codec: SineBankCodec, pitches: tuple[int, ...]) -> None:
    latents = codec.encode(tones(*pitches))
    assert loudest(latents, len(pitches)) == sorted(pitches)
    assert loudest(codec.encode(codec.decode(latents)), len(pitches)) == sorted(pitches)


def test_a_note_keeps_its_loudness(codec: SineBankCodec) -> None:
    audio = tones(69, amplitude=0.3)
    back = codec.decode(codec.encode(audio)).mean(dim=1)
    assert back[0, RATE // 2 : -RATE // 2].std() == pytest.approx(float(audio.std()), rel=0.1)


def test_noise_keeps_its_power_band_by_band(codec: SineBankCodec) -> None:
    noise = 0.1 * torch.randn(1, 1, 4 * RATE, generator=torch.Generator().manual_seed(0)).expand(1, 2, -1)
    latents = codec.encode(noise)
    back = codec.decode(latents)
    assert back.std() == pytest.approx(float(noise.std()), rel=0.15)
    upper = slice(CONFIG.semitones + 3, None)  # bands with enough bins for a stable median
    drift = (codec.encode(back) - latents)[0, 5:-5, upper].mean(dim=0) * CONFIG.noise_std_db
    assert drift.abs().max() < 2.0  # dB


def test_silence_stays_silent(codec: SineBankCodec) -> None:
    silence = torch.zeros(1, 2, RATE)
    latents = codec.encode(silence)
    assert torch.equal(latents[0, 0], latents[0, 12])
    assert codec.decode(latents).abs().max() == 0.0


def test_an_attack_is_where_it_was(codec: SineBankCodec) -> None:
    audio = torch.cat([torch.zeros(1, 2, RATE), tones(72, seconds=1.0)], dim=-1)
    back = codec.decode(codec.encode(audio)).mean(dim=1)[0]
    early, late = back[: RATE - RATE // 20], back[RATE + RATE // 20 :]
    assert early.abs().max() < 0.1 * late.abs().max()


def test_long_songs_have_no_seams_where_tiles_meet(codec: SineBankCodec) -> None:
    audio = tones(57, 64, 69, seconds=21.0)
    whole = codec.encode(audio)
    # Frames far from any edge are the same in every tile.
    part = codec.encode(audio[..., 5 * RATE : 20 * RATE])
    assert torch.allclose(whole[:, 150:450], part[:, 25:325], atol=1e-3)
    sound = codec.decode(whole)[0, 0, RATE : 20 * RATE]
    curvature = sound.diff(n=2).abs()
    assert curvature.max() < 1.5 * curvature[: 2 * RATE].max()


def test_songs_of_a_batch_are_independent(codec: SineBankCodec) -> None:
    pair = codec.encode(torch.cat([tones(60), tones(71)]))
    assert torch.allclose(pair[1:], codec.encode(tones(71)), atol=1e-4)
    assert torch.allclose(codec.decode(pair)[:1], codec.decode(pair[:1]), atol=1e-5)


def test_decoding_reports_progress_and_can_be_stopped(codec: SineBankCodec) -> None:
    latents = codec.encode(tones(60, seconds=21.0))
    fractions: list[float] = []
    codec.decode(latents, fractions.append)
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len(fractions) > 1

    def stop(fraction: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        codec.decode(latents, stop)


def test_its_folder_is_a_config_and_nothing_else(tmp_path: Path) -> None:
    config = SineBankConfig(tone_mean_db=-40.0, noise_std_db=9.0)
    config.write(tmp_path)
    loaded = load_codec(tmp_path, CPU, torch.float32)
    assert isinstance(loaded, SineBankCodec)
    assert loaded.config == config


def test_an_unknown_codec_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "Encodec"}')
    with pytest.raises(CheckpointError, match="Encodec"):
        load_codec(tmp_path, CPU, torch.float32)


@pytest.mark.parametrize("name", ["semitones", "noise_edges_hz"])
def test_a_misspelt_setting_is_named(tmp_path: Path, name: str) -> None:
    SineBankConfig().write(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace(f'"{name}"', f'"{name}z"'))
    with pytest.raises(CheckpointError, match=name):
        load_codec(tmp_path, CPU, torch.float32)


def test_results_are_the_same_with_any_default_dtype() -> None:
    music = tones(60, 67, seconds=0.4)
    latents = SineBankCodec(CONFIG).encode(music)
    sound = SineBankCodec(CONFIG).decode(latents)
    torch.set_default_dtype(torch.bfloat16)  # as vLLM does, for all threads
    try:
        codec = SineBankCodec(CONFIG)
        encoded = codec.encode(music)
        again = codec.decode(latents)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(encoded, latents)
    assert torch.equal(again, sound)
