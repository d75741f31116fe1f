"""Songs that are made from audio: the same alone and in a batch, and dependent on their sources."""

from dataclasses import replace

import pytest
import torch

from acestep.domain.latents import SourceLatents
from acestep.domain.song import Morph, Sampling, SongPlan, Window
from acestep.synthesizer.synthesizer import Synthesizer
from tests.synthesizer import toy
from tests.synthesizer.toy import song

PLAIN = Sampling(steps=4, guidance_scale=1.0, shift=1.0)
GUIDED = replace(PLAIN, guidance_scale=5.0)
FRAMES = 51  # of the toy's song of 4.08 s
WINDOW = Window(1.0, 2.0, 0.0, 4.08)


def noise(seed: int, frames: int = FRAMES) -> torch.Tensor:
    return torch.randn(frames, toy.CHANNELS, generator=torch.Generator().manual_seed(seed))


def render(synthesizer: Synthesizer, plans: list[SongPlan], sources: list[SourceLatents]) -> torch.Tensor:
    return synthesizer.render(plans, lambda done, of: None, lambda: False, sources).latents


def every_task(sampling: Sampling) -> tuple[list[SongPlan], list[SourceLatents]]:
    """One song of each task, with texts, codes, sources and references of different lengths."""
    plans = [
        song(seed=1, caption="a", sampling=sampling),
        song(seed=2, audio_codes=(3, 1, 2), sampling=sampling),
        song(seed=3, task_type="cover", lyrics="la " * 20, sampling=sampling),
        song(seed=4, task_type="repaint", window=WINDOW, sampling=sampling),
        song(seed=5, task_type="lego", window=WINDOW, caption="drums " * 5, sampling=sampling),
        song(seed=6, task_type="extract", sampling=sampling),
        song(seed=7, task_type="complete", sampling=sampling),
    ]
    sources = [SourceLatents(), SourceLatents(reference=noise(20, 9))]
    sources += [SourceLatents(noise(song, 30 + 5 * song), noise(song + 10, 20)) for song in range(5)]
    return plans, sources


@pytest.mark.parametrize(
    "sampling", [PLAIN, GUIDED, replace(GUIDED, cover_strength=0.5), replace(PLAIN, injection=0.5)]
)
def test_a_song_of_any_task_in_a_batch_is_the_song_alone(synthesizer, sampling):
    plans, sources = every_task(sampling)
    together = render(synthesizer, plans, sources)
    for number in range(len(plans)):
        alone = render(synthesizer, plans[number : number + 1], sources[number : number + 1])
        torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=1e-5)


def test_songs_that_start_at_their_sources_share_a_batch(synthesizer):
    sampling = replace(GUIDED, noise_strength=0.4)
    plans = [song(task_type="cover", seed=seed, sampling=sampling) for seed in (1, 2)]
    sources = [SourceLatents(noise(seed)) for seed in (3, 4)]
    together = render(synthesizer, plans, sources)
    for number in range(2):
        alone = render(synthesizer, plans[number : number + 1], sources[number : number + 1])
        torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=1e-5)


def test_each_task_depends_on_its_source(synthesizer):
    plans, _ = every_task(PLAIN)
    for plan in plans[2:]:
        one, other = (render(synthesizer, [plan], [SourceLatents(noise(seed))]) for seed in (1, 2))
        assert not torch.allclose(one, other, atol=1e-3), plan.task_type


def test_a_cover_without_strength_is_text2music(synthesizer):
    weak = song(task_type="cover", sampling=replace(GUIDED, cover_strength=0.0), instruction="Cover:")
    words = song(sampling=GUIDED, instruction="Fill the audio semantic mask based on the given conditions:")
    assert torch.equal(
        render(synthesizer, [weak], [SourceLatents(noise(1))]),
        render(synthesizer, [words], [SourceLatents()]),
    )


def test_a_cover_follows_its_source_for_its_share_of_the_steps(synthesizer):
    """Of 4 steps, 0.5 and 0.74 are 2 (2.96 is cut to 2), and 0.75 is 3."""
    cover = [
        song(task_type="cover", sampling=replace(PLAIN, cover_strength=s)) for s in (0.5, 0.74, 0.75, 1.0)
    ]
    half, three_cut, three, whole = (render(synthesizer, [plan], [SourceLatents(noise(1))]) for plan in cover)
    assert torch.equal(half, three_cut)
    assert not torch.allclose(half, three, atol=1e-4)
    assert not torch.allclose(three, whole, atol=1e-4)


