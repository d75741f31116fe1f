import time

import numpy as np
import pytest
from numpy.typing import NDArray

from acestep.synthesizer.alignment_maths import Matrix, WarpingPath, consensus, energy_of, score, warp

HEADS = 4


def spans_at(*lengths: int) -> list[tuple[int, int]]:
    """Tokens one after the other, each that many patches long."""
    ends = np.cumsum(lengths)
    return list(zip(ends - lengths, ends, strict=True))


def attention(spans: list[tuple[int, int]], strength: float = 4.0, seed: int = 1) -> list[Matrix]:
    """The logits of heads that look at each token in its span, under noise, `[N, S]` each."""
    shape = len(spans), max(end for _, end in spans)
    noise = np.random.default_rng(seed)
    heads = []
    for _ in range(HEADS):
        logits = noise.normal(0.0, 0.5, shape)
        for token, (start, end) in enumerate(spans):
            logits[token, start:end] += strength
        heads.append(logits.astype(np.float32))
    return heads


def mean_weights(heads: list[Matrix]) -> Matrix:
    powers = [np.exp(logits) for logits in heads]
    mean: Matrix = np.mean([power / power.sum(axis=0) for power in powers], axis=0)
    return mean


def cheapest(cost: Matrix) -> float:
    """What the cheapest path costs, cell by cell from the definition."""
    total = np.full(cost.shape, np.inf)
    total[0, 0] = cost[0, 0]
    for row, column in np.ndindex(*cost.shape):
        for down, right in ((1, 1), (1, 0), (0, 1)):
            if row >= down and column >= right:
                way = total[row - down, column - right] + cost[row, column]
                total[row, column] = min(total[row, column], way)
    return float(total[-1, -1])


class TestWarp:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 5), (12, 40), (30, 8)])
    def test_no_path_is_cheaper(self, shape):
        cost = np.random.default_rng(3).normal(size=shape).astype(np.float32)
        path = warp(cost)
        assert cost[path.tokens, path.patches].sum() == pytest.approx(cheapest(cost), rel=1e-5)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (12, 40), (30, 8)])
    def test_goes_from_corner_to_corner_in_single_steps(self, shape):
        path = warp(np.random.default_rng(4).normal(size=shape).astype(np.float32))
        assert (path.tokens[0], path.patches[0]) == (0, 0)
        assert (path.tokens[-1], path.patches[-1]) == (shape[0] - 1, shape[1] - 1)
        steps = set(zip(np.diff(path.tokens).tolist(), np.diff(path.patches).tolist(), strict=True))
        assert steps <= {(1, 1), (1, 0), (0, 1)}

    def test_a_long_song_takes_no_loop_over_its_cells(self):
        """1,024 tokens over 320 s are 4 million cells, at which a loop would take some ten seconds."""
        diagonal = np.linspace(0, 3999, 1024).astype(int)
        cost = np.zeros((1024, 4000), np.float32)
        cost[np.arange(1024), diagonal] = -1.0
        started = time.process_time()
        path = warp(cost)
        assert time.process_time() - started < 3.0
        assert cost[path.tokens, path.patches].sum() == -1024.0

    def test_spans(self):
        path = WarpingPath(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 2, 2, 3]))
        assert path.spans().tolist() == [[0, 2], [2, 3], [2, 4]]


class TestConsensus:
    @pytest.mark.parametrize("seed", range(5))
    def test_finds_the_tokens_where_they_are(self, seed):
        spans = spans_at(3, 7, 2, 5, 9, 4, 6, 1, 8, 5)
        path = warp(-consensus(attention(spans, seed=seed)))
        assert np.abs(path.spans() - np.array(spans)).max() <= 1

    def test_a_head_that_looks_everywhere_changes_nothing(self):
        spans = spans_at(3, 7, 2, 5, 9, 4)
        blind = np.full((6, 30), 2.5, np.float32)
        path = warp(-consensus([*attention(spans), blind]))
        assert np.abs(path.spans() - np.array(spans)).max() <= 1

    def test_is_a_z_score(self):
        found = consensus(attention(spans_at(3, 7, 2, 5, 9, 4))[:1])
        assert found.mean() == pytest.approx(0.0, abs=1e-5)
        assert found.std() == pytest.approx(1.0, abs=1e-4)

    def test_what_is_the_same_everywhere_says_nothing(self):
        assert not consensus([np.ones((4, 9), np.float32)]).any()

    def test_logits_may_be_large(self):
        heads = [logits * 100.0 for logits in attention(spans_at(3, 7, 2))]
        assert np.isfinite(consensus(heads)).all()


def scored(heads: list[Matrix], sung: NDArray[np.bool_] | None = None) -> float:
    path = warp(-consensus(heads))
    return score(energy_of(mean_weights(heads)), path, np.full(len(heads[0]), True) if sung is None else sung)


class TestScore:
    def test_a_song_that_sings_its_lyrics(self):
        assert scored(attention(spans_at(*[12] * 8), strength=8.0)) > 0.9

    def test_less_attention_is_a_lower_score(self):
        scores = [scored(attention(spans_at(*[12] * 8), strength)) for strength in (8.0, 4.0, 2.0)]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > 0.9
        assert scores[-1] < 0.8

    def test_the_order_counts(self):
        spans = spans_at(*[12] * 8)
        in_order, shuffled = (
            attention(spans, 8.0),
            attention([spans[n] for n in (0, 4, 2, 6, 1, 3, 7, 5)], 8.0),
        )
        assert scored(shuffled) < 0.5 * scored(in_order)

    @pytest.mark.parametrize(("second", "expected"), [(30, 1.0), (20, 1.0), (11, 1.0), (10, 0.0)])
    def test_neighbours_may_overlap(self, second, expected):
        """By nine patches, 0.72 s, which reverberation and harmonies account for."""
        energy = np.zeros((2, 40), np.float32)
        energy[0, 20] = energy[1, second] = 1.0
        path = WarpingPath(np.array([0, 1]), np.array([20, second]))
        assert score(energy, path, np.array([True, True])) == expected

    def test_tokens_that_nobody_attends_to_count_squared(self):
        energy = np.eye(4, 40, dtype=np.float32)
        energy[3] = 0.0
        path = WarpingPath(np.arange(3), np.arange(3))
        assert score(energy, path, np.full(4, True)) == pytest.approx(0.75**2)

    def test_tags_are_not_sung(self):
        energy = np.eye(4, 40, dtype=np.float32)
        energy[0] = 0.0
        path = WarpingPath(np.arange(1, 4), np.arange(1, 4))
        assert score(energy, path, np.array([False, True, True, True])) == 1.0

    def test_no_words_no_score(self):
        energy = np.eye(4, 40, dtype=np.float32)
        assert score(energy, WarpingPath(np.arange(4), np.arange(4)), np.full(4, False)) == 0.0


def test_energy_runs_from_nothing_to_all():
    energy = energy_of(np.array([[0.25, 0.5, 0.75]], np.float32))
    assert energy.tolist() == [[0.0, 0.5, 1.0]]
    assert energy_of(np.full((2, 3), 0.25, np.float32)).tolist() == [[0.0] * 3] * 2
