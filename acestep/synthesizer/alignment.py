"""When the words of a finished song are sung: one more look of the transformer at what it made.

The arithmetic is in `alignment_maths`, the reading of lyrics in `alignment_text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acestep.domain.analysis import LyricTimes, TimedLine, TimedWord
from acestep.domain.song import SongPlan, is_instrumental
from acestep.errors import UntimedLyricsError
from acestep.synthesizer.conditioning import MAX_LYRIC_TOKENS, Condition
from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.prompts import lyric_header, lyric_prompt
from acestep.synthesizer.sampler import Noise
from acestep.synthesizer.transformer import Heads, Transformer

# The heads whose attention follows the singing, as the authors of the published 2 B models found them, ...
PUBLISHED_HEADS: Heads = {2: (6,), 3: (10, 11), 4: (3,), 5: (8, 9), 6: (8,)}

# ... which all have this shape. A model of another shape has other heads, and nobody has looked for them.
_PUBLISHED_SHAPE = {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16}

_DECIMALS = 3  # milliseconds; a patch lasts 80 of them


@dataclass(frozen=True, slots=True, eq=False)
class LyricAttention:
    """How a song attends to its lyrics: what `time_lyrics` reads, away from the model and its device.

    `logits` has a matrix `[N, S]` for each head: what of the attention is left when the rest of what the
    model is told (caption, reference) is out of the picture; times are read off these. `weights` is the mean
    of the heads' attention, of which all that takes its share: the score. `spans` `[N, 2]` is where in the
    lyrics each token stands, `patch_seconds` how long a patch lasts.
    """

    plan: SongPlan
    logits: Sequence[Matrix]
    weights: Matrix
    spans: NDArray[np.int64]
    patch_seconds: float


def known_heads(config: Any) -> Heads | None:
    """The alignment heads of a transformer with this config; None where nobody knows them."""
    fits = all(getattr(config, name) == size for name, size in _PUBLISHED_SHAPE.items())
    return PUBLISHED_HEADS if fits else None


class LyricAligner:
    """Reads off a finished song how it attends to its lyrics."""

    def __init__(self, modules: SynthesizerModules, transformer: Transformer, heads: Heads | None) -> None:
        """`heads` None: this model's are not known, and every song is refused."""
        self._tokenizer = modules.tokenizer
        self._transformer = transformer
        self._heads = heads

    def check(self, plan: SongPlan) -> None:
        """Raise UntimedLyricsError where a plan's lyrics cannot be timed."""
        if is_instrumental(plan.lyrics) or not sung_lines(plan.lyrics):
            raise UntimedLyricsError("the song has no lyrics that are sung")
        if self._heads is None:
            raise UntimedLyricsError("only the published 2 B models are known to show when words are sung")

    @torch.inference_mode()
    def attend(
        self, plan: SongPlan, latents: Tensor, condition: Condition, patch_seconds: float
    ) -> LyricAttention:
        """Look at finished latents `[1, T, C]` of a plan under the `condition` that they were made with.

        Raises UntimedLyricsError as `check` does.
        """
        self.check(plan)
        assert self._heads is not None
        columns, spans = self._lyric_tokens(plan)
        t = 1.0 / (len(plan.sampling.timesteps) if plan.sampling.timesteps else plan.sampling.steps)
        noise = Noise([plan.seed], latents.shape[1], latents.shape[2], latents.device).draw()
        nearly = t * noise + (1.0 - t) * latents
        attended = self._transformer.attend(condition)
        logits, total = [], torch.zeros((), device=latents.device)
        for head in self._transformer.cross_logits(nearly, t, attended, self._heads):
            logits.append(_as_matrix(head[0, :, columns]))
            total = total + head[0].softmax(dim=-1)[:, columns]
        return LyricAttention(plan, logits, _as_matrix(total / len(logits)), spans, patch_seconds)

    def _lyric_tokens(self, plan: SongPlan) -> tuple[slice, NDArray[np.int64]]:
        """Which encoder states are tokens of the lyrics, and where in the lyrics each stands."""
        read = self._tokenizer(
            lyric_prompt(plan), truncation=True, max_length=MAX_LYRIC_TOKENS, return_offsets_mapping=True
        )
        start = len(lyric_header(plan))
        spans = np.array(read.offset_mapping, dtype=np.int64).reshape(-1, 2) - start
        # A token may join the header's last letter and the first of the lyrics.
        inside = np.flatnonzero((spans[:, 1] > 0) & (spans[:, 0] < len(plan.lyrics)))
        if not len(inside):
            raise UntimedLyricsError("none of the lyrics is within what the model reads")
        return slice(inside[0], inside[-1] + 1), spans[inside[0] : inside[-1] + 1]


