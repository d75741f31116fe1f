import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acestep.domain.song import Sampling
from acestep.errors import UntimedLyricsError
from acestep.memory.configs import published_dit
from acestep.networks.transformer import Heads
from acestep.synthesizer import alignment
from acestep.synthesizer.alignment import (
    PUBLISHED_HEADS,
    LyricAttention,
    Matrix,
    WarpingPath,
    consensus,
    energy_of,
    known_heads,
    score,
    sung_lines,
    time_lyrics,
    warp,
)
from acestep.synthesizer.loading import published_config
from acestep.synthesizer.synthesizer import Synthesizer
from tests.memory.classes import config_of
from tests.synthesizer import toy
from tests.synthesizer.toy import song

TOY_HEADS: Heads = {0: (1, 3), 2: (2,)}

LYRICS = "[Verse]\nHello you\n\n[Chorus]\nå la"


@pytest.fixture
def aligning(base) -> Synthesizer:
    return Synthesizer(base, toy.FRAME_RATE, TOY_HEADS)


def rendered(synthesizer: Synthesizer, plan) -> torch.Tensor:
    return synthesizer.render([plan], lambda done, of: None, lambda: False).latents


class TestAttention:
    def test_is_of_the_lyric_tokens_alone(self, aligning, base):
        plan = song(lyrics=LYRICS)
        attention = aligning.attend_lyrics(plan, rendered(aligning, plan))
        letters = len(LYRICS.encode())  # the toy's tokens are bytes
        assert len(attention.logits) == 3
        assert {matrix.shape for matrix in (*attention.logits, attention.weights)} == {(letters, 26)}
        assert [LYRICS[start:end] for start, end in attention.spans[:4]] == ["[", "V", "e", "r"]
        assert tuple(attention.spans[-1]) == (len(LYRICS) - 1, len(LYRICS))
        assert attention.patch_seconds == pytest.approx(2 / toy.FRAME_RATE)

    def test_each_column_is_the_state_of_its_token(self, aligning):
        """Another last letter changes its own column most, and the first one hardly."""
        plan = song(lyrics="la la la lo")
        latents = rendered(aligning, plan)
        before = aligning.attend_lyrics(plan, latents)
        after = aligning.attend_lyrics(song(lyrics="la la la lX"), latents)
        changed = np.abs(before.logits[0] - after.logits[0]).mean(axis=1)
        assert changed[-1] == max(changed)
        assert changed[-1] > 5 * changed[0]

    def test_repeats(self, aligning):
        plan = song(lyrics=LYRICS)
        latents = rendered(aligning, plan)
        first, second = (aligning.attend_lyrics(plan, latents) for _ in range(2))
        assert np.array_equal(first.logits, second.logits)

    def test_noises_the_song_to_one_by_the_number_of_steps(self, aligning):
        plan = song(lyrics=LYRICS)
        latents = rendered(aligning, plan)
        fifty = song(lyrics=LYRICS, sampling=Sampling(steps=50, guidance_scale=1.0, shift=1.0))
        listed = song(
            lyrics=LYRICS, sampling=Sampling(3, 1.0, 1.0, timesteps=tuple(np.linspace(1, 0.02, 50)))
        )
        few, many, given = (aligning.attend_lyrics(each, latents).logits[0] for each in (plan, fifty, listed))
        assert not np.allclose(few, many, atol=1e-3)
        assert np.array_equal(many, given)

    def test_lyrics_beyond_the_models_limit_are_left_out(self, aligning):
        plan = song(lyrics="la " * 1000)
        attention = aligning.attend_lyrics(plan, rendered(aligning, plan))
        assert len(attention.spans) < len(plan.lyrics)
        times = time_lyrics(attention)
        assert len(times.lines[0].words) == pytest.approx(len(attention.spans) / 3, abs=1)


class TestRefusals:
    @pytest.mark.parametrize("lyrics", ["[Instrumental]", "[inst]", "[Verse]\n[Chorus]"])
    def test_nothing_is_sung(self, aligning, lyrics):
        plan = song(lyrics=lyrics)
        with pytest.raises(UntimedLyricsError, match="no lyrics that are sung"):
            aligning.attend_lyrics(plan, torch.zeros(1, 51, toy.CHANNELS))

    def test_alignment_heads_are_not_known(self, synthesizer):
        with pytest.raises(UntimedLyricsError, match="published 2 B models"):
            synthesizer.attend_lyrics(song(lyrics=LYRICS), torch.zeros(1, 51, toy.CHANNELS))

    def test_heads_are_known_for_the_published_shape_alone(self):
        size = config_of(published_dit("acestep-v15-base", is_turbo=False))
        assert known_heads(published_config(size, Path("config.json"))) is PUBLISHED_HEADS
        for other in ({"hidden_size": 2560}, {"num_hidden_layers": 32}, {"num_attention_heads": 20}):
            assert known_heads(published_config(size | other, Path("config.json"))) is None


