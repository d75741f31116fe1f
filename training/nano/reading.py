"""Teach the text encoder to read, before it is asked to guide music.

A prompt states its facts in words; what the denoiser needs are the facts. Finding them with the noisy
gradient of the denoising loss takes longer than everything else together, so the encoder first learns to
tell tempo, key, metre, style and drums from prompts alone, and is asked again while the denoiser learns,
lest it forget.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Model

from acestep.synthesizer.conditioning import caption_prompt
from training.nano.clock import Clock
from training.nano.composer import MAX_BPM, MIN_BPM, Piece
from training.nano.dataset import Clip, plans
from training.nano.optimise import descend
from training.nano.styles import STYLES
from training.nano.theory import KEY_SCALES

_BATCH = 48
_PEAK_RATE = 2e-3
# Beats a minute that count as nearly the same: neighbours in tempo are to be neighbours for the model. With
# 2, songs came out 4 to 7 % off.
_NEAR_BPM = 1.0
_STYLE_NAMES = tuple(style.name for style in STYLES)


class FactHeads(nn.Module):
    """One linear reading of a text's mean state for each fact."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bpm = nn.Linear(width, MAX_BPM - MIN_BPM + 1)
        self.key = nn.Linear(width, len(KEY_SCALES))
        self.style = nn.Linear(width, len(_STYLE_NAMES))
        self.switches = nn.Linear(width, 2)  # three beats a bar, drums

    def loss(self, states: Tensor, mask: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """How badly the facts of `pieces` are read from their texts' `states` `[B, L, D]`, `mask` `[B, L]`.

        Asked of the mean of each text's states: what an attention sees that has not learned to look yet.
        """
        shares = mask / mask.sum(dim=1, keepdim=True)
        state = (states * shares[..., None]).sum(dim=1)
        bpm = torch.tensor([piece.bpm for piece in pieces])
        grid = torch.arange(MIN_BPM, MAX_BPM + 1)
        near = torch.softmax(-(((grid[None] - bpm[:, None]) / _NEAR_BPM) ** 2) / 2, dim=1)
        switches = torch.tensor([[piece.time_signature == "3", piece.has_drums] for piece in pieces])
        entropy = nn.functional.cross_entropy
        return (
            entropy(self.bpm(state), near)
            + entropy(self.key(state), _indices(KEY_SCALES, [piece.key_scale for piece in pieces]))
            + entropy(self.style(state), _indices(_STYLE_NAMES, [piece.style.name for piece in pieces]))
            + nn.functional.binary_cross_entropy_with_logits(self.switches(state), switches.float())
        )


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """Who learns to read: an encoder with its tokenizer, and the heads that ask it."""

    encoder: Qwen3Model
    tokenizer: PreTrainedTokenizerFast
    heads: FactHeads


def teach_reading(reader: Reader, clips: list[Clip], clock: Clock) -> None:
    """Train the encoder on prompts of the pieces behind `clips`."""
    encoder, heads = reader.encoder, reader.heads
    weights = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(weights, _PEAK_RATE, weight_decay=0.01, fused=True)
    stream = plans(clips, random.Random(2))
    for step, done in clock.steps("reading"):
        rate = _PEAK_RATE * min(1.0, (step + 1) / 100) * max(0.02, 1.0 - done)
        pieces, texts = zip(*itertools.islice(stream, _BATCH), strict=True)
        tokens = reader.tokenizer([caption_prompt(plan) for plan in texts], padding=True, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        loss = heads.loss(encoder(ids, mask).last_hidden_state, mask, pieces)
        clock.show(descend(optimizer, loss, rate))


def _indices(names: tuple[str, ...], values: list[str]) -> Tensor:
    return torch.tensor([names.index(value) for value in values])
