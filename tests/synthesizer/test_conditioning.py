from dataclasses import replace

import pytest
import torch

from acestep.domain.latents import SourceLatents
from acestep.domain.song import TEXT2MUSIC_INSTRUCTION, SongPlan
from acestep.networks.transformer import Condition
from acestep.synthesizer.audio_codes import AudioCodes
from acestep.synthesizer.conditioning import Conditioner, SongInputs
from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.windows import Span
from tests.synthesizer import toy
from tests.synthesizer.toy import song

FRAMES = 45  # longer than the toy's silence


def encode(modules: SynthesizerModules, *plans: SongPlan) -> Condition:
    conditioner = Conditioner(modules)
    return conditioner.encode(plans, [conditioner.inputs(plan, FRAMES) for plan in plans])


def test_a_song_has_the_same_condition_alone_and_in_a_batch(base):
    plans = (
        song(caption="a", lyrics="b"),
        song(caption="long " * 9, lyrics="c"),
        song(caption="d", lyrics="e " * 40),
    )
    together = encode(base, *plans)

    for number, plan in enumerate(plans):
        alone = encode(base, plan)
        assert alone.mask.all()
        assert torch.equal(together.states[number][together.mask[number]], alone.states[0])
    assert together.mask.any(dim=0).all()  # no column is padding for all songs


def test_states_depend_on_each_text(base):
    states = encode(base, song()).states
    for change in ({"caption": "fast piano"}, {"lyrics": "[Verse]\nHullo"}, {"language": "de"}, {"bpm": 91}):
        assert not torch.allclose(encode(base, song(**change)).states, states)


def test_lyrics_come_first_then_timbre_then_text(base):
    conditioner = Conditioner(base)
    inputs = conditioner.inputs(song(), FRAMES)
    before = conditioner.encode([song()], [inputs]).states[0]
    other_words = conditioner.encode([song(lyrics="[Verse]\nHullo")], [inputs]).states[0]
    changed = (before - other_words).abs().amax(dim=1) > 0
    lyric_tokens = len("# Languages\nen\n\n# Lyric\n[Verse]\nHello<|endoftext|>") - len("<|endoftext|>") + 1
    assert changed[:lyric_tokens].any()
    assert not changed[lyric_tokens:].any()


def test_context_is_silence_beside_a_mask_of_ones(base):
    context = encode(base, song(), song()).context

    assert context.shape == (2, FRAMES, toy.CHANNELS + toy.MASK_CHANNELS)
    stored = base.silence_latent[0]
    assert torch.equal(context[0, :, : toy.CHANNELS], torch.cat([stored, stored])[:FRAMES])
    assert (context[..., toy.CHANNELS :] == 1).all()


def test_the_source_of_a_song_with_codes_is_their_hints(base):
    window, codes = base.config.frames_per_code, (3, 1)
    context = encode(base, song(audio_codes=codes), song()).context[..., : toy.CHANNELS]

    hints = AudioCodes(base).hints(codes)
    assert hints.shape == (2 * window, toy.CHANNELS)
    silence = Conditioner(base).silence(FRAMES)
    assert torch.equal(context[0], torch.cat([hints, silence[: FRAMES - 2 * window]]))
    assert torch.equal(context[1], silence)


def test_more_codes_than_the_song_is_long_are_cut(base):
    codes = (1, 2) * FRAMES
    context = encode(base, song(audio_codes=codes)).context[0, :, : toy.CHANNELS]
    assert torch.equal(context, AudioCodes(base).hints(codes)[:FRAMES])


def test_codes_cover_all_latents(base):
    latents = torch.randn(2 * base.config.frames_per_code + 1, toy.CHANNELS)
    codes = AudioCodes(base).tokenize(latents)
    assert len(codes) == 3
    assert all(0 <= code < base.config.code_count for code in codes)


def test_a_reference_changes_its_own_song_alone(base):
    conditioner = Conditioner(base)
    plain = conditioner.inputs(song(), FRAMES)
    referenced = type(plain)(plain.source, plain.chunk_mask, torch.randn(toy.REFERENCE_FRAMES, toy.CHANNELS))
    without = conditioner.encode([song(), song()], [plain, plain]).states
    with_one = conditioner.encode([song(), song()], [plain, referenced]).states
    torch.testing.assert_close(with_one[0], without[0])
    assert not torch.allclose(with_one[1], without[1])


def test_the_null_condition_is_beside_those_of_the_songs(base):
    condition = encode(base, song(), song(caption="much longer " * 5))
    guided = Conditioner(base).with_null(condition)

    assert guided.null is not None
    assert torch.equal(guided.null, base.condition_encoder.null_condition_emb)
    assert (guided.states, guided.mask, guided.context) == (
        condition.states,
        condition.mask,
        condition.context,
    )


def test_text_that_is_too_long_is_cut_with_a_warning(base):
    conditioner = Conditioner(base)
    long = song(caption="x" * 300, lyrics="y" * 3000)

    caption, lyrics = conditioner.warnings(long)

    assert caption.startswith("caption: ") and "256" in caption
    assert lyrics.startswith("lyrics: ") and "2048" in lyrics
    assert encode(base, long).states.shape[1] == 2048 + 1 + 256
    assert conditioner.warnings(song()) == ()


