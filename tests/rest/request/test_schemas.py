import json
from typing import Any

import pytest

from acestep.domain.song import LANGUAGES, MAX_SEED
from acestep.errors import InvalidFieldError
from acestep.rest.request.schemas import ALLOWED, METAS, GenerateTask, read_query, read_task
from acestep.rest.request.wire_types import notes_of
from tests.rest.values import FIELDS, SCHEMAS, aliases, at_the_edge, example, outside, wrong_types


def read(**fields: Any) -> GenerateTask:
    task, _ = read_task(fields)
    return task


def warnings_of(**fields: Any) -> tuple[str, ...]:
    _, warnings = read_task(fields)
    return warnings


class TestDeclarations:
    def test_no_name_means_two_fields(self):
        names = [name for field in FIELDS for name in (field, *aliases(field))]
        assert len(names) == len(set(names))

    @pytest.mark.parametrize("name", FIELDS)
    def test_every_field_is_described_and_has_an_example_that_is_not_its_default(self, name):
        assert SCHEMAS[name]["description"]
        assert getattr(read(**{name: example(name)}), name) != GenerateTask.model_fields[name].default
        assert ALLOWED[GenerateTask][name]

    @pytest.mark.parametrize("name", FIELDS)
    def test_the_defaults_are_acceptable_themselves(self, name):
        default = GenerateTask.model_fields[name].default
        if default is not None:
            sent = list(default) if isinstance(default, tuple) else default
            assert getattr(read(**{name: sent}), name) == default


class TestNames:
    @pytest.mark.parametrize("name", FIELDS)
    @pytest.mark.parametrize("place", ["top", "param_obj", "metas"])
    def test_every_alias_everywhere(self, name, place):
        expected = getattr(read(**{name: example(name)}), name)
        for alias in aliases(name):
            sent = {alias: example(name)}
            task, warnings = read_task(sent if place == "top" else {place: sent})
            assert getattr(task, name) == expected, alias
            assert task.model_fields_set == {name}, alias
            assert warnings == (), alias

    def test_the_canonical_name_wins_over_aliases_and_these_by_their_order(self):
        assert read(keyScale="B major", key="C major", keyscale="A major").key_scale == "A major"
        assert read(key="C major", key_scale="D major").key_scale == "D major"

    def test_top_level_then_param_obj_then_metas(self):
        nested = {
            "param_obj": {"bpm": 100, "lyrics": "b"},
            "metas": {"bpm": 90, "lyrics": "c", "key": "C major"},
        }
        task = read(bpm=80, **nested)
        assert (task.bpm, task.lyrics, task.key_scale) == (80, "b", "C major")

    def test_an_alias_at_the_top_wins_over_a_canonical_name_below(self):
        assert read(caption="top", param_obj={"prompt": "nested"}).prompt == "top"

    def test_null_is_passed_over_and_an_empty_string_is_not(self):
        assert read(prompt=None, caption="A").prompt == "A"
        assert read(prompt="", caption="A").prompt == ""

    @pytest.mark.parametrize("name", METAS)
    def test_synonyms_of_metas(self, name):
        assert read(**{name: {"bpm": 77}}).bpm == 77

    def test_the_first_metas_that_is_not_empty_counts(self):
        assert read(metas=[], metadata={"bpm": 77}, userMetadata={"bpm": 99}).bpm == 77

    def test_nests_as_json_strings(self):
        task = read(param_obj='{"bpm": 77}', metas='{"language": "ja", "duration": 44}')
        assert (task.bpm, task.vocal_language, task.audio_duration) == (77, "ja", 44.0)

    def test_common_metas_keys(self):
        task = read(
            metas={"bpm": 77, "duration": 44, "language": "ja", "keyscale": "E minor", "timesignature": "3"}
        )
        assert (task.bpm, task.audio_duration, task.vocal_language) == (77, 44.0, "ja")
        assert (task.key_scale, task.time_signature) == ("E minor", "3")

    @pytest.mark.parametrize("name", ["param_obj", *METAS])
    @pytest.mark.parametrize("value", ["garbage", "[1]", [1], 5, "null", '{"a":' * 100_000, "9" * 5_000])
    def test_a_nest_that_is_no_object_is_refused_by_its_name(self, name, value):
        with pytest.raises(InvalidFieldError, match=f"^{name}: ") as caught:
            read(**{name: value})
        assert caught.value.field == name

    @pytest.mark.parametrize("value", [None, "", {}, []])
    def test_an_empty_nest_is_none(self, value):
        assert read(param_obj=value, metas=value) == GenerateTask()


