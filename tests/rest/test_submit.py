from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acestep.domain.song import MAX_SEED, PlannerOptions, SamplerOptions, SongRequest, Tuning
from acestep.errors import (
    InvalidFieldError,
    ModelUnavailableError,
    PlannerUnavailableError,
    UnknownModelError,
)
from acestep.rest.errors import StrictError
from acestep.rest.request.fields_jobs import JobFields
from acestep.rest.request.schemas import GenerateTask, read_task
from acestep.rest.request.sounds import SOURCE, Sound
from acestep.rest.request.wire_types import Support, notes_of
from acestep.rest.submit import to_request
from tests.rest.conftest import BASE, CONFIG, NO_PLANNER, PLANNER, TURBO, failed
from tests.rest.request.accepting import accept
from tests.rest.values import FIELDS, example

SONG = Sound(Path("/song.wav"), "song.wav", 20.0)


def accepted(**fields: Any) -> SongRequest:
    return accept(fields, (TURBO, BASE), NO_PLANNER)


def fields_with(support: Support) -> list[str]:
    return [
        name for name in FIELDS if notes_of(GenerateTask.model_fields[name])["x-support"] == support.value
    ]


# Each wire field that is one attribute of a request, and which.
ATTRIBUTES = {
    "prompt": "caption",
    "lyrics": "lyrics",
    "vocal_language": "language",
    "bpm": "bpm",
    "key_scale": "key_scale",
    "time_signature": "time_signature",
    "audio_duration": "duration",
    "batch_size": "batch_size",
    "model": "model",
    "task_type": "task_type",
    "audio_format": "audio_format",
    "audio_code_string": "audio_codes",
    "inference_steps": "sampler.steps",
    "guidance_scale": "sampler.guidance_scale",
    "shift": "sampler.shift",
    "cfg_interval_start": "sampler.cfg_interval_start",
    "cfg_interval_end": "sampler.cfg_interval_end",
    "timesteps": "sampler.timesteps",
    "infer_method": "sampler.infer_method",
    "sampler_mode": "sampler.tuning.integrator",
    "momentum": "sampler.tuning.momentum",
    "eta": "sampler.tuning.eta",
    "velocity_ema_factor": "sampler.tuning.smoothing",
    "latent_rescale": "sampler.tuning.latent_scale",
    "latent_shift": "sampler.tuning.latent_shift",
    "thinking": "planner.thinking",
    "sample_mode": "planner.sample_mode",
    "sample_query": "planner.sample_query",
    "use_format": "planner.use_format",
    "use_cot_caption": "planner.use_cot_caption",
    "use_cot_language": "planner.use_cot_language",
    "lm_temperature": "planner.temperature",
    "lm_cfg_scale": "planner.guidance_scale",
    "lm_top_k": "planner.top_k",
    "lm_top_p": "planner.top_p",
    "lm_repetition_penalty": "planner.repetition_penalty",
    "lm_negative_prompt": "planner.negative_prompt",
    "repainting_start": "task.start",
    "repainting_end": "task.end",
    "audio_cover_strength": "task.cover_strength",
    "cover_noise_strength": "task.noise_strength",
    "track_classes": "task.tracks",
    "repaint_latent_crossfade_frames": "task.crossfade_frames",
    "repaint_wav_crossfade_sec": "task.crossfade_seconds",
    "lyric_timestamps": "analysis.lyric_times",
    "measure_loudness": "analysis.loudness",
    "stems": "analysis.stems",
    "guidance_variant": "sampler.tuning.guidance",
    "velocity_norm_threshold": "sampler.tuning.velocity_limit",
    "no_fsq": "task.follows_latents",
    "flow_edit_source_caption": "task.source_caption",
    "flow_edit_source_lyrics": "task.source_lyrics",
    "allow_length_change": "task.may_change_length",
    "normalization_db": "output.peak_db",
    "fade_in_duration": "output.fade_in",
    "fade_out_duration": "output.fade_out",
    "mp3_bitrate": "output.mp3_bitrate",
    "mp3_sample_rate": "output.mp3_sample_rate",
}
# Several of these make one attribute, or their words differ from those of the program.
TRANSLATED = {
    *("seed", "use_random_seed", "instruction", "lora", "lm_model_path", "track_name", "waveform_peaks"),
    *("repaint_mode", "repaint_strength", "src_audio_path", "reference_audio_path"),
    *("extract_codes_only", "analysis_only", "full_analysis_only"),
    *("use_adg", "guidance_params", "dcw_enabled", "dcw_mode", "dcw_scaler", "dcw_high_scaler"),
    "dcw_wavelet",
    *("retake_seed", "retake_variance", "auto_score", "enable_normalization", "stem_count"),
    *("flow_edit_morph", "flow_edit_n_min", "flow_edit_n_max", "flow_edit_n_avg"),
}
WITHOUT_EFFECT = (Support.UNSUPPORTED, Support.INERT, Support.IGNORED)