def latents(frames: int) -> torch.Tensor:
    return torch.randn(frames, toy.CHANNELS, generator=torch.Generator().manual_seed(3))


def inputs_of(
    modules: SynthesizerModules, plan: SongPlan, sources: SourceLatents, span: Span | None = None
) -> SongInputs:
    return Conditioner(modules).inputs(plan, FRAMES, sources, span)


def test_a_cover_is_made_from_the_hints_of_its_sources_codes(base):
    source = latents(FRAMES)
    inputs = inputs_of(base, song(task_type="cover"), SourceLatents(source))

    codes = AudioCodes(base)
    assert torch.equal(inputs.source, codes.hints(codes.tokenize(source))[:FRAMES])
    assert (inputs.chunk_mask == 1).all()


def test_a_cover_may_follow_the_latents_of_its_source(base):
    source = latents(FRAMES)
    inputs = inputs_of(base, song(task_type="cover", follows_latents=True), SourceLatents(source))
    assert torch.equal(inputs.source, source)
    assert bool(inputs.chunk_mask.all())


def test_a_cover_longer_than_its_source_is_padded_with_silence(base):
    short = 2 * base.config.frames_per_code + 1
    inputs = inputs_of(base, song(task_type="cover"), SourceLatents(latents(short)))
    assert torch.equal(inputs.source[short:], Conditioner(base).silence(FRAMES - short))


def test_given_codes_replace_the_source_of_a_cover(base):
    plan = song(task_type="cover", audio_codes=(3, 1))
    assert torch.equal(
        inputs_of(base, plan, SourceLatents(latents(FRAMES))).source,
        inputs_of(base, song(audio_codes=(3, 1)), SourceLatents()).source,
    )


def test_repaint_silences_its_window_and_lego_does_not(base):
    source, span = latents(FRAMES), Span(10, 20)
    inside = slice(span.start, span.stop)
    repainted = inputs_of(base, song(task_type="repaint"), SourceLatents(source), span)
    added = inputs_of(base, song(task_type="lego"), SourceLatents(source), span)

    silence = Conditioner(base).silence(FRAMES)
    assert torch.equal(repainted.source[inside], silence[inside])  # the silence of these frames
    assert torch.equal(repainted.source[: span.start], source[: span.start])
    assert torch.equal(repainted.source[span.stop :], source[span.stop :])
    assert torch.equal(added.source, source)
    for inputs in (repainted, added):
        assert torch.equal(inputs.chunk_mask, span.mask(FRAMES))


@pytest.mark.parametrize("task", ["extract", "complete"])
def test_extract_and_complete_keep_their_source_and_generate_every_frame(base, task):
    source = latents(FRAMES)
    inputs = inputs_of(base, song(task_type=task), SourceLatents(source))
    assert torch.equal(inputs.source, source)
    assert (inputs.chunk_mask == 1).all()


def test_a_reference_replaces_silence(base):
    reference = latents(toy.REFERENCE_FRAMES)
    given = inputs_of(base, song(), SourceLatents(reference=reference)).reference
    short = inputs_of(base, song(), SourceLatents(reference=reference[:5])).reference
    assert given is not None and torch.equal(given, reference)
    assert short is not None and torch.equal(short[5:], Conditioner(base).silence(toy.REFERENCE_FRAMES - 5))


@torch.inference_mode()
def test_the_timbre_of_silence_is_encoded_once_a_model(base, monkeypatch):
    encoded: list[torch.Tensor] = []
    timbre = base.condition_encoder.timbre

    def record(reference):
        encoded.append(reference)
        return timbre(reference)

    monkeypatch.setattr(base.condition_encoder, "timbre", record)
    conditioner = Conditioner(base)
    silent = conditioner.inputs(song(), FRAMES)
    first = conditioner.encode([song(), song()], [silent, silent]).states
    assert torch.equal(conditioner.encode([song()], [silent]).states[0], first[0])
    assert len(encoded) == 1
    assert torch.equal(encoded[0][0], conditioner.silence(toy.REFERENCE_FRAMES))

    spoken = conditioner.inputs(song(), FRAMES, SourceLatents(reference=latents(toy.REFERENCE_FRAMES)))
    assert not torch.equal(conditioner.encode([song()], [spoken]).states[0], first[0])
    as_silence = replace(silent, reference=conditioner.silence(toy.REFERENCE_FRAMES))
    assert torch.equal(conditioner.encode([song()], [as_silence]).states[0], first[0])
    assert len(encoded) == 3


def test_the_condition_without_source_is_that_of_text2music(base):
    conditioner = Conditioner(base)
    cover = song(task_type="cover", instruction="Cover it:")
    inputs = inputs_of(base, cover, SourceLatents(latents(FRAMES), latents(toy.REFERENCE_FRAMES)))
    plain = conditioner.encode_without_source([cover], [inputs])

    words = song(instruction=TEXT2MUSIC_INSTRUCTION)
    expected = conditioner.encode(
        [words], [inputs_of(base, words, SourceLatents(reference=inputs.reference))]
    )
    assert torch.equal(plain.states, expected.states)
    assert torch.equal(plain.context, expected.context)