class TestValues:
    @pytest.mark.parametrize("name", FIELDS)
    def test_wrong_types(self, name):
        for value in wrong_types(name):
            with pytest.raises(InvalidFieldError, match=f"^{name}: .*allowed: ") as caught:
                read(**{name: value})
            assert caught.value.field == name

    def test_outside_the_range(self):
        for name, value in outside():
            with pytest.raises(InvalidFieldError, match=f"^{name}: .*allowed: ") as caught:
                read(**{name: value})
            assert caught.value.field == name
            assert len(str(caught.value)) < 1_000

    def test_the_ends_of_the_range_are_inside(self):
        for name, value in at_the_edge():
            assert name in read(**{name: value}).model_fields_set

    def test_half_a_surrogate_pair_is_no_text(self):
        for name in FIELDS:
            with pytest.raises(InvalidFieldError, match=f"^{name}: "):
                read(**{name: "\ud800"})

    def test_empty_means_not_sent(self):
        closed = [name for name in FIELDS if not notes_of(GenerateTask.model_fields[name])["x-free-text"]]
        assert len(closed) > len(FIELDS) // 2
        for name in closed:
            task = read(**{name: ""})
            assert task == GenerateTask(), name
            assert task.model_fields_set == set(), name

    @pytest.mark.parametrize("word", ["1", "true", "YES", "y", "on", 1, True])
    def test_true_words(self, word):
        assert read(use_adg=word).use_adg is True

    @pytest.mark.parametrize("word", ["0", "False", "no", "N", "off", 0, False])
    def test_false_words(self, word):
        assert read(use_cot_caption=word).use_cot_caption is False

    @pytest.mark.parametrize("word", ["2", "maybe", 2, 1.0])
    def test_words_that_are_neither(self, word):
        with pytest.raises(InvalidFieldError, match=r"use_adg: .* allowed: true or false"):
            read(use_adg=word)

    @pytest.mark.parametrize("value", [8, "8", "8.0", 8.0, " 8 "])
    def test_whole_numbers(self, value):
        assert read(inference_steps=value).inference_steps == 8

    @pytest.mark.parametrize("value", [10**400, -(10**400), "9" * 400])
    @pytest.mark.parametrize("name", ["inference_steps", "shift", "seed", "bpm", "audio_duration"])
    def test_numbers_beyond_all_bounds(self, name, value):
        with pytest.raises(InvalidFieldError, match=f"^{name}: "):
            read(**{name: value})

    @pytest.mark.parametrize("value", [-1, 0, "0", "-1.0", None, "", "N/A"])
    def test_automatic_duration(self, value):
        assert read(audio_duration=value).audio_duration is None

    @pytest.mark.parametrize("value", [-2, 5, 9.99, 600.5, 1e9])
    def test_durations_outside(self, value):
        with pytest.raises(InvalidFieldError, match=r"audio_duration: .* allowed: a number from 10 to 600"):
            read(audio_duration=value)

    @pytest.mark.parametrize("value", [0, "0", None, "", "N/A"])
    def test_no_bpm(self, value):
        assert read(bpm=value).bpm is None

    @pytest.mark.parametrize(
        ("value", "beats"),
        [
            ("4", "4"),
            (4, "4"),
            (4.0, "4"),
            ("4/4", "4"),
            ("3/4", "3"),
            ("2 / 4", "2"),
            ("6/8", "6"),
            ("6/4", "6"),
        ],
    )
    def test_time_signatures(self, value, beats):
        assert read(time_signature=value).time_signature == beats

    @pytest.mark.parametrize("value", [5, "5/4", "3/8", "four", "4/", 1])
    def test_what_is_no_time_signature(self, value):
        with pytest.raises(InvalidFieldError, match=r"time_signature: .* allowed: 2, 3, 4 or 6"):
            read(time_signature=value)

    @pytest.mark.parametrize(
        ("value", "key"),
        [
            ("C major", "C major"),
            ("c# MINOR", "C# minor"),
            ("F♯ minor", "F# minor"),
            (" b♭  Major ", "Bb major"),
            ("bb minor", "Bb minor"),
            ("b minor", "B minor"),
            ("Am", "A minor"),
            ("c♯m", "C# minor"),
            ("bbm", "Bb minor"),
        ],
    )
    def test_keys(self, value, key):
        assert read(key_scale=value).key_scale == key

    @pytest.mark.parametrize("name", ["key_scale", "time_signature", "bpm", "audio_duration"])
    def test_what_our_answers_say_for_undecided_can_be_sent_back(self, name):
        assert getattr(read(**{name: "N/A"}), name) is None

    @pytest.mark.parametrize("value", ["H major", "CM", "C m", "Am7", "C dorian", "C##  major", 7])
    def test_what_is_no_key(self, value):
        with pytest.raises(InvalidFieldError, match=r"key_scale: .* allowed: a key like 'C major'"):
            read(key_scale=value)

    def test_languages(self):
        for code in LANGUAGES:
            assert read(vocal_language=code.upper()).vocal_language == code

    @pytest.mark.parametrize(
        ("value", "seeds"),
        [
            (42, (42,)),
            ("42", (42,)),
            (0, (0,)),
            (MAX_SEED, (MAX_SEED,)),
            ("1,2, 3", (1, 2, 3)),
            ([1, "2", -1], (1, 2, -1)),
            ('[1, "2", -1]', (1, 2, -1)),
            (-1, (-1,)),
            (None, (-1,)),
        ],
    )
    def test_seeds(self, value, seeds):
        assert read(seed=value).seed == seeds

    @pytest.mark.parametrize(
        "value", [-2, MAX_SEED + 1, "1,x", "1,,2", [], "[]", "[1", [[1]], [1] * 9, "1,2,3,4,5,6,7,8,9"]
    )
    def test_what_is_no_seed(self, value):
        with pytest.raises(InvalidFieldError, match=r"seed: .* allowed: -1 \(random\)"):
            read(seed=value)

    @pytest.mark.parametrize("value", ["0.9,0.5, 0", [0.9, "0.5", 0], " [0.9, 0.5, 0]"])
    def test_timesteps(self, value):
        assert read(timesteps=value).timesteps == (0.9, 0.5, 0.0)

    @pytest.mark.parametrize("value", ["1.5", "-0.1,0", [0.5] * 201, "0.5,nan", "[0.5", 5])
    def test_what_are_no_timesteps(self, value):
        with pytest.raises(InvalidFieldError, match="timesteps: "):
            read(timesteps=value)

    @pytest.mark.parametrize(
        "value",
        [
            ["drums", "Backing Vocals"],
            "drums, backing_vocals",
            "drums|backing-vocals",
            '["drums", "backing vocals"]',
        ],
    )
    def test_tracks(self, value):
        assert read(track_classes=value).track_classes == ("drums", "backing_vocals")

    @pytest.mark.parametrize("value", ["banjo", ["drums", "banjo"], '["drums"', '["drums", 1]', 5, {}])
    def test_what_are_no_tracks(self, value):
        with pytest.raises(InvalidFieldError, match=r"track_classes: .* allowed: one or more of woodwinds, "):
            read(track_classes=value)

    def test_numbers_are_texts_too(self):
        assert read(prompt=1984).prompt == "1984"

    def test_words_of_closed_lists_in_any_letter_case(self):
        task = read(audio_format="WAV", infer_method="SDE", task_type="Cover")
        assert (task.audio_format, task.infer_method, task.task_type) == ("wav", "sde", "cover")

    def test_all_problems_are_told_the_first_by_field(self):
        with pytest.raises(InvalidFieldError) as caught:
            read(bpm="fast", shift=9, lyrics=[])
        assert caught.value.field == "lyrics"
        for name in ("bpm: 'fast'", "shift: 9", "lyrics: "):
            assert name in str(caught.value)


