"""What one model's sampler takes."""

from dataclasses import replace

import pytest

from acestep.domain.song import (
    Retake,
    SamplerOptions,
    SongRequest,
    Tuning,
)
from acestep.errors import InvalidFieldError
from acestep.limits import (
    fit,
)
from tests.test_limits import BASE, TURBO, asked


class TestSampler:
    @pytest.mark.parametrize(
        ("sent", "field"),
        [
            ({"steps": 60}, "inference_steps"),
            ({"guidance_scale": 3.0}, "guidance_scale"),
            ({"shift": 2.4}, "shift"),
            ({"tuning": Tuning(guidance="adg")}, "guidance_variant"),
            ({"cfg_interval_start": 0.2}, "cfg_interval_start"),
            ({"cfg_interval_end": 0.8}, "cfg_interval_start"),
            ({"tuning": Tuning(momentum=-0.5)}, "momentum"),
            ({"tuning": Tuning(eta=0.1)}, "eta"),
        ],
    )
    def test_turbo_says_what_it_changes(self, sent, field):
        (warning,) = fit(asked(**sent), TURBO).warnings
        assert warning.startswith(f"{field}: turbo")

    def test_turbo_values(self):
        fitted = fit(
            asked(
                steps=60,
                guidance_scale=3.0,
                shift=2.4,
                tuning=Tuning(guidance="adg", angle_limit=0.1),
                cfg_interval_end=0.5,
            ),
            TURBO,
        )
        assert fitted.sampler == SamplerOptions(steps=8, shift=2.0)

    @pytest.mark.parametrize(("sent", "used"), [(1.0, 1.0), (1.4, 1.0), (2.6, 3.0), (5.0, 3.0)])
    def test_turbo_takes_the_nearest_shift(self, sent, used):
        assert fit(asked(shift=sent), TURBO).sampler.shift == used

    @pytest.mark.parametrize(
        "sent", [{}, {"steps": 8}, {"steps": 4}, {"guidance_scale": 1.0}, {"shift": 3.0}]
    )
    def test_turbo_is_silent_about_what_it_does_anyway(self, sent):
        assert fit(asked(**sent), TURBO).warnings == ()

    def test_base_takes_everything_as_it_is(self):
        request = asked(
            steps=100,
            guidance_scale=3.0,
            shift=2.4,
            cfg_interval_start=0.1,
            cfg_interval_end=0.5,
            tuning=Tuning("heun", "adg", angle_limit=0.1, smoothing=0.1, latent_scale=0.9, latent_shift=0.1),
        )
        fitted = fit(request, BASE)
        assert (fitted.sampler, fitted.warnings) == (request.sampler, ())

    def test_sde_on_base_has_equal_times_and_says_so(self):
        fitted = fit(asked(infer_method="sde", shift=3.0), BASE)
        assert fitted.sampler.shift == 1.0
        assert fitted.warnings == ("shift: sde steps over equal times; 3 became 1",)
        assert fit(fitted, BASE) == fitted
        assert fit(asked(infer_method="sde"), BASE).warnings == ()

    def test_base_refuses_more_steps_than_it_has(self):
        with pytest.raises(InvalidFieldError, match="inference_steps: 101 cannot be used with model base"):
            fit(asked(steps=101), BASE)

    @pytest.mark.parametrize("model", [TURBO, BASE])
    def test_the_guidance_interval_has_a_start_before_its_end(self, model):
        with pytest.raises(InvalidFieldError, match=r"cfg_interval_start: 0\.8"):
            fit(asked(cfg_interval_start=0.8, cfg_interval_end=0.2), model)