def at(request: SongRequest, path: str) -> Any:
    found: Any = request
    for part in path.split("."):
        found = getattr(found, part)
    return found


class TestAttributes:
    def test_every_field_is_translated_or_has_no_effect(self):
        unused = {name for support in WITHOUT_EFFECT for name in fields_with(support)}
        assert sorted(
            {*ATTRIBUTES, *TRANSLATED, *unused, "chunk_mask_mode", *JobFields.model_fields}
        ) == sorted(FIELDS)

    @pytest.mark.parametrize("name", ATTRIBUTES)
    def test_a_field_that_is_not_sent_has_the_default_of_its_attribute(self, name):
        assert GenerateTask.model_fields[name].default == at(SongRequest(), ATTRIBUTES[name])

    @pytest.mark.parametrize("name", ATTRIBUTES)
    def test_what_is_sent_is_in_the_attribute(self, name):
        sent, _ = read_task({name: example(name)})
        request = to_request(sent, "song", {}, "")
        assert at(request, ATTRIBUTES[name]) == getattr(sent, name)
        others = [path for path in ATTRIBUTES.values() if path != ATTRIBUTES[name]]
        assert [at(request, path) for path in others] == [at(SongRequest(), path) for path in others]


class TestTranslation:
    def test_nothing_sent(self):
        request = accepted()
        assert (request.caption, request.lyrics, request.language) == ("", "", "en")
        assert (request.bpm, request.key_scale, request.time_signature, request.duration) == (None,) * 4
        assert (request.batch_size, request.model, request.audio_format) == (2, TURBO.name, "mp3")
        assert (request.sampler, request.planner) == (SamplerOptions(), PlannerOptions())
        assert request.instruction is None
        assert request.warnings == ()

    def test_everything_about_the_song(self):
        request = accepted(
            prompt="pop",
            lyrics="la",
            vocal_language="ja",
            bpm=120,
            key_scale="c major",
            time_signature="3/4",
            audio_duration=44,
            batch_size=1,
            seed=7,
            model=BASE.name,
            instruction="Compose:",
            audio_format="flac",
        )
        assert (request.caption, request.lyrics, request.language) == ("pop", "la", "ja")
        assert (request.bpm, request.key_scale, request.time_signature) == (120, "C major", "3")
        assert (request.duration, request.batch_size, request.seeds) == (44.0, 1, (7,))
        assert (request.model, request.instruction, request.audio_format) == (BASE.name, "Compose:", "flac")

    def test_everything_about_sampling(self):
        sent = {
            "guidance_scale": 5,
            "use_adg": True,
            "cfg_interval_start": 0.1,
            "cfg_interval_end": 0.9,
        }
        tuning = Tuning(guidance="adg")
        request = accepted(model=BASE.name, inference_steps=30, shift=2.5, **sent)
        assert request.sampler == SamplerOptions(30, 5.0, 2.5, 0.1, 0.9, None, "ode", tuning)
        timed = accepted(model=BASE.name, timesteps="0.9,0.5,0", infer_method="sde", **sent)
        assert timed.sampler == SamplerOptions(None, 5.0, None, 0.1, 0.9, (0.9, 0.5), "sde", tuning)

    def test_everything_about_the_planner(self):
        sent = {
            "lm_temperature": 0.5,
            "lm_cfg_scale": 1.5,
            "lm_top_k": 40,
            "lm_top_p": 0.8,
            "lm_repetition_penalty": 1.1,
            "lm_negative_prompt": "noise",
            "use_cot_caption": False,
            "use_cot_language": False,
        }
        request = accept(sent, (TURBO, BASE), PLANNER)
        assert request.planner == PlannerOptions(
            use_cot_caption=False,
            use_cot_language=False,
            temperature=0.5,
            guidance_scale=1.5,
            top_k=40,
            top_p=0.8,
            repetition_penalty=1.1,
            negative_prompt="noise",
        )
        assert request.warnings == ()

    def test_top_k_0_is_off(self):
        assert accepted(lm_top_k=0).planner.top_k is None

    @pytest.mark.parametrize(
        "instruction", ["", " ", "Fill the audio semantic mask based on the given conditions:"]
    )
    def test_the_default_instruction_leaves_the_choice_open(self, instruction):
        assert accepted(instruction=instruction).instruction is None


