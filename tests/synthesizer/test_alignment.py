"""The way from a finished song to the times of its words, on toys; the arithmetic has tests of its own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from acestep.domain import Sampling
from acestep.errors import UntimedLyricsError
from acestep.synthesizer.alignment import PUBLISHED_HEADS, LyricAttention, known_heads, time_lyrics
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
        heard = {}
        layer = base.transformer.layers[1].cross_attn

        def note(module, inputs, output):
            heard["mixed"] = inputs[0]

        hook = layer.to_out[0].register_forward_hook(note)
        transformer.velocity(latents, 0.5, attended)
        hook.remove()

        weights = [logits.softmax(-1) for logits in transformer.cross_logits(latents, 0.5, attended, heads)]
        assert len(weights) == 4
        values = attended.cross[1][1].repeat_interleave(2, dim=1)
        mixed = torch.cat([weight @ values[:, head] for head, weight in enumerate(weights)], dim=-1)
        torch.testing.assert_close(mixed, heard["mixed"], atol=1e-5, rtol=1e-4)
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
