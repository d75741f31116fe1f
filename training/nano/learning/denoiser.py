"""Nano as one trainable module: examples in, flow-matching loss out.

The modules are those of the server, whose parity with the original is proved in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from acestep.codec.tone_noise import ToneNoiseConfig
from acestep.networks.transformer import Condition, ConditionCache
from acestep.synthesizer.conditioning import caption_prompt, lyric_prompt
from acestep.synthesizer.loading import SynthesizerNetworks, published_config
from training.nano.learning.examples import FRAME_RATE, REFERENCE_FRAMES, Example
from training.nano.learning.heads import FactHeads, MusicHeads
from training.nano.learning.network import CONFIG, TEXT_WIDTH, build_text_encoder, ticking_silence
from training.nano.music.piece import Facts

_UNCONDITIONAL = 0.12  # share of examples that train the null condition
_READING_WEIGHT = 0.05  # a reminder; the encoder has learned to read before
_TUNE_WEIGHT = 0.2
_LEVEL_WEIGHT = 1.5  # the levels carry the drums, and there are fewer of them than of tones
_PAN_WEIGHT = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Songs of one length, as the transformer and its conditions take them.

    `start` `[B]` are frames of the pieces; `references` `[R, F, C]` are those of the songs `referring`.
    """

    ids: Tensor
    mask: Tensor
    lyric_ids: Tensor
    targets: Tensor
    sources: Tensor
    masks: Tensor
    hinted: Tensor
    silent: Tensor
    start: Tensor
    references: Tensor
    referring: tuple[int, ...]
    facts: tuple[Facts, ...]


def collate(examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast, silence: Tensor) -> Batch:
    """Examples of one length as a batch; `silence` is the model's, `[1, T, C]`."""
    frames = len(examples[0].target)
    tokens = tokenizer([caption_prompt(each.plan) for each in examples], padding=True, return_tensors="pt")
    # The lyrics are the same for all, so one row serves the batch.
    lyric = tokenizer([lyric_prompt(examples[0].plan)], return_tensors="pt")
    sources, masks = [], []
    for each in examples:
        quiet = silence[0, each.start : each.start + frames]
        source = quiet if each.source is None else each.source
        mask = torch.ones(frames) if each.mask is None else each.mask
        sources.append(torch.where(mask[:, None] == 1, quiet, source) if each.mask is not None else source)
        masks.append(mask)
    referring = tuple(number for number, each in enumerate(examples) if each.reference is not None)
    references = [each.reference for each in examples if each.reference is not None]
    return Batch(
        ids=tokens["input_ids"],
        mask=tokens["attention_mask"],
        lyric_ids=lyric["input_ids"],
        targets=torch.stack([each.target for each in examples]),
        sources=torch.stack(sources),
        masks=torch.stack(masks),
        hinted=torch.tensor([each.hinted for each in examples]),
        silent=torch.tensor([each.source is None for each in examples]),
        start=torch.tensor([each.start for each in examples]),
        references=torch.stack(references) if references else silence[:0, :REFERENCE_FRAMES],
        referring=referring,
        facts=tuple(each.facts for each in examples),
    )


