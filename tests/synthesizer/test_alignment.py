"""The way from a finished song to the times of its words, on toys; the arithmetic has tests of its own."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acestep.domain.song import Sampling
from acestep.errors import UntimedLyricsError
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
from acestep.synthesizer.synthesizer import Synthesizer
from acestep.synthesizer.transformer import Heads, Transformer
from tests.synthesizer import toy
from tests.synthesizer.test_transformer import condition, noise
from tests.synthesizer.toy import song

TOY_HEADS: Heads = {0: (1, 3), 2: (2,)}

LYRICS = "[Verse]\nHello you\n\n[Chorus]\nå la"


@pytest.fixture
def listening(base) -> Synthesizer:
    return Synthesizer(base, toy.FRAME_RATE, TOY_HEADS)


def rendered(synthesizer: Synthesizer, plan) -> torch.Tensor:
    return synthesizer.render([plan], lambda done, of: None, lambda: False).latents


class TestCrossLogits:
    @torch.inference_mode()
    @pytest.mark.parametrize("lengths", [(11,), (11, 4)], ids=["alone", "padded"])
    def test_are_what_the_layers_attend_with(self, base, lengths):
        """Softmax, values and the output projection on top give what the layer itself adds."""
        transformer, told = Transformer(base.transformer), condition(40, lengths)
        attended, latents = transformer.attend(told), noise(len(lengths), 40)
        heads = {1: (0, 1, 2, 3)}
        source_latents = {}
        layer = base.transformer.layers[1].cross_attn

        def note(module, inputs, output):
            source_latents["mixed"] = inputs[0]

        hook = layer.to_out[0].register_forward_hook(note)
        transformer.velocity(latents, 0.5, attended)
        hook.remove()

        weights = [logits.softmax(-1) for logits in transformer.cross_logits(latents, 0.5, attended, heads)]
        assert len(weights) == 4
        values = attended.cross[1][1].repeat_interleave(2, dim=1)
        mixed = torch.cat([weight @ values[:, head] for head, weight in enumerate(weights)], dim=-1)
        torch.testing.assert_close(mixed, source_latents["mixed"], atol=1e-5, rtol=1e-4)
        if len(lengths) > 1:
            assert not weights[0][1, :, 4:].any()  # padding is not attended to

    @torch.inference_mode()
    def test_come_in_the_order_of_their_layers_and_heads(self, base):
        transformer, told, latents = Transformer(base.transformer), condition(40, (11,)), noise(1, 40)
        attended = transformer.attend(told)
        one_by_one = [
            logits
            for layer, head in ((0, 1), (0, 3), (2, 2))
            for logits in transformer.cross_logits(latents, 0.5, attended, {layer: (head,)})
        ]
        together = list(transformer.cross_logits(latents, 0.5, attended, TOY_HEADS))
        assert [tuple(logits.shape) for logits in together] == [(1, 20, 11)] * 3
        for found, expected in zip(together, one_by_one, strict=True):
            assert torch.equal(found, expected)

    @torch.inference_mode()
    def test_layers_above_are_not_run(self, base):
        transformer, told, latents = Transformer(base.transformer), condition(40, (11,)), noise(1, 40)
        attended, runs = transformer.attend(told), []
        hook = base.transformer.layers[2].mlp.register_forward_hook(lambda *told: runs.append(2))
        list(transformer.cross_logits(latents, 0.5, attended, {1: (0,)}))
        hook.remove()
        assert runs == []


class TestAttention:
    def test_is_of_the_lyrics_alone(self, listening, base):
        plan = song(lyrics=LYRICS)
        attention = listening.attend_lyrics(plan, rendered(listening, plan))
        letters = len(LYRICS.encode())  # the toy's tokens are bytes
        assert len(attention.logits) == 3
        assert {matrix.shape for matrix in (*attention.logits, attention.weights)} == {(letters, 26)}
        assert [LYRICS[start:end] for start, end in attention.spans[:4]] == ["[", "V", "e", "r"]
        assert tuple(attention.spans[-1]) == (len(LYRICS) - 1, len(LYRICS))
        assert attention.patch_seconds == pytest.approx(2 / toy.FRAME_RATE)

    def test_columns_are_the_states_of_their_tokens(self, listening):
        """Another last letter changes what every patch sees of it, and of the first one hardly anything."""
        plan = song(lyrics="la la la lo")
        latents = rendered(listening, plan)
        before = listening.attend_lyrics(plan, latents)
        after = listening.attend_lyrics(song(lyrics="la la la lX"), latents)
        changed = np.abs(before.logits[0] - after.logits[0]).mean(axis=1)
        assert changed[-1] == max(changed)
        assert changed[-1] > 5 * changed[0]

    def test_is_the_same_whenever_it_is_asked_for(self, listening):
        plan = song(lyrics=LYRICS)
        latents = rendered(listening, plan)
        first, second = (listening.attend_lyrics(plan, latents) for _ in range(2))
        assert np.array_equal(first.logits, second.logits)

    def test_looks_at_the_song_nearly_without_noise(self, listening):
        """At 1 / steps; so more steps are a closer look."""
        plan = song(lyrics=LYRICS)
        latents = rendered(listening, plan)
        closer = song(lyrics=LYRICS, sampling=Sampling(steps=50, guidance_scale=1.0, shift=1.0))
        given = song(lyrics=LYRICS, sampling=Sampling(3, 1.0, 1.0, timesteps=tuple(np.linspace(1, 0.02, 50))))
        seen = [listening.attend_lyrics(asked, latents).logits[0] for asked in (plan, closer, given)]
        assert not np.allclose(seen[0], seen[1], atol=1e-3)
        assert np.array_equal(seen[1], seen[2])

    def test_lyrics_that_the_model_does_not_read_to_the_end(self, listening):
        plan = song(lyrics="la " * 1000)
        attention = listening.attend_lyrics(plan, rendered(listening, plan))
        assert len(attention.spans) < len(plan.lyrics)
        times = time_lyrics(attention)
        assert len(times.lines[0].words) == pytest.approx(len(attention.spans) / 3, abs=1)


class TestRefusals:
    @pytest.mark.parametrize("lyrics", ["[Instrumental]", "[inst]", "[Verse]\n[Chorus]"])
    def test_nothing_is_sung(self, listening, lyrics):
        plan = song(lyrics=lyrics)
        with pytest.raises(UntimedLyricsError, match="no lyrics that are sung"):
            listening.attend_lyrics(plan, torch.zeros(1, 51, toy.CHANNELS))

    def test_nobody_knows_the_heads_of_another_model(self, synthesizer):
        with pytest.raises(UntimedLyricsError, match="published 2 B models"):
            synthesizer.attend_lyrics(song(lyrics=LYRICS), torch.zeros(1, 51, toy.CHANNELS))

    def test_the_published_models_are_known_by_their_shape(self):
        published = {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16}
        assert known_heads(SimpleNamespace(**published)) is PUBLISHED_HEADS
        for other in ({"hidden_size": 2560}, {"num_hidden_layers": 32}, {"num_attention_heads": 20}):
            assert known_heads(SimpleNamespace(**(published | other))) is None


class TestTimes:
    LYRICS = "[Verse]\nla lo\nlu"
    # Of a token for each letter: how many patches it is sung.
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

    def test_a_song_that_sings_every_letter_is_well_aligned(self):
        assert 0.95 < time_lyrics(self.attention()).score <= 1.0

    def test_nothing_ends_after_the_song(self):
        times = time_lyrics(self.attention(duration=3.05))
        assert times.lines[-1].end == times.lines[-1].words[-1].end == 3.05

    def test_a_song_by_a_toy_is_timed_in_order(self, listening):
        plan = song(lyrics=LYRICS)
        times = time_lyrics(listening.attend_lyrics(plan, rendered(listening, plan)))
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


def texts(lyrics: str) -> list[list[str]]:
    return [[word.text for word in line.words] for line in sung_lines(lyrics)]


def test_lines_of_words():
    lyrics = "[Verse 1]\nCity lights  are calling,\n\n[Chorus] (Oh) don't go —\nHey!"
    assert [line.text for line in sung_lines(lyrics)] == [
        "City lights are calling,",
        "(Oh) don't go —",
        "Hey!",
    ]
    assert texts(lyrics) == [["City", "lights", "are", "calling,"], ["(Oh)", "don't", "go"], ["Hey!"]]


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
def test_scripts_without_spaces_are_sung_by_the_character(lyrics, words):
    assert texts(lyrics) == [words]


@pytest.mark.parametrize("lyrics", ["", "[Verse]\n[Chorus]\n", "[inst]", " \n...\n♪"])
def test_nothing_to_sing(lyrics):
    assert sung_lines(lyrics) == ()


def test_a_bracket_that_stays_open_is_text():
    assert texts("[Verse\nla la]") == [["[Verse"], ["la", "la]"]]


def test_every_word_is_where_it_says():
    lyrics = "[Verse]\r\nsky [softly] 空を\r\n\u2028see  it"
    for line in sung_lines(lyrics):
        for word in line.words:
            assert lyrics[word.start : word.end] == word.text
    assert texts(lyrics) == [["sky", "空", "を"], ["see", "it"]]
