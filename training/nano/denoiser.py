"""Nano as one trainable module: texts and noisy latents in, flow-matching loss out.

The modules are those of the server, whose parity with the original is proved in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from acestep.codec.sine_bank import SineBankCodec, SineBankConfig
from acestep.networks.codes import AudioTokenDetokenizer, AudioTokenizer
from acestep.networks.encoders import ConditionEncoder
from acestep.networks.transformer import Condition, Transformer
from acestep.synthesizer.loading import SynthesizerNetworks, published_config
from training.nano.composer import Piece
from training.nano.dataset import FRAME_RATE, RAW
from training.nano.metronome import beat_angles
from training.nano.model import CONFIG, TEXT_WIDTH, build_text_encoder, ticking_silence
from training.nano.reading import FactHeads

_UNCONDITIONAL = 0.15  # share of examples that train the null condition, as for the published models
_READING_WEIGHT = 0.05  # a reminder; the encoder has learned to read before
_NOISE_WEIGHT = 3.0  # the 13 noise channels carry the drums; 88 tones would drown them


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokenised texts (`ids`, `mask` `[B, L]`; `lyric_ids` `[1, M]`), and scaled latents `[B, T, C]`.

    `hinted` `[B]` tells which songs are made from codes, `pieces` what is true of each.
    """

    ids: Tensor
    mask: Tensor
    lyric_ids: Tensor
    latents: Tensor
    hinted: Tensor
    pieces: tuple[Piece, ...]


class Denoiser(nn.Module):
    """All modules of nano under one roof."""

    silence: Tensor
    weight: Tensor
    networks: SynthesizerNetworks

    def __init__(self, scale: SineBankConfig) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder()
        self.networks = SynthesizerNetworks(published_config(CONFIG, Path("config.json")))
        # The server stores it in bfloat16, so the model learns from that.
        silence = ticking_silence(SineBankCodec(scale)).bfloat16().float()
        self.register_buffer("silence", silence, persistent=False)
        # For training alone.
        self.metronome = nn.Linear(CONFIG["hidden_size"], 4)
        self.facts = FactHeads(TEXT_WIDTH)
        self.condition_encoder.timbre_encoder.requires_grad_(False)
        self._timbre: Tensor | None = None
        weight = torch.ones(CONFIG["audio_acoustic_hidden_dim"])
        weight[RAW.semitones :] = _NOISE_WEIGHT
        self.register_buffer("weight", weight / weight.mean(), persistent=False)

    @property
    def transformer(self) -> Transformer:
        return self.networks.decoder

    @property
    def condition_encoder(self) -> ConditionEncoder:
        return self.networks.encoder

    @property
    def audio_tokenizer(self) -> AudioTokenizer:
        return self.networks.tokenizer

    @property
    def audio_token_detokenizer(self) -> AudioTokenDetokenizer:
        return self.networks.detokenizer

    def loss(self, batch: Batch, time_mean: float, generator: torch.Generator) -> Tensor:
        """Mean weighted squared error of the velocity at random times, whose logits have this mean.

        To it come two questions that keep the model on what matters: where in the bar it is, and what the
        words say.
        """
        size, frames, channels = batch.latents.shape
        noise = torch.randn(batch.latents.shape, generator=generator)
        time = torch.randn(size, generator=generator) * CONFIG["timestep_sigma"] + time_mean
        time = torch.sigmoid(time)
        blend = time[:, None, None]
        noisy = blend * noise + (1 - blend) * batch.latents
        text = self.text_encoder(batch.ids, batch.mask).last_hidden_state
        states, mask = self.condition(batch, text)
        dropped = torch.rand(size, generator=generator) < _UNCONDITIONAL
        null = self.condition_encoder.null_condition_emb.expand_as(states)
        states = torch.where(dropped[:, None, None], null, states)
        silence = self.silence[:, :frames].expand(size, -1, -1)
        source = torch.where(batch.hinted[:, None, None], self.hints(batch.latents), silence)
        context = torch.cat([source, torch.ones(size, frames, channels)], dim=-1)
        velocity, middle = self._run(noisy, time, context, states, mask)
        error = ((velocity - (noise - batch.latents)).square() * self.weight).mean()
        reading = self.facts.loss(text, batch.mask, batch.pieces)
        off_beat = self._off_beat(middle, batch.pieces, ~(dropped | batch.hinted))
        return error + off_beat + _READING_WEIGHT * reading

    def _off_beat(self, middle: Tensor, pieces: Sequence[Piece], counted: Tensor) -> Tensor:
        """How far the transformer's `middle`, `[B, N, D]`, is from knowing where in beat and bar it is.

        To play in time is to choose among the clocks by the words. Learned from the music alone that took
        longer than all the rest; asked for outright it takes minutes.
        """
        seconds = (torch.arange(middle.shape[1]) + 0.5) * CONFIG["patch_size"] / FRAME_RATE
        off = (self.metronome(middle) - beat_angles(seconds, pieces)).square().mean(dim=(1, 2))
        mean: Tensor = (off * counted).sum() / counted.sum().clamp_min(1)
        return mean

    def hints(self, latents: Tensor) -> Tensor:
        """What is left of latents once they have been codes; as many frames as fill whole codes."""
        with torch.no_grad():
            quantized, _ = self.audio_tokenizer(latents)
            decoded: Tensor = self.audio_token_detokenizer(quantized)
        return decoded

    def condition(self, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Everything that cross-attention sees, `[B, L, D]`, and which of it counts.

        `hidden` `[B, L, D]` is what the text encoder makes of the batch.
        All songs of a batch share the lyrics and the (silent) reference, so these run once. The order
        within the sequence does not matter: cross-attention knows no positions.
        """
        encoder = self.condition_encoder
        size = batch.ids.shape[0]
        text = encoder.text_projector(hidden)
        embedded = self.text_encoder.embed_tokens(batch.lyric_ids)
        words = encoder.lyric_encoder(embedded)
        shared = torch.cat([words, self._no_timbre()], dim=1).expand(size, -1, -1)
        seen = torch.ones(size, shared.shape[1], dtype=torch.bool)
        return torch.cat([shared, text], dim=1), torch.cat([seen, batch.mask.bool()], dim=1)

    def _no_timbre(self) -> Tensor:
        """What cross-attention sees of a silent reference, `[1, 1, D]`.

        Nano learns nothing about references: its timbre encoder stays as it was made, and this one vector
        is the same at every step.
        """
        if self._timbre is None:
            reference = self.silence[:, : CONFIG["timbre_fix_frame"]]
            with torch.no_grad():
                self._timbre = self.condition_encoder.timbre(reference)
        return self._timbre

    def velocity(self, x: Tensor, time: Tensor, context: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """The transformer's forward pass with padding masked out of the cross-attention."""
        return self._run(x, time, context, states, mask)[0]

    def _run(
        self, x: Tensor, time: Tensor, context: Tensor, states: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The velocity, and the hidden states half way."""
        model = self.transformer
        cache = model.cache(Condition(states, mask, context))
        hidden = model.patchify(x, cache)
        embedding, modulation = model.embed_time(time, cache)
        middle = hidden
        for depth, (layer, cross) in enumerate(zip(model.layers, cache.cross, strict=True)):
            hidden = layer(hidden, modulation, cross, cache)
            if depth == len(model.layers) // 2:
                middle = hidden
        return model.unpatchify(hidden, embedding), middle
