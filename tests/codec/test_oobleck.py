import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderOobleck
from safetensors.torch import load_file, save_file
from torch import Tensor

from acestep.codec.oobleck import OobleckCodec, receptive_frames
from acestep.errors import CheckpointError, UnusableAudioError

# The class of diffusers uses torch's older weight_norm, as the published files do.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")

CPU = torch.device("cpu")
CHANNELS = 6


def write_vae(folder: Path, ratios: tuple[int, ...] = (2, 4, 5), audio_channels: int = 2) -> Any:
    torch.manual_seed(3)
    vae = AutoencoderOobleck(
        encoder_hidden_size=2 * CHANNELS,
        downsampling_ratios=list(ratios),
        channel_multiples=[1] * len(ratios),
        decoder_channels=8,
        decoder_input_channels=CHANNELS,
        audio_channels=audio_channels,
        sampling_rate=8000,
    )
    for name, parameter in vae.named_parameters():  # at their initial zeros the activations change nothing
        if name.endswith(("alpha", "beta")):
            parameter.data.normal_(std=0.3)
    vae.save_pretrained(folder)
    return vae.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    write_vae(folder, ratios=(2, 4, 4))
    return folder


@pytest.fixture(scope="module")
def codec(folder):
    return OobleckCodec.load(folder, CPU, torch.float32)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_sizes_come_from_the_config(codec):
    assert (codec.sample_rate, codec.hop_length, codec.latent_channels) == (8000, 32, CHANNELS)


def test_the_written_weights_are_used(tmp_path):
    vae = write_vae(tmp_path, ratios=(2, 4))
    codec = OobleckCodec.load(tmp_path, CPU, torch.float32)
    latents, audio = random(2, 9, CHANNELS), random(2, 2, 72)
    with torch.no_grad():
        torch.testing.assert_close(codec.decode(latents), vae.decode(latents.transpose(1, 2)).sample)
        torch.testing.assert_close(codec.encode(audio), vae.encode(audio).latent_dist.mean.transpose(1, 2))


def test_encoding_repeats_and_drops_a_part_of_a_frame(codec):
    audio = random(2, 2, 32 * 9 + 31)
    latents = codec.encode(audio)
    assert latents.shape == (2, 9, CHANNELS)
    assert torch.equal(codec.encode(audio), latents)
    assert torch.equal(codec.encode(audio[..., : 32 * 9]), latents)


def test_less_than_a_frame_is_refused(codec):
    with pytest.raises(UnusableAudioError):
        codec.encode(random(1, 2, 31))


@pytest.mark.parametrize("tile_frames", [1, 7, 40])
def test_tiles_leave_no_seams(codec, tile_frames):
    latents = random(2, 50, CHANNELS)
    in_tiles, in_one = OobleckCodec(codec.vae, tile_frames), OobleckCodec(codec.vae, 1000)
    audio = in_one.decode(latents)

    assert audio.abs().max() > 0.01
    torch.testing.assert_close(in_tiles.decode(latents), audio, atol=1e-5, rtol=0)
    torch.testing.assert_close(in_tiles.encode(audio), in_one.encode(audio), atol=1e-5, rtol=0)


def test_an_overlap_that_leaves_seams_is_refused(codec):
    needed = receptive_frames([2, 4, 4])
    OobleckCodec(codec.vae, 10, needed)
    with pytest.raises(ValueError, match=f"{needed} are needed"):
        OobleckCodec(codec.vae, 10, needed - 1)


@pytest.mark.parametrize("ratios", [(2, 4, 4), (3, 5), (2, 4, 4, 6, 10)])
def test_a_sample_depends_on_no_more_than_the_receptive_frames(tmp_path, ratios):
    write_vae(tmp_path, ratios)
    codec = OobleckCodec.load(tmp_path, CPU, torch.float32)
    reach, frames = receptive_frames(list(ratios)), 40
    latents = random(1, frames, CHANNELS)
    changed = latents.clone()
    changed[:, 20] += 5.0

    differs = (codec.decode(latents) != codec.decode(changed))[0].any(dim=0).view(frames, -1).any(dim=1)

    assert differs[20]
    assert not differs[: 20 - reach].any()
    assert not differs[20 + reach + 1 :].any()


def test_odd_ratios_keep_the_length(tmp_path):
    write_vae(tmp_path, ratios=(3, 5))
    codec = OobleckCodec.load(tmp_path, CPU, torch.float32)
    latents = random(1, 50, CHANNELS)
    audio = codec.decode(latents)
    assert audio.shape == (1, 2, 50 * 15)
    torch.testing.assert_close(OobleckCodec(codec.vae, 9).decode(latents), audio, atol=1e-5, rtol=0)
    assert codec.encode(audio).shape == (1, 50, CHANNELS)


def test_decoding_reports_each_tile(codec):
    fractions: list[float] = []
    OobleckCodec(codec.vae, 30).decode(random(2, 75, CHANNELS), fractions.append)
    assert fractions == pytest.approx([30 / 150, 60 / 150, 75 / 150, 105 / 150, 135 / 150, 1.0])


def test_the_callback_may_stop_the_decoding(codec):
    class EnoughError(Exception):
        pass

    def stop(fraction: float) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        codec.decode(random(1, 5, CHANNELS), stop)


def test_bfloat16_weights_give_float32_sound(folder, codec):
    half = OobleckCodec.load(folder, CPU, torch.bfloat16)
    latents = random(1, 20, CHANNELS)
    audio = half.decode(latents)
    assert half.vae.dtype == torch.bfloat16
    assert audio.dtype == half.encode(audio).dtype == torch.float32
    assert (audio - codec.decode(latents)).abs().max() < 0.1


def test_files_with_the_names_of_newer_weight_norm_are_read(folder, codec, tmp_path):
    shutil.copytree(folder, tmp_path / "vae")
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    newer = {
        ".weight_g": ".parametrizations.weight.original0",
        ".weight_v": ".parametrizations.weight.original1",
    }
    save_file(
        {name[:-9] + newer.get(name[-9:], name[-9:]): tensor for name, tensor in load_file(path).items()},
        path,
    )
    again = OobleckCodec.load(tmp_path / "vae", CPU, torch.float32)
    assert torch.equal(again.decode(random(1, 5, CHANNELS)), codec.decode(random(1, 5, CHANNELS)))


def test_a_missing_tensor_is_named(tmp_path):
    write_vae(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["decoder.conv2.weight_v"]
    save_file(tensors, path)
    with pytest.raises(
        CheckpointError, match=r"diffusion_pytorch_model\.safetensors.*decoder\.conv2\.weight_v"
    ):
        OobleckCodec.load(tmp_path, CPU, torch.float32)


def test_mono_is_refused(tmp_path):
    write_vae(tmp_path, audio_channels=1)
    with pytest.raises(CheckpointError, match="stereo"):
        OobleckCodec.load(tmp_path, CPU, torch.float32)


def test_a_config_that_is_not_json_is_named(tmp_path):
    write_vae(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"audio_channels": 2})[:-1])
    with pytest.raises(CheckpointError, match=r"config\.json"):
        OobleckCodec.load(tmp_path, CPU, torch.float32)
