"""The fields and audio that each task uses, and the warnings about the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acestep.domain.song import SongRequest, TaskOptions
from acestep.errors import InvalidFieldError, PlannerUnavailableError
from acestep.rest.errors import StrictError
from acestep.rest.request.sounds import Sound
from acestep.rest.request.task_rules import users
from acestep.rest.request.wire_types import Models, Support
from tests.rest.conftest import BASE, NO_PLANNER, PLANNER, TURBO
from tests.rest.request.accepting import (
    COMBINATIONS,
    NATURAL,
    SERVED,
    SONG_FIELDS,
    WITHOUT_EFFECT,
    accept,
    ask,
    models_of,
    song_for,
    support_of,
    value_of,
)
from tests.rest.values import FIELDS

SONG = Sound(Path("/uploads/song.wav"), "my song.wav", 20.0)
VOICE = Sound(Path("/uploads/voice.wav"), "voice.wav", 5.0)
CODES = [1, 2] * 30  # twelve seconds
ON_AUDIO = ("cover", "repaint", "extract", "lego", "complete")
# What is sent for each field, and the tasks that use it.
USED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "repainting_start": (5.0, ("repaint", "lego")),
    "repainting_end": (8.0, ("repaint", "lego")),
    "repaint_latent_crossfade_frames": (3, ("repaint", "lego")),
    "repaint_wav_crossfade_sec": (0.5, ("repaint", "lego")),
    "repaint_mode": ("conservative", ("repaint", "lego")),
    "repaint_strength": (0.7, ("repaint", "lego")),
    "audio_cover_strength": (0.5, ("cover",)),
    "cover_noise_strength": (0.5, ("cover",)),
    "track_name": ("drums", ("extract", "lego")),
}


def accepted(
    source: Any = SONG,
    reference: Any = None,
    planner: Any = NO_PLANNER,
    strict: Any = False,
    **fields: Any,
) -> SongRequest:
    found = {"src_audio": source, "reference_audio": reference}
    sounds = {kind: sound for kind, sound in found.items() if sound}
    natural = NATURAL.get(fields.get("task_type", ""), {})
    fields = {"model": BASE.name, "batch_size": 1, **natural, **fields}
    return accept(fields, (TURBO, BASE), planner, strict, sounds)


def bare(task: str, strict: bool = False, **fields: Any) -> SongRequest:
    body = {"task_type": task, "model": BASE.name, "batch_size": 1} | fields
    return accept(body, (TURBO, BASE), NO_PLANNER, strict, {"src_audio": SONG})


class TestFields:
    @pytest.mark.parametrize("task", ["text2music", *ON_AUDIO])
    @pytest.mark.parametrize("name", USED)
    def test_a_field_reaches_the_tasks_that_use_it_and_others_say_so(self, name: str, task: str):
        value, users = USED[name]
        source = None if task == "text2music" else SONG
        request = accepted(source, task_type=task, **{name: value})
        plain = accepted(source, task_type=task)
        if task in users:
            assert request.task != plain.task
            assert request.warnings == ()
        else:
            assert request.task == plain.task
            (warning,) = request.warnings
            assert warning.startswith(f"{name}: {task} does not use it; ")
            with pytest.raises(StrictError, match=name):
                accepted(source, task_type=task, strict=True, **{name: value})

    def test_everything_about_a_repaint(self):
        request = accepted(
            reference=VOICE,
            task_type="repaint",
            repainting_start="-2.5",
            repainting_end="25",
            repaint_latent_crossfade_frames=4,
            repaint_wav_crossfade_sec=0.25,
            chunk_mask_mode="explicit",
        )
        assert request.task == TaskOptions(
            source=str(SONG.path),
            reference=str(VOICE.path),
            source_seconds=20.0,
            start=-2.5,
            end=25.0,
            crossfade_frames=4,
            crossfade_seconds=0.25,
        )
        assert request.warnings == ()

    def test_everything_about_a_cover(self):
        sent = {"cover_strength": 0.5, "coverNoiseStrength": 0.2, "noFsq": True, "allowLengthChange": "true"}
        request = accepted(task_type="cover", audio_duration=30, **sent)
        assert (request.task.cover_strength, request.task.noise_strength) == (0.5, 0.2)
        assert (request.duration, request.task.follows_latents) == (30.0, True)
        assert request.warnings == ()

    @pytest.mark.parametrize("end", [0, -1, "-1", None])
    def test_no_end_is_the_end_of_the_source(self, end: Any):
        assert accepted(task_type="repaint", repainting_end=end).task.end is None

    @pytest.mark.parametrize("name", ["Backing Vocals", "backing-vocals", " BACKING_VOCALS "])
    def test_tracks_are_read_as_people_write_them(self, name: str):
        assert accepted(task_type="extract", track_name=name).task.tracks == ("backing_vocals",)

    @pytest.mark.parametrize("names", ["drums,bass", "DRUMS | BASS", ["Drums", "bass", "drums"]])
    def test_several_tracks(self, names: Any):
        assert accepted(task_type="complete", instruments=names).task.tracks == ("drums", "bass")

    @pytest.mark.parametrize("field", ["track_name", "track_classes"])
    def test_an_unknown_track(self, field: str):
        with pytest.raises(InvalidFieldError, match=f"{field}: 'kazoo'.*woodwinds, brass, fx"):
            accepted(task_type="extract", **{field: "kazoo"})

    def test_a_strength_counts_where_codes_are_followed(self):
        coded = accepted(None, audio_codes=CODES, audio_cover_strength=0.5)
        assert (coded.task.cover_strength, coded.warnings) == (0.5, ())
        thinking = accepted(None, planner=PLANNER, thinking=True, audio_cover_strength=0.5)
        assert (thinking.task.cover_strength, thinking.warnings) == (0.5, ())


class TestTracks:
    @pytest.mark.parametrize("task", ["extract", "lego"])
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("track_name", "Drums"),
            ("track_names", "Drums"),
            ("trackNames", ["drums"]),
            ("track_classes", '["drums"]'),
            ("instruments", "drums, drums"),
        ],
    )
    def test_one(self, task: str, name: str, value: Any):
        request = bare(task, **{name: value})
        assert (request.task.tracks, request.warnings) == (("drums",), ())

    @pytest.mark.parametrize(
        ("name", "value", "tracks"),
        [
            ("track_names", ["drums", "bass"], ("drums", "bass")),
            ("track_names", "drums, bass", ("drums", "bass")),
            ("track_name", "drums", ("drums",)),
        ],
    )
    def test_of_complete(self, name: str, value: Any, tracks: tuple[str, ...]):
        request = bare("complete", **{name: value})
        assert (request.task.tracks, request.warnings) == (tracks, ())

    def test_the_same_twice(self):
        request = bare("extract", track_name="drums", track_classes=["drums"])
        assert (request.task.tracks, request.warnings) == (("drums",), ())

    @pytest.mark.parametrize("task", ["extract", "lego"])
    @pytest.mark.parametrize(
        "fields", [{"track_names": "drums,bass"}, {"track_name": "drums", "instruments": "bass"}]
    )
    def test_several_where_one_is_taken(self, task: str, fields: dict[str, Any]):
        told = f"track_classes: 'drums, bass' cannot be used with task_type {task}; allowed: one track"
        with pytest.raises(InvalidFieldError, match=told):
            bare(task, **fields)

    def test_other_tasks_take_none(self):
        (warning,) = bare("cover", track_names=["drums"]).warnings
        assert warning.startswith("track_classes: cover does not use it")


class TestAssumptions:
    @pytest.mark.parametrize(
        ("task", "fields", "warning"),
        [
            ("repaint", {}, "repainting_start: repaint was sent no window; the whole source is written anew"),
            ("repaint", {"repainting_end": "auto"}, "repainting_start: repaint was sent no window"),
            ("extract", {}, "track_name: extract was sent no track; which one it is, is left to the model"),
            ("lego", {"track_name": "none"}, "track_name: lego was sent no track"),
            ("complete", {"track_names": []}, "track_classes: complete was sent no tracks"),
        ],
    )
    def test_are_said(self, task: str, fields: dict[str, Any], warning: str):
        (said,) = bare(task, **fields).warnings
        assert said.startswith(warning)
        with pytest.raises(StrictError, match=warning):
            bare(task, strict=True, **fields)

    @pytest.mark.parametrize(
        ("task", "fields"),
        [
            ("repaint", {"repainting_start": 0}),
            ("repaint", {"repainting_end": 5}),
            ("repaint", {"repainting_end": -1}),
            ("cover", {}),
            ("complete", {"track_classes": "drums"}),
        ],
    )
    def test_where_none_is_made(self, task: str, fields: dict[str, Any]):
        assert bare(task, **fields).warnings == ()

    def test_codes_need_no_window(self):
        assert bare("text2music", extract_codes_only=True, batch_size=None).warnings == ()


class TestAudio:
    @pytest.mark.parametrize("task", ON_AUDIO)
    def test_a_task_without_its_audio_is_refused(self, task: str):
        with pytest.raises(InvalidFieldError, match=f"with task_type {task}; send an audio file") as refused:
            accepted(None, task_type=task)
        assert refused.value.field == "src_audio"

    def test_text2music_takes_none_and_says_so(self):
        request = accepted(SONG)
        assert request.task == TaskOptions()
        assert request.warnings == (
            "src_audio: task_type text2music does not use it; 'my song.wav' is not used",
        )

    @pytest.mark.parametrize("task", ["text2music", *ON_AUDIO])
    def test_every_task_may_resemble_a_reference(self, task: str):
        request = accepted(None if task == "text2music" else SONG, VOICE, task_type=task)
        assert (request.task.reference, request.warnings) == (str(VOICE.path), ())

    def test_codes_stand_in_for_the_source_of_a_cover(self):
        request = accepted(None, task_type="cover", audio_codes=CODES)
        assert (request.audio_codes, request.duration, request.warnings) == (tuple(CODES), 12.0, ())
        both = accepted(SONG, task_type="cover", audio_codes=CODES)
        assert both.task == TaskOptions()
        assert both.warnings == ("src_audio: audio_code_string stands in for it; 'my song.wav' is not used",)

    def test_noise_needs_a_source(self):
        request = accepted(None, task_type="cover", audio_codes=CODES, cover_noise_strength=0.5)
        assert request.task.noise_strength == 0.0
        assert request.warnings == ("cover_noise_strength: there is no source to start from; it is not used",)

    def test_codes_are_no_matter_of_other_tasks(self):
        request = accepted(task_type="repaint", audio_codes=CODES)
        assert request.audio_codes == ()
        (warning,) = request.warnings
        assert warning.startswith("audio_code_string: repaint does not use it; (1, 2, ")
        assert len(warning) < 140

    def test_an_upload_beats_a_path(self):
        request = accepted(SONG, task_type="cover", src_audio_path="other.wav")
        assert request.task.source == str(SONG.path)
        (warning,) = request.warnings
        assert warning == "src_audio_path: a file was uploaded as src_audio; 'other.wav' is not used"


class TestWindow:
    @pytest.mark.parametrize(
        ("fields", "field", "allowed"),
        [
            ({"repainting_start": 20.5}, "repainting_start", "at most 20.00, where the source ends"),
            ({"repainting_start": 20.0}, "repainting_start", "at most 20.00"),
            ({"repainting_start": 8, "repainting_end": 5}, "repainting_end", "more than repainting_start"),
            ({"repainting_start": 8, "repainting_end": 8}, "repainting_end", "which is 8"),
            ({"repainting_end": -2}, "repainting_end", "from 0.01 to 600"),
        ],
    )
    def test_a_window_that_is_none_is_refused(self, fields: dict[str, Any], field: str, allowed: str):
        with pytest.raises(InvalidFieldError, match=allowed) as refused:
            accepted(task_type="repaint", **fields)
        assert refused.value.field == field

    @pytest.mark.parametrize(
        "fields", [{}, {"repainting_start": 20, "repainting_end": 30}, {"repainting_start": -5}]
    )
    def test_a_window_may_be_everything_or_go_on_beyond_the_source(self, fields: dict[str, Any]):
        assert accepted(task_type="lego", **fields).warnings == ()


class TestPlanner:
    @pytest.mark.parametrize("task", ["cover", "repaint", "extract"])
    def test_tasks_that_skip_the_planner_do_not_need_it(self, task: str):
        request = accepted(task_type=task, thinking=True, use_format=True, sample_query="rain")
        assert {warning.partition(":")[0] for warning in request.warnings} == {
            *("thinking", "use_format", "sample_query")
        }
        planner = request.planner
        assert not (planner.thinking or planner.use_format or planner.sample_query or planner.use_cot_caption)

    def test_a_field_that_is_on_by_default_is_warned_of_only_if_it_was_sent(self):
        assert accepted(task_type="cover").warnings == ()
        (warning,) = accepted(task_type="cover", use_cot_caption=True).warnings
        assert warning.startswith("use_cot_caption: cover does not use it")

    @pytest.mark.parametrize("task", ["lego", "complete"])
    def test_others_may_use_it_but_not_for_codes(self, task: str):
        request = accepted(planner=PLANNER, task_type=task, use_format=True, thinking=True)
        assert (request.planner.use_format, request.planner.thinking) == (True, False)
        assert [warning.partition(":")[0] for warning in request.warnings] == ["thinking"]


class TestGoals:
    def test_codes_need_audio_and_nothing_else(self):
        request = accepted(extract_codes_only=True, batch_size=None)
        assert (request.goal, request.batch_size, request.warnings) == ("codes", 1, ())
        assert request.task.source == str(SONG.path)
        with pytest.raises(InvalidFieldError, match="with extract_codes_only; send an audio file"):
            accepted(None, extract_codes_only=True)

    def test_what_a_goal_does_not_take_is_told(self):
        request = accepted(extract_codes_only=True, task_type="cover", thinking=True, prompt="pop")
        assert {warning.partition(":")[0] for warning in request.warnings} >= {
            *("task_type", "thinking", "prompt")
        }
        assert request.task_type == "text2music"

    def test_a_description_is_of_audio_or_of_codes(self):
        asked = {"planner": PLANNER, "full_analysis_only": True}
        assert accepted(**asked).goal == "description"
        assert accepted(None, audio_codes=CODES, **asked).audio_codes == tuple(CODES)
        with pytest.raises(InvalidFieldError, match="with full_analysis_only"):
            accepted(None, **asked)

    def test_metadata_are_decided_from_words(self):
        request = accepted(None, planner=PLANNER, analysis_only=True, prompt="pop", bpm=90)
        assert (request.goal, request.caption, request.bpm) == ("metadata", "pop", 90)
        (warning,) = accepted(SONG, planner=PLANNER, analysis_only=True, batch_size=None).warnings
        assert warning.startswith("src_audio: analysis_only does not use it")

    @pytest.mark.parametrize("name", ["analysis_only", "full_analysis_only"])
    def test_an_analysis_needs_the_planner(self, name: str):
        with pytest.raises(PlannerUnavailableError, match=name):
            accepted(**{name: True})

    def test_one_goal_at_a_time(self):
        with pytest.raises(InvalidFieldError, match="Send one of the two"):
            accepted(extract_codes_only=True, full_analysis_only=True)


@pytest.mark.parametrize("name", SONG_FIELDS)
def test_a_field_that_a_task_does_not_use_is_warned_of(name: str):
    for task, model in COMBINATIONS:
        used = task in users(name) and support_of(name) in SERVED
        used &= models_of(name) is Models.ALL or not model.is_turbo
        song = song_for(name, task)
        without, _ = ask(song, model)
        try:
            asked, warned = ask(song | {name: value_of(name)}, model)
        except InvalidFieldError as refused:
            assert refused.field == name
            assert not used, f"{task} on {model.name} refused it"
            continue
        same = replace(asked, warnings=()) == replace(without, warnings=())
        if used:
            assert name not in warned or name == "lm_model_path", f"{task} on {model.name} warned"
            assert not same or name in WITHOUT_EFFECT, f"{task} on {model.name} took no notice"
        else:
            silent = support_of(name) is Support.INERT or value_of(name) is False
            assert silent or name in warned, f"{task} on {model.name} did not say that it is not used"
            assert same, f"{task} on {model.name} used it"


@pytest.mark.parametrize("name", [name for name in FIELDS if not users(name)])
def test_what_asks_for_no_song_is_done_whatever_the_task(name: str):
    for task, model in COMBINATIONS:
        source = {"src_audio_path": "song.wav"}
        assert ask({"task_type": task, name: True} | source, model)[0].goal != "song"


NEEDING_A_PLANNER = [name for name in FIELDS if support_of(name) in (Support.PLANNER, Support.OPTIONAL)]


@pytest.mark.parametrize("name", NEEDING_A_PLANNER)
def test_what_needs_a_planner_says_so_where_there_is_none(name: str):
    value = value_of(name) or True
    song = song_for(name, "text2music") | {"src_audio_path": "song.wav", name: value}
    if support_of(name) is Support.PLANNER:
        with pytest.raises(PlannerUnavailableError, match=name):
            ask(song, TURBO, NO_PLANNER)
    else:
        assert name in ask(song, TURBO, NO_PLANNER)[1]
