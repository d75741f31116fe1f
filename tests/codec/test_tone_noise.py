import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from acestep.codec.codec import load_codec
from acestep.codec.tone_noise import ToneNoiseCodec, ToneNoiseConfig
from acestep.errors import CheckpointError
from tests.codec.test_sine_bank import tones

RATE = 48_000
CONFIG = ToneNoiseConfig()
TONES, LEVELS, SHARES, PANS = CONFIG.sizes


@pytest.fixture(scope="module")
def codec() -> ToneNoiseCodec:
    return ToneNoiseCodec(CONFIG)


def noise(seconds: float, amplitude: float = 0.1) -> Tensor:
    """White noise, `[1, 2, samples]`, the same on both sides."""
    generator = torch.Generator().manual_seed(0)
    return amplitude * torch.randn(1, 1, round(seconds * RATE), generator=generator).expand(1, 2, -1)


def loudest(latents: Tensor, count: int) -> list[int]:
    """MIDI pitches of the strongest local maxima in the middle frame."""
    frame = latents[0, latents.shape[1] // 2, :TONES]
    peaks = [n for n in range(1, TONES - 1) if frame[n] >= frame[n - 1] and frame[n] > frame[n + 1]]
    return sorted(n + CONFIG.lowest_midi_note for n in sorted(peaks, key=lambda n: -frame[n])[:count])


def onset(sound: Tensor) -> float:
    """Seconds until mono sound first has a quarter of its loudest 2 ms."""
    power = sound[: len(sound) // 96 * 96].view(-1, 96).square().mean(dim=1).sqrt()
    return int((power > 0.25 * power.max()).nonzero()[0]) * 96 / RATE


def test_sizes_are_those_of_the_config(codec: ToneNoiseCodec) -> None:
    latents = codec.encode(tones(60, seconds=1.0))
    assert latents.shape == (1, 25, codec.latent_channels) == (1, 25, 150)
    assert codec.decode(latents).shape == (1, 2, RATE)


@pytest.mark.parametrize("pitches", [(60,), (48, 64, 67), (36, 60, 76, 84)])
def test_notes_are_found_and_come_back(codec: ToneNoiseCodec, pitches: tuple[int, ...]) -> None:
    latents = codec.encode(tones(*pitches, seconds=1.0))
    assert loudest(latents, len(pitches)) == sorted(pitches)
    assert loudest(codec.encode(codec.decode(latents)), len(pitches)) == sorted(pitches)


def test_a_note_keeps_its_loudness(codec: ToneNoiseCodec) -> None:
    audio = tones(69, amplitude=0.3, seconds=1.0)
    back = codec.decode(codec.encode(audio)).mean(dim=1)
    assert back[0, RATE // 4 : -RATE // 4].std() == pytest.approx(float(audio.std()), rel=0.1)


def test_noise_keeps_its_power_band_by_band(codec: ToneNoiseCodec) -> None:
    latents = codec.encode(noise(3.0))
    back = codec.decode(latents)
    assert back.std() == pytest.approx(0.1, rel=0.15)
    drift = (codec.encode(back) - latents)[0, 5:-5, TONES : TONES + LEVELS].mean(dim=0) * CONFIG.level_std_db
    assert drift.view(CONFIG.parts, -1)[:, 3:].abs().max() < 2.0  # dB; lower bands have few bins


def test_silence_stays_silent(codec: ToneNoiseCodec) -> None:
    latents = codec.encode(torch.zeros(1, 2, RATE))
    assert torch.equal(latents[0, 0], latents[0, 12])
    assert codec.decode(latents).abs().max() == 0.0


@pytest.mark.parametrize("start", [0.500, 0.512, 0.525, 0.533])
def test_notes_and_hits_begin_where_they_did(codec: ToneNoiseCodec, start: float) -> None:
    quiet = torch.zeros(1, 2, round(start * RATE))
    for sound in (tones(72, seconds=0.5), noise(0.5)):
        back = codec.decode(codec.encode(torch.cat([quiet, sound], dim=-1)[..., :RATE])).mean(dim=1)[0]
        assert onset(back) == pytest.approx(start, abs=0.012)


def test_a_side_stays_a_side(codec: ToneNoiseCodec) -> None:
    left, right = tones(45, seconds=1.0), tones(81, seconds=1.0)
    audio = torch.stack([left[:, 0] + 0.25 * right[:, 0], 0.25 * left[:, 0] + right[:, 0]], dim=1)
    again = codec.decode(codec.encode(audio))
    found, back = (codec.encode(sound)[0, 12, -PANS:] * CONFIG.pan_std for sound in (audio, again))
    assert found[0] < -0.8 and found[2] > 0.8
    assert torch.allclose(found[::2][:2], back[::2][:2], atol=0.1)


def test_long_songs_have_no_seams_where_tiles_meet(codec: ToneNoiseCodec) -> None:
    audio = tones(57, 64, 69, seconds=21.0)
    whole = codec.encode(audio)
    # Frames far from any edge are the same in every tile.
    part = codec.encode(audio[..., 5 * RATE : 20 * RATE])
    assert torch.allclose(whole[:, 150:450], part[:, 25:325], atol=2e-2)
    curvature = codec.decode(whole)[0, 0, RATE : 20 * RATE].diff(n=2).abs()
    assert curvature.max() < 1.5 * curvature[: 2 * RATE].max()


def test_songs_of_a_batch_are_independent(codec: ToneNoiseCodec) -> None:
    other = tones(71, seconds=0.5)
    pair = codec.encode(torch.cat([tones(60, seconds=0.5), other]))
    assert torch.allclose(pair[1:], codec.encode(other), atol=1e-3)
    assert torch.allclose(codec.decode(pair)[:1], codec.decode(pair[:1]), atol=1e-5)


def test_decoding_reports_progress_and_can_be_stopped(codec: ToneNoiseCodec) -> None:
    latents = codec.encode(tones(60, seconds=11.0))
    fractions: list[float] = []
    codec.decode(latents, fractions.append)
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len(fractions) > 1

    def stop(fraction: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        codec.decode(latents, stop)


def test_its_folder_is_a_config_and_nothing_else(tmp_path: Path) -> None:
    config = ToneNoiseConfig(tone_mean_db=-40.0, share_mean_db=tuple(float(n) for n in range(10)))
    config.write(tmp_path)
    loaded = load_codec(tmp_path, torch.device("cpu"), torch.float32)
    assert isinstance(loaded, ToneNoiseCodec)
    assert loaded.config == config


@pytest.mark.parametrize("name", ["semitones", "band_edges_hz"])
def test_a_misspelt_setting_is_named(tmp_path: Path, name: str) -> None:
    CONFIG.write(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace(f'"{name}"', f'"{name}z"'))
    with pytest.raises(CheckpointError, match=name):
        load_codec(tmp_path, torch.device("cpu"), torch.float32)


def test_results_are_the_same_with_any_default_dtype(codec: ToneNoiseCodec) -> None:
    music = tones(60, 67, seconds=0.4)
    latents = codec.encode(music)
    sound = codec.decode(latents)
    torch.set_default_dtype(torch.bfloat16)  # as vLLM does, for all threads
    try:
        other = ToneNoiseCodec(CONFIG)
        encoded, again = other.encode(music), other.decode(latents)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(encoded, latents)
    assert torch.equal(again, sound)


def test_angles_are_those_of_equal_temperament(codec: ToneNoiseCodec) -> None:
    hz = 440.0 * 2 ** ((CONFIG.lowest_midi_note + CONFIG.semitones - 1 - 69) / 12)
    assert math.isclose(hz, 7902.13, abs_tol=0.01)  # B8, the highest tone
