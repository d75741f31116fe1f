"""The encoders against the classes of diffusers with the same weights."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AceStepConditionEncoder
from torch import nn

from acestep.networks.config import LayerConfig
from acestep.networks.encoders import ConditionEncoder
from tests.networks.test_transformer import CONFIG, LAYER
from tests.synthesizer import toy

WIDE = LayerConfig(24, 40, 3, 1, 8, 1e6, 1e-3, 8, attention_bias=True, layer_types=("full_attention",) * 3)
CONFIGS = {
    "alternating": replace(CONFIG, lyric_layers=3, timbre_layers=2, pooler_layers=2),
    "types": replace(
        CONFIG,
        encoder=replace(LAYER, layer_types=("full_attention", "sliding_attention")),
        pooler=replace(LAYER, layer_types=("full_attention",), sliding_window=2),
        lyric_layers=2,
        timbre_layers=3,
        pooler_layers=1,
        frames_per_code=5,
        code_levels=(8, 8, 8, 5, 5, 5),
    ),
    "other sizes": replace(
        CONFIG, encoder=WIDE, pooler=WIDE, lyric_layers=3, timbre_layers=1, pooler_layers=2
    ),
    "no window": replace(
        *(CONFIG,), encoder=replace(LAYER, sliding_window=None), lyric_layers=2, timbre_layers=2
    ),
}


def layer_of(config: LayerConfig) -> dict[str, Any]:
    return {
        **{name: getattr(config, name) for name in toy.LAYER},
        "attention_bias": config.attention_bias,
        "layer_types": list(config.layer_types) or None,
    }


def same_weights(theirs: Any, ours: nn.Module, scale: float = 0.2) -> None:
    torch.manual_seed(3)
    for parameter in theirs.eval().requires_grad_(False).parameters():
        parameter.normal_(0, scale)
    ours.load_state_dict({toy.our_name(name): each for name, each in theirs.state_dict().items()})
    ours.eval().requires_grad_(False)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", CONFIGS)
def test_states_of_songs_are_those_of_diffusers_class(name):
    config = CONFIGS[name]
    theirs = AceStepConditionEncoder(
        **layer_of(config.encoder),
        text_hidden_dim=config.text_width,
        timbre_hidden_dim=config.latent_channels,
        num_lyric_encoder_hidden_layers=config.lyric_layers,
        num_timbre_encoder_hidden_layers=config.timbre_layers,
    )
    ours = ConditionEncoder(config)
    same_weights(theirs, ours)
    # Longer than a block of banded attention.
    caption, lyrics = draw(1, 9, toy.TEXT_WIDTH), draw(1, 150, toy.TEXT_WIDTH)
    reference = draw(1, 70, toy.CHANNELS)
    with torch.inference_mode():
        expected, mask = theirs(
            caption, torch.ones(1, 9), lyrics, torch.ones(1, 150), reference, torch.zeros(1, dtype=torch.long)
        )
        found = ours(caption, lyrics, ours.timbre(reference))
    assert mask.all()
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
