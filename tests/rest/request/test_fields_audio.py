"""Fields that later versions of the original added: each is served, or refused by name; none is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from acestep.domain.models import ModelInfo
from acestep.domain.song import AnalysisOptions, Morph, Retake, SongRequest, WaveletCorrection
from acestep.errors import InvalidFieldError
from acestep.rest.request.sounds import SOURCE, Sound
from tests.rest.conftest import BASE, CONFIG, PLANNER, TURBO
from tests.rest.request.accepting import NATURAL, accept
from tests.rest.values import FIELDS, aliases

CODES = [1, 2] * 50
TUNING = "sampler.tuning."
# Each name, what may be sent under it, the task that it is for, and where its value comes out; "": refused.
NEWER: list[tuple[tuple[str, ...], list[Any], str, str]] = [
    (("track_name", "trackName"), ["drums"], "extract", "task.tracks"),
    (("track_classes", "trackClasses", "instruments"), [["drums"], "drums|bass"], "complete", "task.tracks"),
    (("stem_count", "stemCount"), [2, "4", 6], "extract", "task.tracks"),
    (("audio_code_string", "audioCodeString", "audio_codes"), [CODES], "text2music", "audio_codes"),
    (("cover_noise_strength", "coverNoiseStrength"), [0.5], "cover", "task.noise_strength"),
    (("audio_cover_strength", "audioCoverStrength"), [0.5], "cover", "task.cover_strength"),
    (("cover_strength", "coverStrength"), [0.5], "cover", "task.cover_strength"),
    (("repaint_mode",), ["conservative", "balanced"], "repaint", "task.injection"),
    (("repaint_strength",), [0.7, 0, 0.5], "repaint", "task.injection"),
    (("repaint_latent_crossfade_frames",), [5], "repaint", "task.crossfade_frames"),
    (("repaint_wav_crossfade_sec",), [0.5], "repaint", "task.crossfade_seconds"),
    (("extract_codes_only", "extractCodesOnly"), [True], "cover", "goal"),
    (("guidance_variant", "guidanceVariant"), ["cfg", "adg"], "text2music", TUNING + "guidance"),
    (("guidance_params", "guidanceParams"), [{"eta": 0.5}, '{"eta": 0.5}'], "text2music", TUNING + "eta"),
    (("guidance_params",), [{"norm_threshold": 5}], "text2music", TUNING + "norm_limit"),
    (("guidance_params",), [{"momentum": 0.5}], "text2music", TUNING + "momentum"),
    (("sampler_mode", "samplerMode"), ["heun"], "text2music", TUNING + "integrator"),
    (("velocity_norm_threshold", "velocityNormThreshold"), [1.0], "text2music", TUNING + "velocity_limit"),
    (("velocity_ema_factor", "velocityEmaFactor"), [0.1], "text2music", TUNING + "smoothing"),
    (("latent_shift", "latentShift"), [0.1], "text2music", TUNING + "latent_shift"),
    (("latent_rescale", "latentRescale"), [0.9], "text2music", TUNING + "latent_scale"),
    (("eta",), [0.1], "text2music", TUNING + "eta"),
    (("momentum",), [-0.5], "text2music", TUNING + "momentum"),
    (("dcw_enabled",), [True], "text2music", TUNING + "correction"),
    (("retake_variance", "retakeVariance"), [0.2], "text2music", "retakes"),
    (("no_fsq", "noFsq"), [True], "cover", "task.follows_latents"),
    (("mp3_bitrate", "mp3Bitrate"), [192, "192k", "192kbps", 192_000], "text2music", "output.mp3_bitrate"),
    (("mp3_sample_rate", "mp3SampleRate"), [44_100, "44100"], "text2music", "output.mp3_sample_rate"),
    (("auto_lrc", "auto_score", "autoScore"), [True], "text2music", "analysis.lyric_times"),
    (("dcw_wavelet",), ["db4"], "text2music", ""),
    (("audio_format",), ["opus", "aac", "wav32"], "text2music", "audio_format"),
    (("seed",), [5, "5", "1,2,3"], "text2music", "seeds"),
    (("timesteps",), ["0.9,0.5", [0.9, 0.5]], "text2music", "sampler.timesteps"),
]  # fmt: skip
# What they stand at in the original: it says nothing that is not done anyway.
DEFAULTS: dict[str, Any] = {
    "global_caption": "",
    "chunk_mask_mode": "auto",
    "repaint_latent_crossfade_frames": 10,
    "repaint_wav_crossfade_sec": 0.0,
    "guidance_variant": "apg_classic",
    "sampler_mode": "euler",
    "velocity_norm_threshold": 0.0,
    "velocity_ema_factor": 0.0,
    "latent_shift": 0.0,
    "latent_rescale": 1.0,
    "eta": 0.0,
    "momentum": -0.75,
    "dcw_enabled": None,
    "dcw_mode": "double",
    "dcw_scaler": 0.05,
    "dcw_high_scaler": 0.02,
    "dcw_wavelet": "haar",
    "extract_codes_only": False,
    "cover_noise_strength": 0.0,
    "audio_cover_strength": 1.0,
}
CASES = [
    (name, value, task, path) for names, values, task, path in NEWER for name in names for value in values
]


def accepted(task: str, **fields: Any) -> SongRequest:
    sound = Sound(Path("/song.wav"), "song.wav", 20.0)
    sounds = {} if task == "text2music" else {SOURCE: sound}
    body = {"task_type": task, "use_random_seed": False, "model": BASE.name}
    body = {**body, **NATURAL.get(task, {}), **fields}
    return accept(body, (BASE,), PLANNER, sounds=sounds)


def at(request: SongRequest, path: str) -> Any:
    found: Any = request
    for part in path.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("name", "value", "task", "path"), CASES)
def test_each_is_served_or_refused_by_name(name: str, value: Any, task: str, path: str):
    field = next(field for field in FIELDS if name in (field, *aliases(field)))
    if not path:
        with pytest.raises(InvalidFieldError, match=r"not supported by this server yet; \w+") as refused:
            accepted(task, **{name: value})
        assert refused.value.field == field
        return
    request = accepted(task, **{name: value})
    assert at(request, path) != at(accepted(task), path)
    assert not any(warning.startswith((name, field)) for warning in request.warnings)


@pytest.mark.parametrize("task", ["repaint", "lego"])
@pytest.mark.parametrize("value", ["explicit", "auto"])
def test_a_mask_is_always_explicit(task: str, value: str):
    assert accepted(task, seed=1, chunk_mask_mode=value) == accepted(task, seed=1)
    assert "chunk_mask_mode" in " ".join(accepted("cover", chunk_mask_mode="explicit").warnings)


@pytest.mark.parametrize("task", ["text2music", "cover", "repaint", "lego"])
@pytest.mark.parametrize("name", DEFAULTS)
def test_what_a_client_sends_as_the_default_changes_nothing(task: str, name: str):
    assert accepted(task, seed=1, **{name: DEFAULTS[name]}) == accepted(task, seed=1)


@pytest.mark.parametrize("task", ["repaint", "lego"])
@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({}, 0.0),
        ({"repaint_mode": "aggressive"}, 0.0),
        ({"repaint_mode": "conservative", "repaint_strength": 0.5}, 1.0),
        ({"repaint_mode": "Balanced"}, 0.5),
        ({"repaint_mode": "balanced", "repaint_strength": "0.25"}, 0.75),
        ({"repaint_strength": 1}, 0.0),
        ({"repaint_strength": 0}, 1.0),
    ],
)
def test_how_long_a_repaint_is_led_by_its_surroundings(task: str, fields: dict[str, Any], share: float):
    request = accepted(task, seed=1, **fields)
    assert request.task.injection == share
    assert request == replace(accepted(task, seed=1), task=request.task)


@pytest.mark.parametrize("mode", ["conservative", "aggressive"])
def test_a_strength_beside_a_mode_that_has_none_is_told_of(mode: str):
    request = accepted("repaint", repaint_mode=mode, repaint_strength=0.2)
    assert f"repaint_strength: {mode} repaints take none; 0.2 is not used" in request.warnings
    assert request.task == accepted("repaint", repaint_mode=mode).task


@pytest.mark.parametrize("task", ["lego", "repaint", "text2music"])
def test_a_caption_of_the_whole_is_told_not_to_count(task: str):
    whole = "a rock song " * 10
    request = accepted(task, seed=1, global_caption=whole)
    (warning,) = request.warnings
    assert warning.startswith("global_caption: no published model was trained with it; use prompt; ")
    assert warning.endswith("… is not used") and len(warning) < 200
    assert replace(request, warnings=()) == accepted(task, seed=1)


class TestGuidance:
    @pytest.mark.parametrize(
        "params",
        [{"dims": 1}, {"dims": None}, {"eta": 2}, {"momentum": "much"}, {"angle_clip": -1}, [0.5], "eta=1"],
    )
    def test_settings_that_are_none_are_refused_with_those_that_are(self, params: Any):
        with pytest.raises(InvalidFieldError, match=r"guidance_params: .* norm_threshold \(0 to 100\)"):
            accepted("text2music", guidance_params=params)

    def test_a_variant_goes_before_use_adg(self):
        request = accepted("text2music", guidance_scale=7, guidance_variant="adg_w_norm", use_adg=True)
        assert request.sampler.tuning.guidance == "adg_w_norm"
        assert request.warnings == ("use_adg: guidance_variant adg_w_norm goes before it; it is not used",)
        silent = accepted("text2music", guidance_scale=7, guidance_variant="adg", use_adg=True)
        assert (silent.sampler.tuning.guidance, silent.warnings) == ("adg", ())


class TestCorrection:
    def test_settings(self):
        sent = {"dcw_enabled": True, "dcw_mode": "high", "dcw_scaler": 0.06}
        assert accepted("text2music", **sent).sampler.tuning.correction == WaveletCorrection(
            "high", 0.06, 0.02
        )

    def test_settings_without_effect_are_told(self):
        off = accepted("text2music", dcw_scaler=0.1, dcw_mode="low")
        assert off.sampler.tuning.correction is None
        assert off.warnings == (
            "dcw_mode: dcw_enabled is not true; 'low' is not used",
            "dcw_scaler: dcw_enabled is not true; 0.1 is not used",
        )
        low = accepted("text2music", dcw_enabled=True, dcw_mode="low", dcw_high_scaler=0.5)
        assert low.warnings == ("dcw_high_scaler: dcw_mode is low; 0.5 is not used",)

    @pytest.mark.parametrize(
        ("model", "on_turbo", "sent", "enabled"),
        [
            (TURBO, True, {}, True),
            (TURBO, True, {"dcw_enabled": False}, False),
            (TURBO, False, {}, False),
            (BASE, True, {}, False),
            (BASE, True, {"dcw_enabled": True}, True),
        ],
    )
    def test_the_operator_may_turn_it_on_for_turbo_models(
        self, model: ModelInfo, on_turbo: bool, sent: dict[str, Any], enabled: bool
    ):
        request = accept(sent, (model,), PLANNER, config=replace(CONFIG, dcw_on_turbo=on_turbo))
        assert (request.sampler.tuning.correction is not None) == enabled


class TestRetakes:
    def test_seeds_are_one_a_song(self):
        sent = {"batch_size": 2, "seed": 1, "retake_variance": 0.25}
        request = accepted("text2music", retake_seed=8, **sent)
        assert request.retakes == (Retake(8, 0.25), Retake(9, 0.25))
        assert accepted("text2music", retake_seed="5,3", **sent).retakes == (Retake(5, 0.25), Retake(3, 0.25))

    def test_seeds_that_are_not_sent_are_drawn(self):
        drawn = {accepted("text2music", seed=1, retake_variance=0.25).retakes[0].seed for _ in range(3)}
        assert len(drawn) == 3

    def test_a_seed_without_variance_is_told(self):
        request = accepted("text2music", retake_seed=8)
        assert (request.retakes, request.warnings) == (
            (),
            ("retake_seed: retake_variance 0 changes nothing; 8 is not used",),
        )


class TestCover:
    def test_a_cover_without_codes_has_a_name_of_its_own(self):
        request = accepted("Cover-NoFSQ")
        assert (request.task_type, request.task.follows_latents, request.warnings) == ("cover", True, ())

    def test_codes_say_what_it_follows(self):
        request = accepted("cover", no_fsq=True, audio_code_string=CODES)
        assert not request.task.follows_latents
        assert "no_fsq: audio_code_string says what the cover follows; it is not used" in request.warnings


class TestSeparation:
    @pytest.mark.parametrize(
        ("count", "tracks", "rest"),
        [
            (2, ("vocals",), "instrumental"),
            (4, ("vocals", "drums", "bass"), "other"),
            ("6", ("vocals", "drums", "bass", "guitar", "keyboard"), "other"),
        ],
    )
    def test_a_workstation_names_a_number_of_stems(self, count: Any, tracks: tuple[str, ...], rest: str):
        request = accepted("stem_separation", stem_count=count)
        assert (request.task_type, request.task.tracks, request.task.rest) == ("extract", tracks, rest)
        assert (request.batch_size, request.warnings) == (1, ())

    def test_four_are_usual(self):
        assert accepted("Stem_Separation").task.rest == "other"
        assert accepted("extract", track_name="drums").task.rest == ""

    def test_another_number_is_refused(self):
        with pytest.raises(InvalidFieldError, match="stem_count: 3 cannot be used; allowed: 2, 4 or 6"):
            accepted("stem_separation", stem_count=3)

    @pytest.mark.parametrize("name", ["lyric_timestamps", "measure_loudness", "auto_score"])
    def test_so_is_what_is_only_true_or_false(self, name: str):
        request = accepted("stem_separation", **{name: True})
        assert request.analysis == AnalysisOptions()
        assert request.warnings == (
            f"{name}: a source that is separated has no use for it; True is not used",
        )

    def test_what_has_no_effect_is_told(self):
        request = accepted("extract", stem_count=2, track_name="drums", batch_size=4, fade_out_duration=2)
        assert (request.task.tracks, request.batch_size, request.output.fade_out) == (("vocals",), 1, 0.0)
        assert [warning.partition(":")[0] for warning in request.warnings] == [
            "track_name",
            "batch_size",
            "fade_out_duration",
        ]


class TestMorph:
    SENT: ClassVar[dict[str, Any]] = {
        "flow_edit_morph": True,
        "flow_edit_source_caption": "a rock song",
        "flow_edit_source_lyrics": "la la",
        "flow_edit_n_min": 0.2,
        "flow_edit_n_max": "0.8",
        "flow_edit_n_avg": 2,
    }

    def test_settings(self):
        request = accepted("cover", **self.SENT)
        assert request.task.morph == Morph(start=0.8, end=0.2, averages=2)
        assert (request.task.source_caption, request.task.source_lyrics) == ("a rock song", "la la")
        assert request.warnings == ()

    def test_an_interval_without_a_step_is_refused(self):
        with pytest.raises(InvalidFieldError, match=r"flow_edit_n_min: 0.8 .* less than flow_edit_n_max"):
            accepted("cover", **self.SENT | {"flow_edit_n_min": 0.8})

    def test_words_of_a_source_that_is_not_morphed_are_told(self):
        request = accepted("cover", flow_edit_source_caption="a rock song")
        assert request.task.source_caption == ""
        assert request.warnings == (
            "flow_edit_source_caption: flow_edit_morph is not true; 'a rock song' is not used",
        )

    def test_what_it_has_no_use_for_is_told(self):
        request = accepted("cover", infer_method="sde", cover_noise_strength=0.5, **self.SENT)
        assert (request.sampler.infer_method, request.task.noise_strength) == ("ode", 0.0)
        assert [warning.partition(":")[0] for warning in request.warnings] == [
            "infer_method",
            "cover_noise_strength",
        ]

    def test_other_tasks_say_so(self):
        request = accepted("text2music", **self.SENT)
        assert request.task.morph is None
        assert [warning.partition(";")[0] for warning in request.warnings] == [
            f"{name}: text2music does not use it" for name in self.SENT
        ]
