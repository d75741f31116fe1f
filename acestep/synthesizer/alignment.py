"""When the words of a finished song are sung, and how well, by the cross-attention of the DiT.

N lyric tokens, S patches of latent frames. The method and its constants were published with the models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acestep.domain.analysis import LyricTimes, TimedLine, TimedWord
from acestep.domain.song import SongPlan, is_instrumental
from acestep.errors import UntimedLyricsError
from acestep.networks.config import SynthesizerConfig
from acestep.networks.qwen3 import encode
from acestep.networks.transformer import ConditionCache, Heads
from acestep.synthesizer.conditioning import MAX_LYRIC_TOKENS, lyric_header, lyric_prompt
from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.sampler import SeededNoise

Matrix = NDArray[np.float32]  # [N, S]

# The heads whose attention follows the singing; the authors of the published 2 B models found them.
PUBLISHED_HEADS: Heads = {2: (6,), 3: (10, 11), 4: (3,), 5: (8, 9), 6: (8,)}
# Layers, width and heads of those models. In models of other shapes such heads are not known.
_PUBLISHED_SHAPE = (24, 2048, 16)

_BACKGROUND = 2.0  # medians of a token or patch that are subtracted as its background
_SUNG = 0.1  # the energy that a token needs somewhere to count as sung
_LOUD = 0.01  # the energy that a patch needs to count in a token's centre
_OVERLAP = 9.0  # patches by which a token's centre may lie before that of the token in front of it

_DECIMALS = 3  # milliseconds; a patch lasts 80 of them

# The moves of a warping path, in the order in which they win a tie.
_DIAGONAL, _NEXT_TOKEN, _NEXT_PATCH = range(3)


@dataclass(frozen=True, slots=True, eq=False)
class LyricAttention:
    """What `time_lyrics` needs, in main memory."""

    plan: SongPlan
    logits: Sequence[Matrix]  # of each head, for the lyric tokens alone; gives the times
    weights: Matrix  # mean of the heads' attention, which sums to 1 over all encoder states; gives the score
    spans: NDArray[np.int64]  # [N, 2], the characters of each token in the lyrics
    patch_seconds: float


def known_heads(config: SynthesizerConfig) -> Heads | None:
    """The alignment heads of a transformer with this config, if they are known."""
    shape = (config.dit_layers, config.dit.hidden_size, config.dit.num_attention_heads)
    return PUBLISHED_HEADS if shape == _PUBLISHED_SHAPE else None


class LyricAligner:
    def __init__(self, modules: SynthesizerModules, heads: Heads | None) -> None:
        self._modules = modules
        self._heads = heads

    def check(self, plan: SongPlan) -> None:
        """Raise UntimedLyricsError if the lyrics cannot be timed."""
        if is_instrumental(plan.lyrics) or not sung_lines(plan.lyrics):
            raise UntimedLyricsError("the song has no lyrics that are sung")
        if self._heads is None:
            raise UntimedLyricsError("only the published 2 B models are known to show when words are sung")

    @torch.inference_mode()
    def attend(
        self, plan: SongPlan, latents: Tensor, cache: ConditionCache, patch_seconds: float
    ) -> LyricAttention:
        """Run the DiT once on finished latents `[1, T, C]`; `cache` is that of the render's condition."""
        self.check(plan)
        assert self._heads is not None
        columns, spans = self._lyric_tokens(plan)
        t = 1.0 / (len(plan.sampling.timesteps) if plan.sampling.timesteps else plan.sampling.steps)
        noise = SeededNoise([plan.seed], latents.shape[1], latents.shape[2], latents.device).draw()
        noised = t * noise + (1.0 - t) * latents
        logits, total = [], torch.zeros((), device=latents.device)
        for head in self._modules.transformer.cross_logits(noised, t, cache, self._heads):
            logits.append(_as_matrix(head[0, :, columns]))
            total = total + head[0].softmax(dim=-1)[:, columns]
        return LyricAttention(plan, logits, _as_matrix(total / len(logits)), spans, patch_seconds)

    def _lyric_tokens(self, plan: SongPlan) -> tuple[slice, NDArray[np.int64]]:
        # The encoder states of the lyrics' tokens, and the characters of each token.
        _, offsets, _ = encode(self._modules.tokenizer, lyric_prompt(plan), MAX_LYRIC_TOKENS)
        start = len(lyric_header(plan))
        spans = np.array(offsets, dtype=np.int64).reshape(-1, 2) - start
        # A token may join the header's last letter and the first of the lyrics.
        inside = np.flatnonzero((spans[:, 1] > 0) & (spans[:, 0] < len(plan.lyrics)))
        if not len(inside):
            raise UntimedLyricsError("none of the lyrics is within what the model reads")
        return slice(inside[0], inside[-1] + 1), spans[inside[0] : inside[-1] + 1]


