from dataclasses import replace
from itertools import combinations
from typing import get_args

import pytest
import torch

from acestep.domain.song import Guidance, Retake, Sampling, SongPlan, Tuning, WaveletCorrection
from acestep.errors import JobCancelledError
from acestep.synthesizer.synthesizer import RenderedBatch, Synthesizer
from tests.synthesizer import toy
from tests.synthesizer.toy import song

GUIDED = Sampling(steps=4, guidance_scale=6.0, shift=1.0, cfg_interval=(0.3, 1.0))
ANGULAR = replace(GUIDED, tuning=Tuning(guidance="adg"))
STOCHASTIC = Sampling(steps=4, guidance_scale=1.0, shift=1.0, infer_method="sde")
TURBO = Sampling(steps=8, guidance_scale=1.0, shift=3.0)

METHODS = {
    "plain": Sampling(steps=3, guidance_scale=1.0, shift=1.0),
    "guided": GUIDED,
    "angular": ANGULAR,
    "stochastic": STOCHASTIC,
    "all": replace(ANGULAR, infer_method="sde"),
    "tuned": replace(
        GUIDED,
        tuning=Tuning(
            "heun",
            momentum=-0.5,
            eta=0.2,
            velocity_limit=2.0,
            smoothing=0.1,
            latent_scale=0.9,
            latent_shift=0.1,
        ),
    ),
    "corrected": replace(GUIDED, tuning=Tuning(guidance="cfg", correction=WaveletCorrection())),
}


def render(synthesizer: Synthesizer, *plans: SongPlan) -> RenderedBatch:
    return synthesizer.render(plans, lambda done, of: None, lambda: False)


def three_songs(sampling: Sampling) -> tuple[SongPlan, ...]:
    return (
        song(caption="a", lyrics="", seed=1, sampling=sampling),
        song(caption="something with many more words", lyrics="la " * 30, seed=2, sampling=sampling),
        song(caption="a", lyrics="[Verse]\nb", seed=3, bpm=None, sampling=sampling),
    )


@pytest.mark.parametrize("sampling", METHODS.values(), ids=METHODS)
def test_a_song_in_a_batch_is_the_song_alone(synthesizer, sampling):
    plans = three_songs(sampling)
    together = render(synthesizer, *plans).latents
    assert together.shape == (3, 51, toy.CHANNELS)
    for number, plan in enumerate(plans):
        alone = render(synthesizer, plan).latents
        torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["ode", "sde"])
def test_a_turbo_song_in_a_batch_is_the_song_alone(turbo_synthesizer, method):
    plans = three_songs(replace(TURBO, infer_method=method))
    together = render(turbo_synthesizer, *plans).latents
    for number, plan in enumerate(plans):
        alone = render(turbo_synthesizer, plan).latents
        torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampling", METHODS.values(), ids=METHODS)
def test_the_same_seed_is_the_same_song(synthesizer, sampling):
    first = render(synthesizer, song(seed=5, sampling=sampling)).latents
    assert torch.equal(render(synthesizer, song(seed=5, sampling=sampling)).latents, first)
    assert not torch.allclose(render(synthesizer, song(seed=6, sampling=sampling)).latents, first)


def test_every_method_makes_another_song(synthesizer):
    steps = [replace(sampling, steps=4) for sampling in METHODS.values()]
    songs = [render(synthesizer, song(sampling=sampling)).latents for sampling in steps]
    for one, other in combinations(songs, 2):
        assert not torch.allclose(one, other, atol=1e-3)


def test_a_stochastic_song_of_one_step_is_the_deterministic_one(synthesizer):
    """Both go to the predicted data, from the same first noise."""
    one_step = replace(STOCHASTIC, steps=1)
    deterministic = render(synthesizer, song(sampling=replace(one_step, infer_method="ode"))).latents
    assert torch.equal(render(synthesizer, song(sampling=one_step)).latents, deterministic)


def test_a_retake_moves_from_one_song_to_another(synthesizer):
    plain, other = (render(synthesizer, song(seed=seed)).latents for seed in (1, 2))
    for variance, expected in ((0.0, plain), (1.0, other)):
        retake = render(synthesizer, song(seed=1, retake=Retake(2, variance))).latents
        torch.testing.assert_close(retake, expected, atol=1e-5, rtol=1e-5)
    near = render(synthesizer, song(seed=1, retake=Retake(2, 0.1))).latents
    assert 0.0 < (near - plain).norm() < (other - plain).norm()