class TestTimes:
    LYRICS = "[Verse]\nla lo\nlu"
    # Patches of each letter, which is a token.
    LENGTHS = (*[1] * 8, 3, 5, 1, 4, 6, 1, 2, 9)

    def attention(self, duration: float = 100.0, lyrics: str = LYRICS) -> LyricAttention:
        ends = np.cumsum(self.LENGTHS)
        logits = np.zeros((len(self.LENGTHS), ends[-1]), np.float32)
        for letter, (end, length) in enumerate(zip(ends, self.LENGTHS, strict=True)):
            logits[letter, end - length : end] = 8.0
        weights = np.exp(logits) / np.exp(logits).sum(axis=0)
        spans = np.array([(letter, letter + 1) for letter in range(len(lyrics))])
        return LyricAttention(song(lyrics=lyrics, duration=duration), [logits] * 3, weights, spans, 0.08)

    def test_words_and_lines(self):
        times = time_lyrics(self.attention())
        assert [(line.text, line.start, line.end) for line in times.lines] == [
            ("la lo", 0.64, 2.16),
            ("lu", 2.24, 3.12),
        ]
        assert [(word.text, word.start, word.end) for line in times.lines for word in line.words] == [
            ("la", 0.64, 1.28),
            ("lo", 1.36, 2.16),
            ("lu", 2.24, 3.12),
        ]

    def test_a_song_that_sings_every_letter_has_a_high_score(self):
        assert 0.95 < time_lyrics(self.attention()).score <= 1.0

    def test_nothing_ends_after_the_song(self):
        times = time_lyrics(self.attention(duration=3.05))
        assert times.lines[-1].end == times.lines[-1].words[-1].end == 3.05

    def test_words_of_a_rendered_song_are_in_order(self, aligning):
        plan = song(lyrics=LYRICS)
        times = time_lyrics(aligning.attend_lyrics(plan, rendered(aligning, plan)))
        assert [line.text for line in times.lines] == ["Hello you", "å la"]
        starts = [word.start for line in times.lines for word in line.words]
        assert starts == sorted(starts)
        assert all(0.0 <= word.start < word.end <= 4.08 for line in times.lines for word in line.words)
        assert 0.0 <= times.score <= 1.0


HEADS = 4


def spans_at(*lengths: int) -> list[tuple[int, int]]:
    """Tokens one after the other, each that many patches long."""
    ends = np.cumsum(lengths)
    return list(zip(ends - lengths, ends, strict=True))


def attention(spans: list[tuple[int, int]], strength: float = 4.0, seed: int = 1) -> list[Matrix]:
    """The logits `[N, S]` of heads that attend to each token in its span, with noise added."""
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
    """The cost of the cheapest path, cell by cell from the definition."""
    total = np.full(cost.shape, np.inf)
    total[0, 0] = cost[0, 0]
    for row, column in np.ndindex(*cost.shape):
        for down, right in ((1, 1), (1, 0), (0, 1)):
            if row >= down and column >= right:
                candidate = total[row - down, column - right] + cost[row, column]
                total[row, column] = min(total[row, column], candidate)
    return float(total[-1, -1])


def with_lines_counted(run: Callable[[], WarpingPath]) -> tuple[WarpingPath, int]:
    """The result, and how many lines of the module under test ran for it."""
    count, before = 0, sys.gettrace()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != alignment.__file__:
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        return run(), count
    finally:
        sys.settrace(before)


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

    def test_loops_over_tokens_and_patches_not_over_cells(self):
        """A song has up to 4 million cells, over which a loop takes some ten seconds."""
        tokens, patches = 100, 400
        cost = np.zeros((tokens, patches), np.float32)
        cost[np.arange(tokens), np.linspace(0, patches - 1, tokens).astype(int)] = -1.0
        path, lines = with_lines_counted(lambda: warp(cost))
        assert cost[path.tokens, path.patches].sum() == -100.0
        assert lines < 20 * (tokens + patches)

    def test_spans(self):
        path = WarpingPath(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 2, 2, 3]))
        assert path.spans().tolist() == [[0, 2], [2, 3], [2, 4]]


class TestConsensus:
    @pytest.mark.parametrize("seed", range(5))
    def test_finds_the_spans_of_the_tokens(self, seed):
        spans = spans_at(3, 7, 2, 5, 9, 4, 6, 1, 8, 5)
        path = warp(-consensus(attention(spans, seed=seed)))
        assert np.abs(path.spans() - np.array(spans)).max() <= 1

    def test_a_head_that_attends_to_all_alike_changes_nothing(self):
        spans = spans_at(3, 7, 2, 5, 9, 4)
        uniform = np.full((6, 30), 2.5, np.float32)
        path = warp(-consensus([*attention(spans), uniform]))
        assert np.abs(path.spans() - np.array(spans)).max() <= 1

    def test_is_a_z_score(self):
        found = consensus(attention(spans_at(3, 7, 2, 5, 9, 4))[:1])
        assert found.mean() == pytest.approx(0.0, abs=1e-5)
        assert found.std() == pytest.approx(1.0, abs=1e-4)

    def test_of_uniform_attention_is_zero(self):
        assert not consensus([np.ones((4, 9), np.float32)]).any()

    def test_logits_may_be_large(self):
        heads = [logits * 100.0 for logits in attention(spans_at(3, 7, 2))]
        assert np.isfinite(consensus(heads)).all()


