"""Where in time each lyric token is sung, read out of attention: arrays in, arrays out.

Owns the consensus of the heads, dynamic time warping and the score. Knows nothing of models, tokens or text.
`N` is the number of lyric tokens, `S` the number of patches (the steps in time of the attention).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    heard = weight > 0.0
    centres = (loud[heard] @ np.arange(energy.shape[1])) / weight[heard]
    monotonicity = float(np.mean(np.diff(centres) >= -_OVERLAP)) if len(centres) > 1 else 1.0
    confidence = float(np.mean(energy[path.tokens, path.patches]))
    return coverage**2 * monotonicity**2 * confidence


def _softmax(logits: Matrix, axis: int) -> Matrix:
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    softened: Matrix = powers / powers.sum(axis=axis, keepdims=True)
    return softened