class TestWhatIsNotUsed:
    @pytest.mark.parametrize("place", ["top", "param_obj"])
    @pytest.mark.parametrize("value", ["wav", "MP3", "ogg"])
    def test_format_with_the_name_of_an_audio_format(self, place, value):
        body = {"format": value} if place == "top" else {place: json.dumps({"format": value})}
        task, (warning,) = read_task(body)
        assert task.use_format is False
        assert warning.startswith("format: ")
        assert "audio_format" in warning

    def test_format_as_the_boolean_that_it_is(self):
        assert read(format="true").use_format is True

    def test_format_with_something_else(self):
        with pytest.raises(InvalidFieldError, match=r"^use_format: 'x' "):
            read(format="x")

    def test_unknown_fields_are_said_wherever_they_are(self):
        assert warnings_of(promt="x", metas={"genres": "pop"}) == (
            "'promt': there is no such field; it is ignored. Did you mean prompt?",
            "'genres': there is no such field; it is ignored",
        )

    def test_not_all_of_very_many(self):
        warnings = warnings_of(**{f"x{index}": 1 for index in range(500)})
        assert len(warnings) == 11
        assert warnings[-1] == "490 more unknown fields are ignored"

    def test_strange_names_do_no_harm(self):
        (warning,) = warnings_of(**{"\ud800\n" + "x" * 1_000: 1})
        assert warning.startswith(r"'\ud800\nxxx")
        assert len(warning) < 200

    def test_the_key_is_no_unknown_field(self):
        assert warnings_of(ai_token="k", wave="") == ()


class TestQuery:
    @pytest.mark.parametrize("name", ["task_id_list", "task_ids", "task_id"])
    @pytest.mark.parametrize("value", [["a", "b"], '["a", "b"]', ' ["a","b"]'])
    def test_lists(self, name, value):
        assert read_query({name: value}).task_id_list == ("a", "b")

    def test_one_id(self):
        assert read_query({"task_id": "a"}).task_id_list == ("a",)

    @pytest.mark.parametrize("body", [{"task_id_list": []}, {"task_ids": "[]"}])
    def test_an_empty_list(self, body):
        assert read_query(body).task_id_list == ()

    @pytest.mark.parametrize(
        "body", [{}, {"task_id_list": None}, {"task_id": ""}, {"ids": ["a"]}, {"ai_token": "k"}]
    )
    def test_no_list(self, body):
        with pytest.raises(InvalidFieldError, match="task_id_list: nothing was sent; send "):
            read_query(body)

    @pytest.mark.parametrize("value", [5, {"a": 1}, [1], [["a"]], '["a"', ["\ud800"], True, ["a"] * 1001])
    def test_what_are_no_ids(self, value):
        with pytest.raises(
            InvalidFieldError, match=r"task_id_list: .* allowed: a list of at most 1000 task ids"
        ):
            read_query({"task_id_list": value})