def test_a_retake_leaves_the_songs_beside_it_alone(synthesizer):
    plain = song(seed=3)
    beside = render(synthesizer, song(seed=1, retake=Retake(2, 0.5)), plain).latents[1]
    torch.testing.assert_close(beside, render(synthesizer, plain).latents[0], atol=1e-5, rtol=1e-5)


def test_guidance_changes_a_base_song(synthesizer):
    plain = render(synthesizer, song(sampling=Sampling(4, 1.0, 1.0))).latents
    guided = render(synthesizer, song(sampling=Sampling(4, 6.0, 1.0))).latents
    assert not torch.allclose(plain, guided, atol=1e-3)


@pytest.mark.parametrize("guidance", get_args(Guidance))
def test_guidance_outside_every_step_changes_nothing(synthesizer, guidance):
    plain = render(synthesizer, song(sampling=Sampling(4, 1.0, 1.0))).latents
    outside = Sampling(4, 6.0, 1.0, cfg_interval=(0.6, 0.7), tuning=Tuning(guidance=guidance))
    unguided = render(synthesizer, song(sampling=outside)).latents
    torch.testing.assert_close(unguided, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("write", [toy.write_diffusers, lambda f: toy.write_published(f, xl=True)])
def test_other_checkpoints_render_too(write, tmp_path):
    synthesizer = Synthesizer(write(tmp_path).load(), toy.FRAME_RATE)
    latents = render(synthesizer, song(sampling=GUIDED)).latents
    assert latents.shape == (1, 51, toy.CHANNELS)
    assert latents.isfinite().all()


def test_progress_and_cancellation(synthesizer):
    calls = []
    with pytest.raises(JobCancelledError):
        synthesizer.render([song()], lambda done, of: calls.append((done, of)), lambda: len(calls) == 1)
    assert calls == [(1, 3)]


def test_warnings_belong_to_their_song(synthesizer):
    rendered = render(synthesizer, song(), song(caption="x" * 400))
    assert rendered.warnings[0] == ()
    assert len(rendered.warnings[1]) == 1


@pytest.mark.parametrize(
    ("seconds", "frames"),
    [(10.0, 250), (3.5, 88), (4.1, 103), (10.03, 251), (0.03, 1), (2.28, 57), (64.4, 1610)],
)
def test_frames_cover_the_song_and_float_noise_adds_none(base, seconds, frames):
    assert Synthesizer(base, 25.0).frames(seconds) == frames


@pytest.mark.parametrize(
    "plans",
    [(), (song(), song(duration=9.0)), (song(), song(sampling=GUIDED))],
    ids=["none", "length", "sampling"],
)
def test_plans_that_cannot_share_a_batch(synthesizer, plans):
    with pytest.raises(ValueError, match="share"):
        render(synthesizer, *plans)


def tuned(synthesizer: Synthesizer, sampling: Sampling, **changes) -> torch.Tensor:
    return render(synthesizer, song(sampling=replace(sampling, tuning=Tuning(**changes)))).latents


@pytest.mark.parametrize(
    "changes", [{"integrator": "heun"}, {"momentum": -0.5}, {"eta": 0.5}, {"smoothing": 0.2}]
)
def test_each_tuning_changes_the_song(synthesizer, changes):
    plain = tuned(synthesizer, GUIDED)
    assert not torch.allclose(tuned(synthesizer, GUIDED, **changes), plain, atol=1e-4)


def test_latents_are_scaled_and_shifted_at_the_end(synthesizer):
    plain = tuned(synthesizer, GUIDED)
    torch.testing.assert_close(
        tuned(synthesizer, GUIDED, latent_scale=0.9, latent_shift=0.1), 0.9 * plain + 0.1
    )


def test_stochastic_steps_have_no_integrator(synthesizer):
    plain = tuned(synthesizer, STOCHASTIC)
    assert torch.equal(tuned(synthesizer, STOCHASTIC, integrator="heun"), plain)