def time_lyrics(attention: LyricAttention) -> LyricTimes:
    """When each line and word is sung. On the processor, from any thread; seconds of work for long songs."""
    path = warp(-consensus(attention.logits))
    # The last patch may reach past the end of the song.
    seconds = np.minimum(path.spans() * attention.patch_seconds, attention.plan.duration)
    sung = np.zeros(len(attention.spans), dtype=np.bool_)
    timed = []
    for line in sung_lines(attention.plan.lyrics):
        words = []
        for word in line.words:
            tokens = _tokens_of(word, attention.spans)
            if len(tokens):  # the model did not read the end of long lyrics
                sung[tokens] = True
                words.append(_timed(word, seconds[tokens]))
        if words:
            timed.append(_timed_line(line, words))
    return LyricTimes(tuple(timed), round(score(energy_of(attention.weights), path, sung), 4))


def _as_matrix(patches: Tensor) -> Matrix:
    """`[S, N]` as `[N, S]` in memory that NumPy reads."""
    matrix: Matrix = patches.T.contiguous().cpu().numpy()
    return matrix


def _tokens_of(word: Word, spans: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.flatnonzero((spans[:, 0] < word.end) & (spans[:, 1] > word.start))


def _timed(word: Word, seconds: NDArray[np.float64]) -> TimedWord:
    start, end = float(seconds[:, 0].min()), float(seconds[:, 1].max())
    return TimedWord(word.text, round(start, _DECIMALS), round(end, _DECIMALS))


def _timed_line(line: Line, words: Sequence[TimedWord]) -> TimedLine:
    return TimedLine(line.text, words[0].start, words[-1].end, tuple(words))


Matrix = NDArray[np.float32]  # [N, S]

# As published with the alignment heads: how many medians are background, ...
_BACKGROUND = 2.0

# ... how much of the largest energy a token needs to count as sung, and a patch to count at all, ...
_SUNG, _LOUD = 0.1, 0.01

# ... and how many patches a token may begin before the one in front of it.
_OVERLAP = 9.0

# The moves of a warping path in the order in which they win a tie: to the next token and patch, to the next
# token, to the next patch.
_DIAGONAL, _NEXT_TOKEN, _NEXT_PATCH = range(3)


@dataclass(frozen=True, slots=True, eq=False)
class WarpingPath:
    """Which tokens and patches belong together: two index lists of the same length, both never falling."""

    tokens: NDArray[np.int64]
    patches: NDArray[np.int64]

    def spans(self) -> NDArray[np.int64]:
        """`[N, 2]`: the first patch of each token, and the one after its last."""
        starts = np.flatnonzero(np.diff(self.tokens, prepend=-1))
        ends = np.append(starts[1:], len(self.tokens)) - 1
        return np.stack([self.patches[starts], self.patches[ends] + 1], axis=1)


def consensus(heads: Iterable[Matrix]) -> Matrix:
    """How sure the heads are that a token is sung in a patch, as z-scores `[N, S]`.

    `heads` are the attention logits of each head. What counts is where a token's look at time and a patch's
    look at the lyrics meet, above what every token and every patch has anywhere.
    """
    total: Matrix | None = None
    count, first, second = 0, 0.0, 0.0  # of all heads' values, their sum, and the sum of their squares
    for logits in heads:
        met = _softmax(logits, axis=1) * _softmax(logits, axis=0)
        for axis in (1, 0):
            met = np.maximum(met - _BACKGROUND * np.median(met, axis=axis, keepdims=True), 0.0)
        sharp = np.square(met, dtype=np.float64)
        count, first, second = (
            count + sharp.size,
            first + float(sharp.sum()),
            second + float(np.square(sharp).sum()),
        )
        total = sharp if total is None else total + sharp
    if total is None:
        raise ValueError("there is no head")
    number = count // total.size
    spread = np.sqrt(max(second / count - (first / count) ** 2, 0.0))
    centred = total / number - first / count
    return (centred / spread if spread > 0.0 else np.zeros_like(centred)).astype(np.float32)


def warp(cost: Matrix) -> WarpingPath:
    """The cheapest path through `cost` `[N, S]` from its first corner to its last (dynamic time warping)."""
    tokens, patches = cost.shape
    moves = np.zeros((tokens, patches), dtype=np.int8)
    flat_cost, flat_moves = np.ascontiguousarray(cost).ravel(), moves.ravel()
    # Cells on an anti-diagonal depend on the two before it alone. Both are kept by token, one further on, so
    # that what lies outside of the matrix is infinitely dear.
    before, last = np.full(tokens + 1, np.inf), np.full(tokens + 1, np.inf)
    before[0] = 0.0  # in front of the first corner
    stride = max(1, patches - 1)  # from one cell of an anti-diagonal to the next
    for diagonal in range(tokens + patches - 1):
        top, bottom = max(0, diagonal - patches + 1), min(diagonal, tokens - 1) + 1
        first = top * patches + diagonal - top
        cells = slice(first, first + (bottom - top - 1) * stride + 1, stride)
        ways = np.stack([before[top:bottom], last[top:bottom], last[top + 1 : bottom + 1]])
        flat_moves[cells] = np.argmin(ways, axis=0)
        here = np.full(tokens + 1, np.inf)
        here[top + 1 : bottom + 1] = flat_cost[cells] + ways.min(axis=0)
        before, last = last, here
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
    """How much each patch attends to each token, 0 (least anywhere) to 1 (most anywhere), `[N, S]`.

    `weights` are the heads' mean attention weights, which sum to one over all that a patch attends to.
    """
    lowest, highest = weights.min(), weights.max()
    return (weights - lowest) / (highest - lowest) if highest > lowest else np.zeros_like(weights)


def score(energy: Matrix, path: WarpingPath, sung: NDArray[np.bool_]) -> float:
    """How well the song sings its lyrics, 0 to 1: coverage^2 * monotonicity^2 * confidence.

    `energy` is what `energy_of` gives. Coverage is the share of the `sung` `[N]` tokens that are attended
    to anywhere, monotonicity the share of neighbours that come in the order of the text, confidence the mean
    energy on the path.
    """
    rows = energy[sung].astype(np.float64)
    if not len(rows):
        return 0.0
    coverage = float(np.mean(rows.max(axis=1) > _SUNG))
    loud = np.where(rows > _LOUD, rows, 0.0)
    weight = loud.sum(axis=1)
    source_latents = weight > 0.0
    centres = (loud[source_latents] @ np.arange(energy.shape[1])) / weight[source_latents]
    monotonicity = float(np.mean(np.diff(centres) >= -_OVERLAP)) if len(centres) > 1 else 1.0
    confidence = float(np.mean(energy[path.tokens, path.patches]))
    return coverage**2 * monotonicity**2 * confidence


def _softmax(logits: Matrix, axis: int) -> Matrix:
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    softened: Matrix = powers / powers.sum(axis=axis, keepdims=True)
    return softened


_TAG = re.compile(r"\[[^\]\n]*\]")

# Kana, Han characters and the scripts of South East Asia, which put no spaces between words: a sung syllable
# is about one character there. Marks and punctuation belong to the character before them.
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
    """A sung word: its characters are `lyrics[start:end]`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Line:
    """A line with at least one word, as it is written, without tags."""

    text: str
    words: tuple[Word, ...]


def sung_lines(lyrics: str) -> tuple[Line, ...]:
    """The lines of `lyrics` that somebody sings."""
    # Tags become spaces, so that what stands behind them keeps its place.
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