def scored(heads: list[Matrix], sung: NDArray[np.bool_] | None = None) -> float:
    path = warp(-consensus(heads))
    return score(energy_of(mean_weights(heads)), path, np.full(len(heads[0]), True) if sung is None else sung)


class TestScore:
    def test_is_high_for_a_song_that_sings_its_lyrics(self):
        assert scored(attention(spans_at(*[12] * 8), strength=8.0)) > 0.9

    def test_falls_with_the_attention(self):
        scores = [scored(attention(spans_at(*[12] * 8), strength)) for strength in (8.0, 4.0, 2.0)]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > 0.9
        assert scores[-1] < 0.8

    def test_falls_where_tokens_are_out_of_order(self):
        spans = spans_at(*[12] * 8)
        in_order, shuffled = (
            attention(spans, 8.0),
            attention([spans[n] for n in (0, 4, 2, 6, 1, 3, 7, 5)], 8.0),
        )
        assert scored(shuffled) < 0.5 * scored(in_order)

    @pytest.mark.parametrize(("second", "expected"), [(30, 1.0), (20, 1.0), (11, 1.0), (10, 0.0)])
    def test_neighbours_may_overlap_by_nine_patches(self, second, expected):
        energy = np.zeros((2, 40), np.float32)
        energy[0, 20] = energy[1, second] = 1.0
        path = WarpingPath(np.array([0, 1]), np.array([20, second]))
        assert score(energy, path, np.array([True, True])) == expected

    def test_coverage_counts_squared(self):
        energy = np.eye(4, 40, dtype=np.float32)
        energy[3] = 0.0
        path = WarpingPath(np.arange(3), np.arange(3))
        assert score(energy, path, np.full(4, True)) == pytest.approx(0.75**2)

    def test_ignores_tags(self):
        energy = np.eye(4, 40, dtype=np.float32)
        energy[0] = 0.0
        path = WarpingPath(np.arange(1, 4), np.arange(1, 4))
        assert score(energy, path, np.array([False, True, True, True])) == 1.0

    def test_without_words_is_zero(self):
        energy = np.eye(4, 40, dtype=np.float32)
        assert score(energy, WarpingPath(np.arange(4), np.arange(4)), np.full(4, False)) == 0.0


def test_energy_is_scaled_to_the_range_from_0_to_1():
    energy = energy_of(np.array([[0.25, 0.5, 0.75]], np.float32))
    assert energy.tolist() == [[0.0, 0.5, 1.0]]
    assert energy_of(np.full((2, 3), 0.25, np.float32)).tolist() == [[0.0] * 3] * 2


def words_of(lyrics: str) -> list[list[str]]:
    return [[word.text for word in line.words] for line in sung_lines(lyrics)]


def test_lines_of_words():
    lyrics = "[Verse 1]\nCity lights  are calling,\n\n[Chorus] (Oh) don't go —\nHey!"
    assert [line.text for line in sung_lines(lyrics)] == [
        "City lights are calling,",
        "(Oh) don't go —",
        "Hey!",
    ]
    assert words_of(lyrics) == [["City", "lights", "are", "calling,"], ["(Oh)", "don't", "go"], ["Hey!"]]


@pytest.mark.parametrize(
    ("lyrics", "words"),
    [
        ("夜の街、きゃっと", ["夜", "の", "街、", "きゃっ", "と"]),
        ("カーテン", ["カー", "テ", "ン"]),
        ("我愛你 baby!", ["我", "愛", "你", "baby!"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("사랑해 너를", ["사랑해", "너를"]),
    ],
)
def test_scripts_without_spaces_have_a_word_for_each_character(lyrics, words):
    assert words_of(lyrics) == [words]


@pytest.mark.parametrize("lyrics", ["", "[Verse]\n[Chorus]\n", "[inst]", " \n...\n♪"])
def test_lyrics_without_words(lyrics):
    assert sung_lines(lyrics) == ()


def test_an_unclosed_bracket_is_text():
    assert words_of("[Verse\nla la]") == [["[Verse"], ["la", "la]"]]


def test_positions_of_words():
    lyrics = "[Verse]\r\nsky [softly] 空を\r\n\u2028see  it"
    for line in sung_lines(lyrics):
        for word in line.words:
            assert lyrics[word.start : word.end] == word.text
    assert words_of(lyrics) == [["sky", "空", "を"], ["see", "it"]]
