"""The encoders against the classes of diffusers with the same weights."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AceStepAudioTokenDetokenizer, AceStepAudioTokenizer, AceStepConditionEncoder
from torch import nn

from acestep.networks.config import LayerConfig, SynthesizerConfig
from acestep.networks.encoders import (
    AudioTokenDetokenizer,
    AudioTokenizer,
    ConditionEncoder,
    Quantizer,
)
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


def tokenizers(config: SynthesizerConfig) -> tuple[Any, AudioTokenizer]:
    theirs = AceStepAudioTokenizer(
        **layer_of(config.pooler),
        audio_acoustic_hidden_dim=config.latent_channels,
        pool_window_size=config.frames_per_code,
        num_attention_pooler_hidden_layers=config.pooler_layers,
        fsq_dim=config.pooler.hidden_size,
        fsq_input_levels=list(config.code_levels),
    )
    ours = AudioTokenizer(config)
    same_weights(theirs, ours, 0.7)
    return theirs, ours


@pytest.mark.parametrize("name", ["alternating", "types", "other sizes"])
def test_codes_are_those_of_diffusers_class(name):
    config = CONFIGS[name]
    theirs, ours = tokenizers(config)
    latents = draw(2, 60 * config.frames_per_code, toy.CHANNELS)
    with torch.inference_mode():
        expected, codes = theirs.tokenize(latents)
        quantized, found = ours(latents)
        looked_up = ours.quantizer.look_up(found)
        expected_look_up = theirs.quantizer.get_output_from_indices(codes)
    assert found.tolist() == codes[..., 0].tolist()
    assert len(found.unique()) > 5
    torch.testing.assert_close(quantized, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(looked_up, expected_look_up, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["alternating", "types", "other sizes"])
def test_hints_are_those_of_diffusers_class(name):
    config = CONFIGS[name]
    theirs = AceStepAudioTokenDetokenizer(
        **layer_of(config.pooler),
        audio_acoustic_hidden_dim=config.latent_channels,
        pool_window_size=config.frames_per_code,
        num_attention_pooler_hidden_layers=config.pooler_layers,
    )
    ours = AudioTokenDetokenizer(config)
    same_weights(theirs, ours)
    quantized = draw(2, 7, config.pooler.hidden_size)
    with torch.inference_mode():
        torch.testing.assert_close(ours(quantized), theirs(quantized), atol=2e-6, rtol=1e-5)


def test_every_code_is_a_point_of_its_own():
    quantizer = Quantizer(6, (4, 3)).requires_grad_(False)
    codes = torch.arange(12)
    quantizer.project_in = nn.Linear(2, 2)
    nn.init.eye_(quantizer.project_in.weight)
    nn.init.zeros_(quantizer.project_in.bias)
    grid = torch.tensor([[a, b] for b in (-1, 0, 1) for a in (-1, -1 / 3, 1 / 3, 1)])
    torch.testing.assert_close(quantizer.look_up(codes), quantizer.expand(grid))
    assert quantizer.codes(quantizer.grid(grid)).tolist() == codes.tolist()
    assert quantizer.codes(quantizer.grid(grid * 1.3)).max() < 12  # what lies outside belongs to the border
