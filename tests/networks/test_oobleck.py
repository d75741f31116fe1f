"""The autoencoder against that of diffusers, with the same weights."""

import json
from typing import Any

import pytest
import torch
from diffusers import AutoencoderOobleck
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoderBlock, OobleckEncoderBlock
from torch import Tensor, nn
from torch.nn.utils import remove_weight_norm

from acestep.errors import CheckpointError
from acestep.networks import oobleck
from acestep.networks.oobleck import DownBlock, Oobleck, OobleckConfig, UpBlock, join_weights, split_weights
from tests.planner.toy import rewrite_json

# The class of diffusers uses torch's older weight_norm, as the published files do.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")

CONFIG: dict[str, Any] = {
    "encoder_hidden_size": 12,
    "downsampling_ratios": [2, 4, 5],
    "channel_multiples": [1, 2, 3],
    "decoder_channels": 8,
    "decoder_input_channels": 6,
    "audio_channels": 2,
    "sampling_rate": 8000,
}


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def roughen(module: nn.Module) -> Any:
    """At their initial zeros the activations change nothing."""
    for name, parameter in module.requires_grad_(False).named_parameters():
        if name.endswith(("alpha", "beta")):
            parameter.normal_(std=0.3)
    return module.eval()


def fold(module: nn.Module) -> None:
    for part in module.modules():
        if hasattr(part, "weight_g"):
            remove_weight_norm(part)


def read(tmp_path: Any, **changes: Any) -> OobleckConfig:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG | changes))
    return OobleckConfig.read(path)


@pytest.mark.parametrize("piece", [40, 10_000])
@pytest.mark.parametrize("ratios", [[2, 4, 5], [3, 5, 2], [2, 6, 10]])
def test_sound_and_latents_are_those_of_diffusers(tmp_path, monkeypatch, ratios, piece):
    monkeypatch.setattr(oobleck, "_PIECE", piece)
    torch.manual_seed(3)
    reference = roughen(AutoencoderOobleck(**CONFIG | {"downsampling_ratios": ratios}))
    ours = Oobleck(read(tmp_path, downsampling_ratios=ratios)).eval()
    split_weights(ours)
    ours.load_state_dict(reference.state_dict())
    join_weights(ours)
    latents, sound = draw(2, 6, 31), draw(2, 2, 31 * ours.config.hop_length + 7)
    with torch.inference_mode():
        torch.testing.assert_close(ours.decode(latents), reference.decode(latents).sample)
        torch.testing.assert_close(ours.encode(sound), reference.encode(sound).latent_dist.mean)


@pytest.mark.parametrize(
    ("ours", "theirs", "length"),
    [
        (UpBlock(512, 256, 4), OobleckDecoderBlock(512, 256, 4), 1300),
        (UpBlock(128, 128, 2), OobleckDecoderBlock(128, 128, 2), 2500),
        (DownBlock(128, 256, 4), OobleckEncoderBlock(128, 256, 4), 5000),
    ],
)
def test_blocks_of_published_size(ours, theirs, length):
    # Longer than a piece.
    torch.manual_seed(5)
    roughen(theirs)
    fold(theirs)
    ours.load_state_dict(theirs.state_dict())
    x = draw(1, theirs.snake1.alpha.shape[1], length)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_an_activation_leaves_its_input_alone():
    snake = roughen(oobleck.Snake(4))
    x = draw(1, 4, 9)
    kept = x.clone()
    assert not torch.equal(snake(x), kept)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"audio_channels": 1}, r"audio_channels is 1; 2 \(stereo\) is expected"),
        ({"decoder_channels": None}, "'decoder_channels' is missing"),
        ({"sampling_rate": "48k"}, "sampling_rate is '48k'; a whole number from 1 on is expected"),
        ({"downsampling_ratios": [2, 0, 4]}, r"downsampling_ratios is \[2, 0, 4\]; a list of whole numbers"),
        ({"downsampling_ratios": 4}, "downsampling_ratios is 4; a list of whole numbers"),
        (
            {"channel_multiples": [1, 2]},
            r"channel_multiples is \[1, 2\]; a list of 3, one a ratio, is expected",
        ),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_its_value(tmp_path, changes, what):
    read(tmp_path)
    rewrite_json(tmp_path / "config.json", **changes)
    with pytest.raises(CheckpointError, match=r"config\.json: " + what):
        OobleckConfig.read(tmp_path / "config.json")
