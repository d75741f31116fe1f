"""A field means the same in every dialect, however it is spelled and wherever it stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acestep.domain.song import SongRequest
from acestep.errors import InvalidFieldError, ModelUnavailableError, PlannerUnavailableError
from acestep.rest.dialects.chat_fields import ChatRequest
from acestep.rest.dialects.chat_input import decode, read_chat, song_of
from acestep.rest.dialects.generations import AudioGeneration, read_generation
from acestep.rest.request.sounds import Sound
from tests.rest.conftest import BASE, NO_PLANNER, PLANNER, TURBO
from tests.rest.request.accepting import accept
from tests.rest.values import FIELDS

SENTENCE = "a calm piano piece"
SONG = Sound(Path("/uploads/song.wav"), "song.wav", 20.0)
PART = {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}

Ask = Callable[[Mapping[str, Any], bool], SongRequest]
"""Asks for a song with these fields, and with audio or without."""


def by_chat(fields: Mapping[str, Any], audio: bool) -> SongRequest:
    content = [{"type": "text", "text": SENTENCE}, *([PART] if audio else [])]
    chat = read_chat({"messages": [{"role": "user", "content": content}], "n": 1, **fields})
    song = song_of(chat, PLANNER)
    sounds = dict.fromkeys(song.audio, SONG)
    return accept(song.fields, (TURBO, BASE), PLANNER, sounds=sounds)


def by_generation(fields: Mapping[str, Any], audio: bool) -> SongRequest:
    found, _, _ = read_generation({"input": SENTENCE, **fields}, prefers_async=True)
    return accept(found, (TURBO, BASE), PLANNER, sounds=uploaded(audio))


def by_release_task(fields: Mapping[str, Any], audio: bool) -> SongRequest:
    return accept(
        {"prompt": SENTENCE, "batch_size": 1, **fields}, (TURBO, BASE), PLANNER, sounds=uploaded(audio)
    )


def uploaded(audio: bool) -> dict[str, Sound]:
    return {"src_audio": SONG} if audio else {}


DIALECTS = {"chat": by_chat, "generation": by_generation, "release_task": by_release_task}
PLACES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "top level": lambda fields: fields,
    "param_obj": lambda fields: {"param_obj": fields},
    "param_obj as text": lambda fields: {"param_obj": json.dumps(fields)},
    **{
        name: lambda fields, name=name: {name: fields}  # type: ignore[misc]
        for name in ("metas", "meta", "metadata", "user_metadata", "userMetadata")
    },
    "audio_config": lambda fields: {"audio_config": fields},
    "metas in audio_config": lambda fields: {"audio_config": {"metas": fields}},
}
PAIRS = [
    pytest.param(ask, place, id=f"{dialect}, {name}")
    for dialect, ask in DIALECTS.items()
    for name, place in PLACES.items()
    if dialect == "chat" or "audio_config" not in name
]
SPELLED_TASKS = [
    ("cover", "cover"),
    ("cover", "COVER"),
    ("cover", "Cover"),
    ("cover", " cover "),
    ("repaint", "Repaint"),
    ("lego", " LEGO"),
]
EVERYWHERE = pytest.mark.parametrize(("ask", "place"), PAIRS)


@EVERYWHERE
@pytest.mark.parametrize("name", ["task_type", "taskType"])
class TestTaskType:
    def test_audio_is_its_source_and_a_sentence_its_caption(self, ask: Ask, place: Any, name: str):
        for task, spelled in SPELLED_TASKS:
            request = ask({**place({name: spelled}), "model": BASE.name, "track_name": "drums"}, True)
            assert request.task_type == task, spelled
            assert (request.task.source, request.task.reference) == ("/uploads/song.wav", ""), spelled
            assert (request.caption, request.planner.sample_query) == (SENTENCE, ""), spelled

    @pytest.mark.parametrize("spelled", ["text2music", "TEXT2MUSIC"])
    def test_without_audio_it_is_a_song_from_words(self, ask: Ask, place: Any, name: str, spelled: str):
        request = ask(place({name: spelled}), False)
        assert (request.task_type, request.task.source) == ("text2music", "")
        by_planner = ask is by_chat
        assert request.caption == ("" if by_planner else SENTENCE)
        assert request.planner.sample_query == (SENTENCE if by_planner else "")


@EVERYWHERE
class TestOtherFields:
    def test_are_read_alike(self, ask: Ask, place: Any):
        cases: list[tuple[dict[str, Any], Callable[[SongRequest], Any], Any]] = [
            ({"thinking": "TRUE"}, lambda request: request.planner.thinking, True),
            ({"use_format": 1}, lambda request: request.planner.use_format, True),
            ({"useFormat": "Yes"}, lambda request: request.planner.use_format, True),
            ({"seed": "7"}, lambda request: request.seeds, (7,)),
            ({"seed": 7, "useRandomSeed": "false"}, lambda request: request.seeds, (7,)),
            ({"duration": "30"}, lambda request: request.duration, 30.0),
            ({"audioDuration": 30}, lambda request: request.duration, 30.0),
            ({"keyScale": "f# MINOR"}, lambda request: request.key_scale, "F# minor"),
            ({"vocalLanguage": "JA"}, lambda request: request.language, "ja"),
            ({"lm_temperature": "0.5"}, lambda request: request.planner.temperature, 0.5),
            ({"lm_top_k": 7}, lambda request: request.planner.top_k, 7),
            ({"lm_top_p": 0.5}, lambda request: request.planner.top_p, 0.5),
            ({"lm_cfg_scale": 3}, lambda request: request.planner.guidance_scale, 3.0),
            ({"lyrics": "[Verse]\nla"}, lambda request: request.lyrics, "[Verse]\nla"),
            ({"audio_format": "FLAC"}, lambda request: request.audio_format, "flac"),
            ({"modelName": BASE.name}, lambda request: request.model, BASE.name),
        ]
        for sent, pick, right in cases:
            assert pick(ask(place(sent), False)) == right, sent

    def test_a_sentence_for_the_planner_is_kept(self, ask: Ask, place: Any):
        for name in ("sampleQuery", "desc"):
            assert ask(place({name: "a waltz"}), False).planner.sample_query == "a waltz", name

    def test_that_make_a_sentence_a_caption(self, ask: Ask, place: Any):
        for sent in ({"sampleMode": "off"}, {"use_format": True}, {"lyrics": "la"}):
            request = ask(place(sent), False)
            assert (request.caption, request.planner.sample_query) == (SENTENCE, ""), sent

    def test_that_cannot_be_read_are_refused(self, ask: Ask, place: Any):
        for name, value in (("task_type", "remix"), ("bpm", "fast"), ("thinking", "perhaps")):
            with pytest.raises(InvalidFieldError, match=f"{name}: '{value}' cannot be used"):
                ask(place({name: value}), False)


@pytest.mark.parametrize("ask", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("place", ["top level", "param_obj", "metas"])
class TestFormat:
    """It is an alias of use_format; people send audio formats there."""

    def test_as_a_flag(self, ask: Ask, place: str):
        assert ask(PLACES[place]({"format": "true"}), False).planner.use_format is True

    def test_as_an_audio_format_it_is_not_used(self, ask: Ask, place: str):
        request = ask(PLACES[place]({"format": "FLAC"}), False)
        assert (request.planner.use_format, request.audio_format) == (False, "mp3")


def test_the_format_in_audio_config_is_the_audio_format():
    assert by_chat({"audio_config": {"format": "FLAC"}}, False).audio_format == "flac"


NESTED = {"lm_temperature": 0.5, "batch_size": 3, "audio_format": "wav"}
OWN = {"temperature": 1.5, "n": 2, "audio": {"format": "flac"}}


class TestOwnNames:
    """What a dialect calls otherwise than /release_task: `n`, `temperature`, `format` and the like."""

    @pytest.mark.parametrize("place", ["top level", "audio_config"])
    def test_a_field_wins_over_them(self, place: str):
        request = by_chat({**OWN, **PLACES[place](NESTED)}, False)
        assert (request.planner.temperature, request.batch_size, request.audio_format) == (0.5, 3, "wav")

    @pytest.mark.parametrize("place", ["param_obj", "metas", "metas in audio_config"])
    def test_they_win_over_nested_fields(self, place: str):
        request = by_chat({**OWN, **PLACES[place](NESTED)}, False)
        assert (request.planner.temperature, request.batch_size, request.audio_format) == (1.5, 2, "flac")

    @pytest.mark.parametrize("place", ["param_obj", "metas", "metas in audio_config"])
    def test_where_they_are_not_sent_nested_fields_count(self, place: str):
        request = by_chat({"n": None, **PLACES[place](NESTED)}, False)
        assert (request.planner.temperature, request.batch_size, request.audio_format) == (0.5, 3, "wav")

    def test_of_a_generation(self):
        own = {"n": 2, "response_format": "flac"}
        nested = by_generation({"metas": {"batch_size": 3, "audio_format": "wav"}, **own}, False)
        assert (nested.batch_size, nested.audio_format) == (2, "flac")
        beside = by_generation({"batch_size": 3, "audio_format": "wav", **own}, False)
        assert (beside.batch_size, beside.audio_format) == (3, "wav")


@pytest.mark.parametrize("sent", [{"caption": "rock"}, {"prompt": "rock"}])
def test_two_captions_of_a_generation_are_refused(sent: dict[str, str]):
    with pytest.raises(InvalidFieldError, match="input: 'pop' cannot be used; allowed: the same as prompt"):
        read_generation({"input": "pop", **sent}, prefers_async=True)


def test_a_chat_sings_nothing_where_it_is_instrumental_and_says_so_of_lyrics_anywhere():
    fields = {"audio_config": {"instrumental": True}, "metas": {"lyrics": "la"}}
    chat = read_chat({"messages": [{"role": "user", "content": "pop"}], **fields})
    song = song_of(chat, PLANNER)
    assert song.fields["lyrics"] == "[Instrumental]"
    assert song.warnings == ("lyrics: instrumental=true was sent as well; they are not used",)


@pytest.mark.parametrize("place", ["param_obj", "metas"])
def test_an_answer_of_one_song_is_not_asked_for_several_anywhere(place: str):
    with pytest.raises(InvalidFieldError, match="n: 2 cannot be used; allowed: 1"):
        read_generation({"prompt": "pop", place: {"batch_size": 2}}, prefers_async=False)


REFUSALS = (InvalidFieldError, ModelUnavailableError, PlannerUnavailableError)
SCALARS: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20)
)
ANYTHING = st.recursive(
    SCALARS | st.sampled_from(["<prompt>", "[Verse]\nla", "data:audio/wav;base64,QUJD", "user", "text", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "format", "data", "instrumental", *FIELDS]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
ANY_PART = st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=50)}) | (
    st.fixed_dictionaries(
        {"type": st.just("input_audio"), "input_audio": st.fixed_dictionaries({"data": st.text(max_size=9)})}
    )
)
CONTENT = st.text(max_size=50) | st.lists(ANY_PART, max_size=3) | ANYTHING
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": CONTENT}), max_size=2)
NAMES = [*ChatRequest.model_fields, *AudioGeneration.model_fields, "async", *FIELDS]
BODIES = st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=4)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(BODIES, MESSAGES | ANYTHING, st.booleans())
def test_any_chat_is_read_or_refused(body: dict[str, Any], messages: Any, has_planner: bool):
    planner = PLANNER if has_planner else NO_PLANNER
    try:
        song = song_of(read_chat({**body, "messages": messages}), planner)
        decode(song.audio)
        request = accept(song.fields, (TURBO, BASE), planner)
    except REFUSALS as refusal:
        assert str(refusal)
    else:
        assert request.batch_size == len(request.seeds)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(BODIES, st.booleans())
def test_any_generation_is_read_or_refused(body: dict[str, Any], prefers_async: bool):
    try:
        fields, run_async, _ = read_generation(body, prefers_async)
        request = accept(fields, (TURBO, BASE), NO_PLANNER)
    except REFUSALS as refusal:
        assert str(refusal)
    else:
        assert run_async or request.batch_size == 1
