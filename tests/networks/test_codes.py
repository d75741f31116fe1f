"""Audio codes against the classes of diffusers with the same weights."""

from typing import Any

import pytest
import torch
from diffusers import AceStepAudioTokenDetokenizer, AceStepAudioTokenizer
from torch import nn

from acestep.networks.codes import AudioTokenDetokenizer, AudioTokenizer, Quantizer
from acestep.networks.config import SynthesizerConfig
from tests.networks.test_encoders import CONFIGS, draw, layer_of, same_weights
from tests.synthesizer import toy


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
