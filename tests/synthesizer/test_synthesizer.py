import pytest
import torch

from acestep.domain import Sampling, SongPlan
from acestep.errors import InvalidFieldError, JobCancelledError
from acestep.synthesizer.synthesizer import Rendered, Synthesizer
from tests.synthesizer import toy
from tests.synthesizer.toy import song

GUIDED = Sampling(steps=4, guidance_scale=6.0, shift=1.0, cfg_interval=(0.3, 1.0))
TURBO = Sampling(steps=8, guidance_scale=1.0, shift=3.0)


def render(synthesizer: Synthesizer, *plans: SongPlan) -> Rendered:
    return synthesizer.render(plans, lambda done, of: None, lambda: False)


def three_songs(sampling: Sampling) -> tuple[SongPlan, ...]:
    return (
        song(caption="a", lyrics="", seed=1, sampling=sampling),
        song(caption="something with many more words", lyrics="la " * 30, seed=2, sampling=sampling),
        song(caption="a", lyrics="[Verse]\nb", seed=3, bpm=None, sampling=sampling),
    )


@pytest.mark.parametrize("sampling", [song().sampling, GUIDED], ids=["plain", "guided"])
def test_a_song_in_a_batch_is_the_song_alone(synthesizer, sampling):
    plans = three_songs(sampling)
    together = render(synthesizer, *plans).latents
    assert together.shape == (3, 51, toy.CHANNELS)
    for number, plan in enumerate(plans):
        alone = render(synthesizer, plan).latents
        torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=1e-5)


def test_a_turbo_song_in_a_batch_is_the_song_alone(turbo_synthesizer):
    plans = three_songs(TURBO)
    together = render(turbo_synthesizer, *plans).latents
    for number, plan in enumerate(plans):
        alone = render(turbo_synthesizer, plan).latents
        torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=1e-5)


def test_the_same_seed_is_the_same_song(synthesizer):
    first = render(synthesizer, song(seed=5)).latents
    assert torch.equal(render(synthesizer, song(seed=5)).latents, first)
    assert not torch.allclose(render(synthesizer, song(seed=6)).latents, first)


def test_turbo_takes_no_guidance(turbo_synthesizer):
    plain = render(turbo_synthesizer, song(sampling=TURBO)).latents
    scaled = Sampling(steps=8, guidance_scale=7.0, shift=3.0, use_adg=True)
    assert torch.equal(render(turbo_synthesizer, song(sampling=scaled)).latents, plain)


def test_guidance_changes_a_base_song(synthesizer):
    plain = render(synthesizer, song(sampling=Sampling(4, 1.0, 1.0))).latents
    guided = render(synthesizer, song(sampling=Sampling(4, 6.0, 1.0))).latents
    assert not torch.allclose(plain, guided, atol=1e-3)


def test_guidance_outside_every_step_changes_nothing(synthesizer):
    plain = render(synthesizer, song(sampling=Sampling(4, 1.0, 1.0))).latents
    never = render(synthesizer, song(sampling=Sampling(4, 6.0, 1.0, cfg_interval=(0.6, 0.7)))).latents
    torch.testing.assert_close(never, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("write", [toy.write_diffusers, lambda f: toy.write_published(f, xl=True)])
def test_other_checkpoints_render_too(write, tmp_path):
    synthesizer = Synthesizer(write(tmp_path).load(), toy.FRAME_RATE)
    latents = render(synthesizer, song(sampling=GUIDED)).latents
    assert latents.shape == (1, 51, toy.CHANNELS)
    assert latents.isfinite().all()


def test_progress_and_cancellation(synthesizer):
    told = []
    with pytest.raises(JobCancelledError):
        synthesizer.render([song()], lambda done, of: told.append((done, of)), lambda: len(told) == 1)
    assert told == [(1, 3)]


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


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (Sampling(4, 1.0, 1.0, infer_method="sde"), "infer_method"),
        (Sampling(4, 6.0, 1.0, use_adg=True), "use_adg"),
        (Sampling(0, 1.0, 1.0), "inference_steps"),
    ],
)
def test_sampling_that_the_model_cannot_do_is_refused(synthesizer, sampling, field):
    with pytest.raises(InvalidFieldError) as refused:
        render(synthesizer, song(sampling=sampling))
    assert refused.value.field == field
