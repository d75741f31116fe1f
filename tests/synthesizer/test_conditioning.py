import pytest
import torch

from acestep.domain.latents import SourceLatents
from acestep.domain.song import SongPlan
from acestep.errors import InvalidFieldError
from acestep.synthesizer.codes import AudioCodes
from acestep.synthesizer.conditioning import Condition, Conditioner, SongMaterial
from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.prompts import TEXT2MUSIC_INSTRUCTION
from acestep.synthesizer.windows import Span
from tests.synthesizer import toy
from tests.synthesizer.toy import song

FRAMES = 45  # longer than the toy's silence


def encode(modules: SynthesizerModules, *plans: SongPlan) -> Condition:
    conditioner = Conditioner(modules)
    return conditioner.encode(plans, [conditioner.material(plan, FRAMES) for plan in plans])


def test_a_song_in_a_batch_is_told_what_it_is_told_alone(base):
    plans = (
        song(caption="a", lyrics="b"),
        song(caption="long " * 9, lyrics="c"),
        song(caption="d", lyrics="e " * 40),
    )
    together = encode(base, *plans)

    for number, plan in enumerate(plans):
        alone = encode(base, plan)
        assert alone.mask.all()
        own = together.states[number][together.mask[number]]
        torch.testing.assert_close(own, alone.states[0], atol=1e-5, rtol=1e-5)
    assert together.mask.any(dim=0).all()  # no column is padding for everyone


def test_each_text_is_heard(base):
    states = encode(base, song()).states
    for change in ({"caption": "fast piano"}, {"lyrics": "[Verse]\nHullo"}, {"language": "de"}, {"bpm": 91}):
        assert not torch.allclose(encode(base, song(**change)).states, states)


def test_lyrics_come_first_then_timbre_then_text(base):
    conditioner = Conditioner(base)
    material = conditioner.material(song(), FRAMES)
    before = conditioner.encode([song()], [material]).states[0]
    other_words = conditioner.encode([song(lyrics="[Verse]\nHullo")], [material]).states[0]
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


def test_a_song_with_codes_is_built_on_their_hints_and_its_neighbour_on_silence(base):
    window, codes = base.facts.frames_per_code, (3, 1)
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


@pytest.mark.parametrize("code", [-1, 10**6])
def test_a_code_that_the_model_does_not_have(base, code):
    with pytest.raises(InvalidFieldError, match=f"audio_code_string: {code}"):
        encode(base, song(audio_codes=(0, code)))


def test_latents_become_as_many_codes_as_cover_them(base):
    latents = torch.randn(2 * base.facts.frames_per_code + 1, toy.CHANNELS)
    codes = AudioCodes(base).tokenize(latents)
    assert len(codes) == 3
    assert all(0 <= code < base.facts.code_count for code in codes)


def test_a_reference_is_heard_by_its_own_song_alone(base):
    conditioner = Conditioner(base)
    plain = conditioner.material(song(), FRAMES)
    resembling = type(plain)(plain.source, plain.chunk_mask, torch.randn(toy.REFERENCE_FRAMES, toy.CHANNELS))
    without = conditioner.encode([song(), song()], [plain, plain]).states
    with_one = conditioner.encode([song(), song()], [plain, resembling]).states
    torch.testing.assert_close(with_one[0], without[0])
    assert not torch.allclose(with_one[1], without[1])


def test_the_null_condition_follows_the_songs(base):
    conditioner = Conditioner(base)
    condition = encode(base, song(), song(caption="much longer " * 5))
    both = conditioner.with_null(condition)

    assert torch.equal(both.states[:2], condition.states)
    null = base.condition_encoder.null_condition_emb[0, 0]
    assert torch.equal(both.states[2:], null.expand_as(condition.states))
    assert torch.equal(both.mask, condition.mask.repeat(2, 1))
    assert torch.equal(both.context, condition.context.repeat(2, 1, 1))