def test_a_cover_that_starts_nearer_to_its_source_stays_nearer(synthesizer):
    source = noise(1)
    strengths = (0.0, 0.5, 0.9)
    songs = [
        render(
            synthesizer,
            [song(task_type="cover", sampling=replace(PLAIN, steps=20, noise_strength=strength))],
            [SourceLatents(source)],
        )
        for strength in strengths
    ]
    far, near, nearest = ((latents[0] - source).norm() for latents in songs)
    assert nearest < near < far


def test_a_reference_changes_the_song(synthesizer):
    without = render(synthesizer, [song()], [SourceLatents()])
    resembling = render(synthesizer, [song()], [SourceLatents(reference=noise(2, toy.REFERENCE_FRAMES))])
    assert not torch.allclose(without, resembling, atol=1e-4)


@pytest.mark.parametrize("task", ["repaint", "lego"])
def test_the_source_is_injected_for_its_share_of_the_steps(synthesizer, task):
    """Of 4 steps, 0.4 and 0.5 are 2; injected in all of them, the rest of the song ends as the source."""
    source = noise(1)
    never, some, half, always = (
        render(
            synthesizer,
            [song(task_type=task, window=WINDOW, sampling=replace(PLAIN, injection=share))],
            [SourceLatents(source)],
        )[0]
        for share in (0.0, 0.4, 0.5, 1.0)
    )
    assert torch.equal(some, half)
    outside = torch.ones(FRAMES, dtype=torch.bool)
    span = synthesizer.span(song(task_type=task, window=WINDOW))
    outside[span.start : span.stop] = False
    assert torch.equal(always[outside], source[outside])
    for one, other in ((never, half), (half, always)):
        assert not torch.allclose(one[~outside], other[~outside], atol=1e-4)
    assert not torch.allclose(half[outside], source[outside], atol=1e-2)


def morphed(synthesizer: Synthesizer, morph: Morph, source: torch.Tensor, **changes: str) -> torch.Tensor:
    words = {"caption": "a", "lyrics": "la"} | changes
    sampling = replace(GUIDED, morph=morph)
    plan = song(task_type="cover", source_caption="a", source_lyrics="la", sampling=sampling, **words)
    return render(synthesizer, [plan], [SourceLatents(source)])


def test_a_morph_to_its_own_words_is_its_source(synthesizer):
    source = noise(1)
    for morph in (Morph(), Morph(0.7, 0.0, 2), Morph(0.2)):
        torch.testing.assert_close(morphed(synthesizer, morph, source)[0], source, atol=1e-5, rtol=0)


def test_a_morph_goes_further_from_its_source_the_earlier_it_begins(synthesizer):
    source = noise(1)
    near, middle, far = (
        float((morphed(synthesizer, Morph(start), source, caption="b")[0] - source).norm())
        for start in (0.3, 0.6, 1.0)
    )
    assert 0.0 < near < middle < far


def test_where_a_morph_ends_its_song_is_sampled_as_others_are(synthesizer):
    source = noise(1)
    ended = morphed(synthesizer, Morph(1.0, 0.5), source)
    assert float((ended[0] - source).norm()) > 1.0  # its own words, but noise was added


def test_a_morph_in_a_batch_is_the_morph_alone(synthesizer):
    sampling = replace(GUIDED, morph=Morph(0.9, 0.3, 2))
    plans = [
        song(task_type="cover", seed=seed, caption="b", source_caption="a", sampling=sampling)
        for seed in (1, 2)
    ]
    sources = [SourceLatents(noise(seed)) for seed in (3, 4)]
    together = render(synthesizer, plans, sources)
    for number in range(2):
        alone = render(synthesizer, plans[number : number + 1], sources[number : number + 1])
        torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=1e-5)


def test_a_morph_reports_each_step_once(synthesizer):
    told: list[tuple[int, int]] = []
    plan = song(task_type="cover", sampling=replace(GUIDED, steps=8, morph=Morph(1.0, 0.5)))
    sources = [SourceLatents(noise(1))]
    synthesizer.render([plan], lambda done, of: told.append((done, of)), lambda: False, sources)
    assert told == [(done, 8) for done in range(1, 9)]