def _as_matrix(patches: Tensor) -> Matrix:
    matrix: Matrix = patches.T.contiguous().cpu().numpy()
    return matrix


def time_lyrics(attention: LyricAttention) -> LyricTimes:
    """When each line and word is sung. Takes seconds of CPU for long songs; for any thread."""
    path = warp(-consensus(attention.logits))
    # The last patch may reach past the end of the song.
    seconds = np.minimum(path.spans() * attention.patch_seconds, attention.plan.duration)
    sung = np.zeros(len(attention.spans), dtype=np.bool_)
    lines = []
    for line in sung_lines(attention.plan.lyrics):
        words = []
        for word in line.words:
            tokens = _tokens_of(word, attention.spans)
            if len(tokens):  # the model does not read the end of long lyrics
                sung[tokens] = True
                words.append(_timed(word, seconds[tokens]))
        if words:
            lines.append(TimedLine(line.text, words[0].start, words[-1].end, tuple(words)))
    return LyricTimes(tuple(lines), round(score(energy_of(attention.weights), path, sung), 4))


def _tokens_of(word: Word, spans: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.flatnonzero((spans[:, 0] < word.end) & (spans[:, 1] > word.start))


def _timed(word: Word, seconds: NDArray[np.float64]) -> TimedWord:
    start, end = float(seconds[:, 0].min()), float(seconds[:, 1].max())
    return TimedWord(word.text, round(start, _DECIMALS), round(end, _DECIMALS))


@dataclass(frozen=True, slots=True, eq=False)
class WarpingPath:
    tokens: NDArray[np.int64]  # token and patch of each point; neither ever falls
    patches: NDArray[np.int64]

    def spans(self) -> NDArray[np.int64]:
        """The first patch of each token, and the one after its last, `[N, 2]`."""
        starts = np.flatnonzero(np.diff(self.tokens, prepend=-1))
        ends = np.append(starts[1:], len(self.tokens)) - 1
        return np.stack([self.patches[starts], self.patches[ends] + 1], axis=1)


def consensus(heads: Iterable[Matrix]) -> Matrix:
    """How surely a token is sung in a patch, as z-scores of all heads' logits."""
    total: Matrix | None = None
    count, values, squares = (
        0,
        0.0,
        0.0,
    )  # of all heads: the number of values, their sum, that of their squares
    for logits in heads:
        # Patches that a token attends to and that attend to it, above the background of both, sharpened.
        joint = _softmax(logits, axis=1) * _softmax(logits, axis=0)
        for axis in (1, 0):
            joint = np.maximum(joint - _BACKGROUND * np.median(joint, axis=axis, keepdims=True), 0.0)
        sharp = np.square(joint, dtype=np.float64)
        count += sharp.size
        values += float(sharp.sum())
        squares += float(np.square(sharp).sum())
        total = sharp if total is None else total + sharp
    if total is None:
        raise ValueError("there is no head")
    deviation = np.sqrt(max(squares / count - (values / count) ** 2, 0.0))
    centred = total / (count // total.size) - values / count
    return (centred / deviation if deviation > 0.0 else np.zeros_like(centred)).astype(np.float32)


def warp(cost: Matrix) -> WarpingPath:
    """The cheapest path from the first corner to the last (dynamic time warping)."""
    tokens, patches = cost.shape
    moves = np.zeros((tokens, patches), dtype=np.int8)
    flat_cost, flat_moves = np.ascontiguousarray(cost).ravel(), moves.ravel()
    # A cell depends on the two anti-diagonals before its own. Their totals are kept at index token + 1; cells
    # outside the matrix cost infinity.
    before, last = np.full(tokens + 1, np.inf), np.full(tokens + 1, np.inf)
    before[0] = 0.0  # the start, one diagonal move before the first corner
    stride = max(1, patches - 1)  # from one cell of an anti-diagonal to the next
    for diagonal in range(tokens + patches - 1):
        top, bottom = max(0, diagonal - patches + 1), min(diagonal, tokens - 1) + 1
        first = top * patches + diagonal - top
        cells = slice(first, first + (bottom - top - 1) * stride + 1, stride)
        totals = np.stack([before[top:bottom], last[top:bottom], last[top + 1 : bottom + 1]])
        flat_moves[cells] = np.argmin(totals, axis=0)
        current = np.full(tokens + 1, np.inf)
        current[top + 1 : bottom + 1] = flat_cost[cells] + totals.min(axis=0)
        before, last = last, current
    return _trace(moves)


def _trace(moves: NDArray[np.int8]) -> WarpingPath:
    token, patch = moves.shape[0] - 1, moves.shape[1] - 1
    steps = [(token, patch)]
    while token or patch:
        move = moves[token, patch]
        token -= move != _NEXT_PATCH
        patch -= move != _NEXT_TOKEN
        steps.append((int(token), int(patch)))
    path = np.array(steps[::-1], dtype=np.int64)
    return WarpingPath(path[:, 0], path[:, 1])


def energy_of(weights: Matrix) -> Matrix:
    """Attention weights, scaled so that the least is 0 and the largest is 1."""
    lowest, highest = weights.min(), weights.max()
    return (weights - lowest) / (highest - lowest) if highest > lowest else np.zeros_like(weights)


def score(energy: Matrix, path: WarpingPath, sung: NDArray[np.bool_]) -> float:
    """How well the song sings its lyrics, 0 to 1: coverage^2 * monotonicity^2 * confidence."""
    rows = energy[sung].astype(np.float64)
    if not len(rows):
        return 0.0
    coverage = float(np.mean(rows.max(axis=1) > _SUNG))  # share of the sung tokens that are attended to
    loud = np.where(rows > _LOUD, rows, 0.0)
    loud = loud[loud.any(axis=1)]
    centres = (loud @ np.arange(energy.shape[1])) / loud.sum(axis=1)
    # The share of neighbouring tokens that are in the order of the text.
    monotonicity = float(np.mean(np.diff(centres) >= -_OVERLAP)) if len(centres) > 1 else 1.0
    confidence = float(np.mean(energy[path.tokens, path.patches]))
    return coverage**2 * monotonicity**2 * confidence


def _softmax(logits: Matrix, axis: int) -> Matrix:
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    weights: Matrix = powers / powers.sum(axis=axis, keepdims=True)
    return weights


_TAG = re.compile(r"\[[^\]\n]*\]")

# Kana, Han characters and the scripts of South East Asia put no spaces between words; there, a character is
# about one sung syllable. Marks and punctuation belong to the character before them.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff66-\uff9d"
)

_MARKS = (
    "ーゝゞっッゃゅょャュョァィゥェォぁぃぅぇぉ"
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd"
)

_WORD = re.compile(rf"[{_UNSPACED}](?:[{_MARKS}]|[^\w\s])*|[^\s{_UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class Word:
    text: str  # lyrics[start:end]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Line:
    text: str  # without tags
    words: tuple[Word, ...]


def sung_lines(lyrics: str) -> tuple[Line, ...]:
    """The lines of `lyrics` that have words outside of tags."""
    # Tags become spaces, so that the positions of words stay.
    sung = _TAG.sub(lambda tag: " " * len(tag[0]), lyrics)
    lines, start = [], 0
    for row in sung.splitlines(keepends=True):
        words = tuple(
            Word(found[0], start + found.start(), start + found.end())
            for found in _WORD.finditer(row)
            if any(letter.isalnum() for letter in found[0])
        )
        if words:
            lines.append(Line(" ".join(row.split()), words))
        start += len(row)
    return tuple(lines)
