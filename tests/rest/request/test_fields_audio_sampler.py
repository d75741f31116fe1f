"""Fields that later versions of the original added: each is served, or refused by name; none is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acestep.domain.song import SongRequest
from acestep.errors import InvalidFieldError
from acestep.rest.request.body import SOURCE, Sound
from tests.rest.conftest import BASE, PLANNER
from tests.rest.request.accepting import accept
from tests.rest.values import FIELDS, aliases

CODES = [1, 2] * 50
# Each name, what may be sent under it, the task that it is for, and where its value comes out; "": refused.
NEWER: list[tuple[tuple[str, ...], list[Any], str, str]] = [
    (("track_name", "trackName"), ["drums"], "extract", "task.tracks"),
    (("track_classes", "trackClasses", "instruments"), [["drums"], "drums|bass"], "complete", "task.tracks"),
    (("audio_code_string", "audioCodeString", "audio_codes"), [CODES], "text2music", "audio_codes"),
    (("cover_noise_strength", "coverNoiseStrength"), [0.5], "cover", "task.noise_strength"),
    (("audio_cover_strength", "audioCoverStrength"), [0.5], "cover", "task.cover_strength"),
    (("cover_strength", "coverStrength"), [0.5], "cover", "task.cover_strength"),
    (("repaint_mode",), ["conservative", "balanced"], "repaint", "task.injection"),
    (("repaint_strength",), [0.7, 0, 0.5], "repaint", "task.injection"),
    (("repaint_latent_crossfade_frames",), [5], "repaint", "task.crossfade_frames"),
    (("repaint_wav_crossfade_sec",), [0.5], "repaint", "task.crossfade_seconds"),
    (("extract_codes_only", "extractCodesOnly"), [True], "cover", "goal"),
    (("guidance_variant", "guidanceVariant"), ["cfg"], "text2music", ""),
    (("guidance_params", "guidanceParams"), [{"eta": 0.5}, '{"eta": 0.5}'], "text2music", ""),
    (("sampler_mode", "samplerMode"), ["heun"], "text2music", "sampler.tuning.integrator"),
    (("velocity_norm_threshold", "velocityNormThreshold"), [1.0], "text2music", ""),
    (("velocity_ema_factor", "velocityEmaFactor"), [0.1], "text2music", "sampler.tuning.smoothing"),
    (("latent_shift", "latentShift"), [0.1], "text2music", "sampler.tuning.latent_shift"),
    (("latent_rescale", "latentRescale"), [0.9], "text2music", "sampler.tuning.latent_scale"),
    (("eta",), [0.1], "text2music", "sampler.tuning.eta"),
    (("momentum",), [-0.5], "text2music", "sampler.tuning.momentum"),
    (("dcw_enabled",), [True], "text2music", ""),
    (("dcw_mode",), ["low", "high", "pix"], "text2music", ""),
    (("dcw_scaler",), [0.1], "text2music", ""),
    (("dcw_high_scaler",), [0.1], "text2music", ""),
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
    body = {"task_type": task, "use_random_seed": False, "model": BASE.name} | fields
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