class Denoiser(nn.Module):
    silence: Tensor
    weight: Tensor

    def __init__(self, codec: ToneNoiseConfig) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder()
        self.networks = SynthesizerNetworks(published_config(CONFIG, Path("config.json")))
        self.register_buffer("silence", ticking_silence(codec), persistent=False)
        # For training alone.
        self.facts = FactHeads(TEXT_WIDTH)
        self.music = MusicHeads(CONFIG["hidden_size"])
        tones, levels, shares, pans = codec.sizes
        groups = ((tones, 1.0), (levels, _LEVEL_WEIGHT), (shares, 1.0), (pans, _PAN_WEIGHT))
        weight = torch.cat([torch.full((size,), weight) for size, weight in groups])
        self.register_buffer("weight", weight / weight.mean(), persistent=False)

    def loss(self, batch: Batch, time_mean: float, generator: torch.Generator) -> Tensor:
        """Mean weighted squared error of the velocity at random times, whose logits have this mean."""
        size = len(batch.targets)
        noise = torch.randn(batch.targets.shape, generator=generator)
        time = torch.sigmoid(torch.randn(size, generator=generator) * CONFIG["timestep_sigma"] + time_mean)
        blend = time[:, None, None]
        noisy = blend * noise + (1 - blend) * batch.targets
        text = self.read(batch)
        states, seen = self.condition(batch, text)
        dropped = torch.rand(size, generator=generator) < _UNCONDITIONAL
        states = torch.where(dropped[:, None, None], self._null(states), states)
        velocity, middle = self.run(noisy, time, self.cache(batch, states, seen))
        error = ((velocity.float() - (noise - batch.targets)).square() * self.weight).mean()
        patches = (torch.arange(middle.shape[1]) + 0.5) * CONFIG["patch_size"]
        seconds = (batch.start[:, None] + patches) / FRAME_RATE
        off_beat = self.music.off_beat(middle, seconds, batch.facts, batch.silent & ~dropped)
        off_tune = self.music.off_tune(middle, batch.facts, ~dropped)
        reading = self.facts.loss(text, batch.mask, batch.facts)
        return error + off_beat + _TUNE_WEIGHT * off_tune + _READING_WEIGHT * reading

    def read(self, batch: Batch) -> Tensor:
        states: Tensor = self.text_encoder(batch.ids, batch.mask).last_hidden_state
        return states

    def condition(self, batch: Batch, text: Tensor) -> tuple[Tensor, Tensor]:
        """Everything that cross-attention sees, `[B, L, D]`, and which of it counts.

        All songs of a batch share the lyrics. The order within the sequence does not matter:
        cross-attention knows no positions.
        """
        encoder, size = self.networks.encoder, len(batch.targets)
        words = encoder.lyric_encoder(self.text_encoder.embed_tokens(batch.lyric_ids))
        heard = torch.cat([self.silence[:, :REFERENCE_FRAMES], batch.references])
        timbres = encoder.timbre(heard)
        rows = torch.zeros(size, dtype=torch.long)
        rows[list(batch.referring)] = torch.arange(1, len(batch.referring) + 1)
        shared = torch.cat([words.expand(size, -1, -1), timbres[rows]], dim=1)
        seen = torch.ones(size, shared.shape[1], dtype=torch.bool)
        states = torch.cat([shared, encoder.text_projector(text)], dim=1)
        return states, torch.cat([seen, batch.mask.bool()], dim=1)

    def cache(self, batch: Batch, states: Tensor, seen: Tensor) -> ConditionCache:
        sources = batch.sources
        if batch.hinted.any():
            sources = sources.clone()
            sources[batch.hinted] = self.hints(sources[batch.hinted])
        masks = batch.masks[..., None].expand(-1, -1, CONFIG["audio_acoustic_hidden_dim"])
        return self.networks.decoder.cache(Condition(states, seen, torch.cat([sources, masks], dim=-1)))

    def hints(self, latents: Tensor) -> Tensor:
        """What is left of latents once they have been codes; silence fills the last one, as in the server."""
        frames = latents.shape[1]
        missing = -frames % CONFIG["pool_window_size"]
        quiet = self.silence[:, :missing].expand(len(latents), -1, -1)
        with torch.no_grad():
            quantized, _ = self.networks.tokenizer(torch.cat([latents, quiet], dim=1))
            decoded: Tensor = self.networks.detokenizer(quantized)
        return decoded[:, :frames].float()

    def null(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The condition of guidance's unconditional rows."""
        states = self.networks.encoder.null_condition_emb.expand(len(batch.targets), 1, -1)
        return states, torch.ones(len(batch.targets), 1, dtype=torch.bool)

    def run(self, x: Tensor, time: Tensor, cache: ConditionCache) -> tuple[Tensor, Tensor]:
        """The velocity, and the hidden states half way."""
        model = self.networks.decoder
        hidden = model.patchify(x, cache)
        embedding, modulation = model.embed_time(time, cache)
        middle = hidden
        for depth, (layer, cross) in enumerate(zip(model.layers, cache.cross, strict=True)):
            hidden = layer(hidden, modulation, cross, cache)
            if depth == len(model.layers) // 2:
                middle = hidden
        return model.unpatchify(hidden, embedding)[:, : x.shape[1]], middle

    def _null(self, like: Tensor) -> Tensor:
        return self.networks.encoder.null_condition_emb.expand_as(like).to(like.dtype)