class TestTimesteps:
    def test_trailing_zeros_go(self):
        assert fit(asked(timesteps=(1.0, 0.5, 0.0, 0.0)), TURBO).sampler.timesteps == (1.0, 0.5)

    @pytest.mark.parametrize(
        "times", [(), (0.0,), (1.1, 0.5), (0.5, -0.1), (0.5, 0.6), (0.5, 0.5), (0.5, 0.0, 0.2)]
    )
    @pytest.mark.parametrize("model", [TURBO, BASE])
    def test_what_is_no_schedule(self, times, model):
        with pytest.raises(InvalidFieldError, match="timesteps: "):
            fit(asked(timesteps=times), model)

    def test_turbo_takes_20_and_base_as_many_as_it_has_steps(self):
        schedule = tuple(1.0 - index / 21 for index in range(21))
        assert fit(asked(timesteps=schedule[:20]), TURBO).sampler.timesteps == schedule[:20]
        assert fit(asked(timesteps=schedule), BASE).sampler.timesteps == schedule
        with pytest.raises(InvalidFieldError, match="1 to 20 falling values"):
            fit(asked(timesteps=schedule), TURBO)

    def test_it_replaces_steps_and_shift_and_says_so(self):
        fitted = fit(asked(timesteps=(1.0, 0.5), steps=60, shift=2.0), TURBO)
        assert fitted.sampler == SamplerOptions(timesteps=(1.0, 0.5))
        assert [warning.split(":")[0] for warning in fitted.warnings] == ["inference_steps", "shift"]


class TestGuidance:
    @pytest.mark.parametrize("scale", [0.0, 1.0])
    def test_what_needs_guidance_is_told_where_there_is_none(self, scale):
        fitted = fit(asked(guidance_scale=scale, tuning=Tuning(guidance="adg"), cfg_interval_start=0.2), BASE)
        assert fitted.warnings == (
            f"guidance_variant: guidance_scale {scale:g} means no guidance; adg is not used",
            f"cfg_interval_start: guidance_scale {scale:g} means no guidance; its interval is not used",
        )
        assert fitted.sampler == SamplerOptions(guidance_scale=scale)
        assert fit(fitted, BASE) == fitted

    def test_projection_has_settings_of_its_own(self):
        tuning = Tuning(momentum=-0.5, eta=0.25, smoothing=0.1)
        assert fit(asked(tuning=tuning), replace(BASE, guidance_scale=7.0)).warnings == ()
        fitted = fit(asked(guidance_scale=7.0, tuning=replace(tuning, guidance="adg")), BASE)
        assert fitted.warnings == (
            "momentum: adg has no such setting; -0.5 is not used",
            "eta: adg has no such setting; 0.25 is not used",
        )
        assert fitted.sampler.tuning == Tuning(guidance="adg", smoothing=0.1)
        assert fit(fitted, BASE) == fitted

    @pytest.mark.parametrize("model", [TURBO, BASE])
    def test_stochastic_steps_have_no_integrator(self, model):
        fitted = fit(asked(infer_method="sde", tuning=Tuning("heun")), model)
        assert fitted.warnings == ("sampler_mode: sde has steps of its own; heun is not used",)
        assert fitted.sampler.tuning == Tuning()

    def test_the_model_s_own_scale_counts(self):
        guided = replace(BASE, guidance_scale=7.0)
        asks = asked(tuning=Tuning(guidance="adg"))
        assert fit(asks, guided).warnings == ()
        assert len(fit(asks, replace(BASE, guidance_scale=1.0)).warnings) == 1

    @pytest.mark.parametrize(
        ("guidance", "kept"),
        [
            ("apg_classic", {"momentum", "eta", "norm_limit"}),
            ("cfg", set()),
            ("adg", {"angle_limit"}),
            ("adg_w_norm", {"angle_limit"}),
            ("adg_wo_clip", set()),
        ],
    )
    def test_each_variant_has_its_settings(self, guidance, kept):
        sent = Tuning(guidance=guidance, momentum=0.5, eta=0.25, norm_limit=4.0, angle_limit=0.5)
        tuning = fit(asked(guidance_scale=7.0, tuning=sent), BASE).sampler.tuning
        for name in ("momentum", "eta", "norm_limit", "angle_limit"):
            assert getattr(tuning, name) == getattr(sent if name in kept else Tuning(), name)
        fitted = fit(asked(guidance_scale=7.0, tuning=sent), BASE)
        assert len(fitted.warnings) == 4 - len(kept)

    def test_retakes_count_up_as_seeds_do(self):
        request = SongRequest(batch_size=3, seeds=(7,), retakes=(Retake(2**32 - 2, 0.25),))
        fitted = fit(request, BASE)
        assert fitted.retakes == (Retake(2**32 - 2, 0.25), Retake(2**32 - 1, 0.25), Retake(0, 0.25))
        assert fit(fitted, BASE) == fitted