class TestSeeds:
    def test_a_seed_alone_counts(self):
        assert accepted(seed=42).seeds == (42, 43)
        assert accepted(seed=0, use_random_seed=False).seeds == (0, 1)

    def test_an_explicit_wish_for_randomness_wins_and_is_said(self):
        request = accepted(seed=42, use_random_seed=True)
        assert len(request.seeds) == 2
        assert request.warnings == ("seed: use_random_seed=true was sent as well; 42 is not used",)

    @pytest.mark.parametrize("fields", [{}, {"seed": -1}, {"seed": "-1", "use_random_seed": "true"}])
    def test_no_seed_is_drawn_anew(self, fields):
        assert accepted(**fields).seeds != accepted(**fields).seeds
        assert accepted(**fields).warnings == ()

    def test_a_list_with_a_random_one(self):
        first, drawn, last = accepted(seed="1,-1,3").seeds
        assert (first, last) == (1, 3)
        assert 0 <= drawn <= MAX_SEED

    def test_only_random_ones_in_a_list_are_one_song_each(self):
        assert len(accepted(seed=[-1, -1, -1]).seeds) == 3


class TestSupport:
    def test_every_kind_of_support_is_in_use(self):
        assert all(fields_with(support) for support in Support)

    @pytest.mark.parametrize("name", fields_with(Support.UNSUPPORTED))
    def test_what_is_not_supported_is_refused_by_name(self, name):
        with pytest.raises(
            InvalidFieldError, match=rf"^{name}: .*not supported by this server yet"
        ) as caught:
            accepted(**{name: example(name)})
        assert caught.value.field == name

    @pytest.mark.parametrize("name", fields_with(Support.PLANNER))
    def test_what_needs_the_planner_is_refused_by_name(self, name):
        with pytest.raises(PlannerUnavailableError, match=f"^{name}: needs the planner.*ACESTEP_INIT_LLM"):
            accept({name: example(name)}, (TURBO,), NO_PLANNER, sounds={SOURCE: SONG})

    @pytest.mark.parametrize("name", fields_with(Support.IGNORED))
    def test_what_the_server_decides_is_ignored_with_a_warning(self, name):
        (warning,) = accepted(**{name: example(name)}).warnings
        why = notes_of(GenerateTask.model_fields[name])["x-instead"] or "the server decides this"
        assert warning.startswith(f"{name}: {why}; ")

    @pytest.mark.parametrize("name", fields_with(Support.INERT))
    def test_what_has_no_effect_is_accepted(self, name):
        assert accepted(**{name: example(name)}).warnings == ()

    @pytest.mark.parametrize("name", fields_with(Support.OPTIONAL))
    def test_optional_uses_of_the_planner(self, name):
        silent = GenerateTask.model_fields[name].default
        if silent is True:  # what is on by default is asked for by saying so
            silent = False
        assert accepted(**{name: silent}).warnings == ()
        (warning,) = accepted(**{name: example(name) or True}).warnings
        assert warning.startswith(f"{name}: skipped")

    @pytest.mark.parametrize("name", FIELDS)
    def test_every_default_is_accepted(self, name):
        default = GenerateTask.model_fields[name].default
        sent = list(default) if isinstance(default, tuple) else default
        warnings = accepted(**{name: sent}).warnings
        assert (
            warnings == () or notes_of(GenerateTask.model_fields[name])["x-support"] == Support.OPTIONAL.value
        )

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("repainting_end", 0),
            ("repainting_end", -1),
            ("dcw_enabled", False),
            ("guidance_params", "{}"),
            ("sample_query", "  "),
            ("audio_code_string", " "),
            ("track_classes", []),
        ],
    )
    def test_what_means_the_same_as_the_default_is_accepted(self, name, value):
        assert accepted(**{name: value}).warnings == ()

    def test_all_that_is_not_supported_is_told(self):
        with pytest.raises(InvalidFieldError, match=r"dcw_wavelet: .* haar is the only wavelet here"):
            accepted(dcw_wavelet="db4")

    def test_a_task_that_the_model_does_not_do_is_refused_before_a_planner_is_missed(self):
        with pytest.raises(InvalidFieldError) as caught:
            accepted(task_type="lego", sample_mode=True)
        assert str(caught.value) == (
            "task_type: 'lego' cannot be used with model acestep-v15-turbo; allowed: text2music, cover, "
            "repaint. Models that do lego: acestep-v15-base"
        )