def test_text_that_is_too_long_is_cut_and_told(base):
    conditioner = Conditioner(base)
    long = song(caption="x" * 300, lyrics="y" * 3000)

    caption, lyrics = conditioner.warnings(long)

    assert caption.startswith("caption: ") and "256" in caption
    assert lyrics.startswith("lyrics: ") and "2048" in lyrics
    assert encode(base, long).states.shape[1] == 2048 + 1 + 256
    assert conditioner.warnings(song()) == ()


def latents(frames: int) -> torch.Tensor:
    return torch.randn(frames, toy.CHANNELS, generator=torch.Generator().manual_seed(3))


def told(
    modules: SynthesizerModules, plan: SongPlan, sources: SourceLatents, span: Span | None = None
) -> SongMaterial:
    return Conditioner(modules).material(plan, FRAMES, sources, span)


def test_a_cover_is_built_on_what_the_codes_of_its_source_mean(base):
    source = latents(FRAMES)
    material = told(base, song(task_type="cover"), SourceLatents(source))

    codes = AudioCodes(base)
    assert torch.equal(material.source, codes.hints(codes.tokenize(source))[:FRAMES])
    assert (material.chunk_mask == 1).all()


def test_a_cover_longer_than_its_source_goes_on_from_silence(base):
    short = 2 * base.facts.frames_per_code + 1
    material = told(base, song(task_type="cover"), SourceLatents(latents(short)))
    assert torch.equal(material.source[short:], Conditioner(base).silence(FRAMES - short))


def test_codes_that_come_along_beat_the_source_of_a_cover(base):
    plan = song(task_type="cover", audio_codes=(3, 1))
    assert torch.equal(
        told(base, plan, SourceLatents(latents(FRAMES))).source,
        told(base, song(audio_codes=(3, 1)), SourceLatents()).source,
    )


def test_repaint_silences_its_window_and_lego_hears_it(base):
    source, span = latents(FRAMES), Span(10, 20)
    inside = slice(span.start, span.stop)
    repainted = told(base, song(task_type="repaint"), SourceLatents(source), span)
    added = told(base, song(task_type="lego"), SourceLatents(source), span)

    silence = Conditioner(base).silence(FRAMES)
    assert torch.equal(repainted.source[inside], silence[inside])  # silence as it is in this place
    assert torch.equal(repainted.source[: span.start], source[: span.start])
    assert torch.equal(repainted.source[span.stop :], source[span.stop :])
    assert torch.equal(added.source, source)
    for material in (repainted, added):
        assert torch.equal(material.chunk_mask, span.mask(FRAMES))


@pytest.mark.parametrize("task", ["extract", "complete"])
def test_extract_and_complete_hear_their_source_and_write_everywhere(base, task):
    source = latents(FRAMES)
    material = told(base, song(task_type=task), SourceLatents(source))
    assert torch.equal(material.source, source)
    assert (material.chunk_mask == 1).all()


def test_a_reference_takes_the_place_of_silence(base):
    reference = latents(toy.REFERENCE_FRAMES)
    assert torch.equal(told(base, song(), SourceLatents(reference=reference)).reference, reference)
    short = told(base, song(), SourceLatents(reference=reference[:5])).reference
    assert torch.equal(short[5:], Conditioner(base).silence(toy.REFERENCE_FRAMES - 5))


def test_the_plain_condition_forgets_the_source_and_its_instruction(base):
    conditioner = Conditioner(base)
    cover = song(task_type="cover", instruction="Cover it:")
    material = told(base, cover, SourceLatents(latents(FRAMES), latents(toy.REFERENCE_FRAMES)))
    plain = conditioner.encode_plainly([cover], [material])

    words = song(instruction=TEXT2MUSIC_INSTRUCTION)
    expected = conditioner.encode([words], [told(base, words, SourceLatents(reference=material.reference))])
    assert torch.equal(plain.states, expected.states)
    assert torch.equal(plain.context, expected.context)