class TestModels:
    def test_a_fallback_is_said(self):
        request = accepted(model="acestep-v15-sft")
        assert request.model == TURBO.name
        assert request.warnings[0].startswith("model: 'acestep-v15-sft' is not loaded here")

    def test_strict_model(self):
        with pytest.raises(UnknownModelError):
            config = replace(CONFIG, strict_model=True)
            accept({"model": "acestep-v15-sft"}, (TURBO, BASE), NO_PLANNER, config=config)

    @pytest.mark.parametrize("state", ["ready", "loading", "on_disk"])
    @pytest.mark.parametrize("name", [BASE.name, f"acestep/{BASE.name}"])
    def test_a_named_model_serves_though_the_default_failed(self, name, state):
        request = accept({"model": name}, (failed(TURBO), replace(BASE, state=state)), NO_PLANNER)
        assert (request.model, request.warnings) == (BASE.name, ())

    @pytest.mark.parametrize("fields", [{}, {"model": TURBO.name}, {"model": "acestep-v15-sft"}])
    @pytest.mark.parametrize("other", [BASE, failed(BASE)])
    def test_what_the_failed_default_would_run_is_refused_with_its_reason(self, fields, other):
        with pytest.raises(ModelUnavailableError) as refused:
            accept(fields, (failed(TURBO), other), NO_PLANNER)
        assert str(refused.value) == "acestep-v15-turbo could not be loaded: config.json is missing"

    def test_a_failed_name_falls_back_to_a_failed_default(self):
        with pytest.raises(ModelUnavailableError) as refused:
            accept({"model": BASE.name}, (failed(TURBO), failed(BASE)), NO_PLANNER)
        assert str(refused.value) == (
            "acestep-v15-base could not be loaded: config.json is missing; "
            "acestep-v15-turbo could not be loaded: config.json is missing"
        )

    def test_another_model_failed(self):
        request = accept({"model": BASE.name}, (TURBO, failed(BASE)), NO_PLANNER)
        assert request.model == TURBO.name
        assert len(request.warnings) == 1

    def test_no_model(self):
        with pytest.raises(ModelUnavailableError):
            accept({}, (), NO_PLANNER)


class TestStrict:
    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"inference_steps": 60}, "inference_steps"),
            ({"promt": "x"}, "promt"),
            ({"model": "sft"}, "model"),
            ({"format": "wav"}, "format"),
            ({"batch_size": 8}, "batch_size"),
        ],
    )
    def test_what_would_be_a_warning_is_refused(self, fields, field):
        with pytest.raises(StrictError, match=field) as caught:
            accept(fields, (TURBO, BASE), NO_PLANNER, strict=True)
        assert caught.value.field == field

    def test_what_fits_is_accepted(self):
        assert accept({"prompt": "pop", "seed": 1}, (TURBO,), NO_PLANNER, strict=True).warnings == ()


def test_warnings_come_in_the_order_body_model_request():
    request = accept(
        {"promt": "x", "model": "sft", "inference_steps": 60}, (replace(TURBO, max_batch=1), BASE), NO_PLANNER
    )
    assert [warning.split(":")[0] for warning in request.warnings] == ["'promt'", "model", "inference_steps"]
