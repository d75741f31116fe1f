import base64
from typing import Any

import pytest

from acestep.errors import InvalidFieldError
from acestep.rest.dialects.chat_fields import InputAudio
from acestep.rest.dialects.chat_input import ChatSong, decode, read_chat, song_of
from tests.rest.conftest import NO_PLANNER, PLANNER

SENTENCE = "A calm piano piece"
LYRICS = "[Verse]\nla la"


def chat(text: Any, planner: bool = True, **fields: Any) -> ChatSong:
    messages = [{"role": "user", "content": text}]
    return song_of(read_chat({"messages": messages, **fields}), PLANNER if planner else NO_PLANNER)


def audio_part(data: str = "QUJD", kind: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}


class TestWhatIsSaid:
    def test_tags(self):
        song = chat("<prompt>pop</prompt><lyrics>la</lyrics>")
        assert song.fields == {"prompt": "pop", "lyrics": "la", "batch_size": 1, "lm_cfg_scale": 2.0}
        assert song.warnings == ()

    def test_text_beside_the_tags_is_told(self):
        song = chat("Hello <prompt>pop</prompt>")
        assert (song.fields["prompt"], song.warnings) == (
            "pop",
            ("messages: the text beside the tags is not used",),
        )

    def test_lyrics(self):
        song = chat(LYRICS)
        assert song.fields["lyrics"] == LYRICS
        assert "prompt" not in song.fields

    def test_a_sentence_is_for_the_planner(self):
        song = chat(SENTENCE)
        assert (song.fields["sample_query"], song.warnings) == (SENTENCE, ())
        assert "prompt" not in song.fields

    def test_without_a_planner_it_is_the_caption_and_that_is_told(self):
        song = chat(SENTENCE, planner=False)
        assert song.fields["prompt"] == SENTENCE
        assert "sample_query" not in song.fields
        (warning,) = song.warnings
        assert "the sentence is the caption" in warning

    @pytest.mark.parametrize(
        "fields",
        [
            {"sample_mode": False},
            {"use_format": True},
            {"lyrics": LYRICS},
            {"task_type": "cover"},
        ],
    )
    @pytest.mark.parametrize("planner", [True, False])
    def test_a_sentence_that_is_a_caption_anyway(self, fields: dict[str, Any], planner: bool):
        song = chat(SENTENCE, planner, **fields)
        assert song.fields.items() >= {"prompt": SENTENCE, **fields}.items()
        assert song.warnings == ()

    def test_who_insists_on_a_planner_is_not_given_less(self):
        song = chat(SENTENCE, planner=False, sample_mode=True)
        assert song.fields.items() >= {"sample_query": SENTENCE, "sample_mode": True}.items()

    def test_lyrics_as_a_field_make_many_short_lines_a_caption(self):
        song = chat("pop\nfast\nloud\nhappy", lyrics=LYRICS)
        assert song.fields.items() >= {"prompt": "pop\nfast\nloud\nhappy", "lyrics": LYRICS}.items()

    def test_fields_win_over_the_message(self):
        song = chat("<prompt>pop</prompt><lyrics>la</lyrics>", prompt="rock", lyrics="lo")
        assert song.fields.items() >= {"prompt": "rock", "lyrics": "lo"}.items()
        assert [warning.partition(":")[0] for warning in song.warnings] == ["prompt", "lyrics"]

    @pytest.mark.parametrize("value", [[], {}, False])
    def test_a_field_that_is_no_text_is_refused_whatever_the_message_says(self, value: Any):
        with pytest.raises(InvalidFieldError, match=r"prompt: .* cannot be used; allowed: text"):
            chat("<prompt>pop</prompt>", prompt=value)

    def test_the_last_user_message_alone_counts(self):
        messages = [
            {"role": "system", "content": "You are a DJ"},
            {"role": "user", "content": LYRICS},
            {"role": "assistant", "content": None, "audio": {"id": "x"}},
            {"role": "user", "content": [{"type": "text", "text": "<prompt>pop"}, text_part("</prompt>")]},
            {"role": "tool", "content": "…", "tool_call_id": "1"},
        ]
        song = song_of(read_chat({"messages": messages}), NO_PLANNER)
        assert song.fields["prompt"] == "pop"
        assert "lyrics" not in song.fields

    @pytest.mark.parametrize(
        "text", ["a" * 100_001, [{"type": "text", "text": "a b " * 20_000}] * 2, "<prompt>" * 12_501]
    )
    def test_a_message_that_is_too_long(self, text: Any):
        with pytest.raises(InvalidFieldError, match=r"messages: .* at most 100000 characters"):
            chat(text)

    def test_long_messages_before_the_last_are_not_read(self):
        messages = [{"role": "user", "content": "a" * 200_000}, {"role": "user", "content": SENTENCE}]
        assert song_of(read_chat({"messages": messages}), NO_PLANNER).fields["prompt"] == SENTENCE

    @pytest.mark.parametrize("text", ["", "  ", [], "<prompt></prompt>"])
    def test_nothing(self, text: Any):
        with pytest.raises(InvalidFieldError, match=r"messages: ''.*description of the song"):
            chat(text)

    def test_nothing_but_fields(self):
        assert chat("", audio_codes="1 2").fields["audio_code_string"] == "1 2"


class TestInstrumental:
    def test_the_planner_is_told(self):
        song = chat(SENTENCE, audio_config={"instrumental": True})
        assert song.fields.items() >= {"sample_query": SENTENCE, "lyrics": "[Instrumental]"}.items()

    def test_many_short_lines_are_a_description_then(self):
        song = chat("pop\nfast\nloud\nhappy", planner=False, audio_config={"instrumental": True})
        assert (
            song.fields.items()
            >= {
                "prompt": "pop\nfast\nloud\nhappy",
                "lyrics": "[Instrumental]",
            }.items()
        )

    def test_lyrics_are_given_up_and_that_is_told(self):
        song = chat("<prompt>pop</prompt><lyrics>la</lyrics>", audio_config={"instrumental": True})
        assert song.fields["lyrics"] == "[Instrumental]"
        assert song.warnings == ("lyrics: instrumental=true was sent as well; they are not used",)


class TestFields:
    def test_audio_config(self):
        config = {"duration": 30, "format": "flac", "bpm": 90, "key_scale": "C major", "time_signature": "3"}
        fields = chat(LYRICS, audio_config={**config, "vocal_language": "ja"}).fields
        assert fields.pop("audio_format") == config.pop("format")
        assert fields.items() >= {"audio_duration": 30, "bpm": 90, "vocal_language": "ja"}.items()
        assert fields.items() >= {"key_scale": "C major", "time_signature": "3"}.items()

    def test_those_of_openai(self):
        song = chat(
            LYRICS,
            model="acestep/x",
            temperature=0.5,
            top_p=0.8,
            top_k=3,
            n=3,
            seed="1,2",
            modalities=["text", "audio"],
            audio={"format": "wav"},
        )
        assert song.fields == {
            "lyrics": LYRICS,
            "model": "acestep/x",
            "lm_temperature": 0.5,
            "lm_top_p": 0.8,
            "lm_top_k": 3,
            "lm_cfg_scale": 2.0,
            "batch_size": 3,
            "seed": "1,2",
            "audio_format": "wav",
        }
        assert song.warnings == ()

    def test_those_of_release_task_go_through(self):
        sent: dict[str, Any] = {
            "inference_steps": 4,
            "lm_temperature": 1.1,
            "batch_size": 2,
            "bpm": 90,
            "audio_cover_strength": 0.5,
        }
        song = chat(LYRICS, temperature=0.5, n=1, audio_config={"bpm": 80}, **sent)
        assert song.fields.items() >= sent.items()

    def test_null_is_not_sent(self):
        assert chat(LYRICS, batch_size=None, n=None, audio_config=None, stop=None).fields["batch_size"] == 1

    def test_what_means_nothing_here_is_told(self):
        song = chat(
            LYRICS,
            max_tokens=10,
            max_completion_tokens=10,
            stop=["x"],
            audio={"voice": "alloy", "format": "mp3"},
            use_cot_metas=False,
            modalities=["text"],
        )
        assert [warning.partition(":")[0] for warning in song.warnings] == [
            "max_tokens",
            "max_completion_tokens",
            "stop",
            "audio.voice",
            "use_cot_metas",
            "modalities",
        ]

    @pytest.mark.parametrize(
        ("body", "complaint"),
        [
            ({}, "messages: .* required"),
            ({"messages": []}, "messages: "),
            ({"messages": "hi"}, "messages: 'hi'"),
            ({"messages": ["hi"]}, r"messages\[0\]: 'hi'"),
            ({"messages": [{"role": "user"}]}, r"messages\[0\]\.content: .* required"),
            ({"messages": [{"content": "x"}]}, r"messages\[0\]\.role: .* required"),
            ({"messages": [{"role": "user", "content": 5}]}, r"messages\[0\]\.content: 5 .*list of parts"),
            (
                {"messages": [{"role": "user", "content": [{"type": ["text"]}]}]},
                r"messages\[0\]\.content\[0\]: .*text or input_audio",
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
                r"messages\[0\]\.content\[0\]: .*text or input_audio",
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
                r"messages\[0\]\.content\[0\]\.input_audio\.data: .* required",
            ),
            ({"messages": [{"role": "system", "content": "x"}]}, "whose role is user"),
            ({"messages": [{"role": "user", "content": "x"}], "top_p": -3}, "lm_top_p: -3.0 .*from 0 to 1"),
            ({"messages": [{"role": "user", "content": "x"}], "stream": "maybe"}, "stream: 'maybe'"),
            ({"messages": [{"role": "user", "content": "x"}], "audio_config": 5}, "audio_config: 5"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, body: dict[str, Any], complaint: str):
        with pytest.raises(InvalidFieldError, match=complaint):
            read_chat(body)


class TestAudio:
    @pytest.mark.parametrize(
        ("task", "count", "kinds"),
        [
            ("cover", 1, ["src_audio"]),
            (" Repaint", 2, ["src_audio", "reference_audio"]),
            (None, 1, ["reference_audio"]),
            ("text2music", 0, []),
        ],
    )
    def test_the_task_says_what_it_is(self, task: str | None, count: int, kinds: list[str]):
        song = chat([text_part("pop"), *[audio_part()] * count], task_type=task)
        assert list(song.audio) == kinds

    @pytest.mark.parametrize(("task", "count"), [("cover", 3), ("text2music", 2)])
    def test_too_many(self, task: str, count: int):
        with pytest.raises(InvalidFieldError, match=f"{count} audio parts"):
            chat([audio_part()] * count, task_type=task)

    @pytest.mark.parametrize(
        "sent",
        [
            base64.b64encode(b"\xff\xfe\xfd RIFF").decode(),
            base64.b64encode(b"\xff\xfe\xfd RIFF").decode().rstrip("="),
            base64.urlsafe_b64encode(b"\xff\xfe\xfd RIFF").decode(),
            base64.encodebytes(b"\xff\xfe\xfd RIFF").decode(),
            "data:audio/wav;base64," + base64.b64encode(b"\xff\xfe\xfd RIFF").decode(),
        ],
    )
    def test_spellings_of_base64(self, sent: str):
        upload = decode({"src_audio": InputAudio(data=sent, format="wav")})["src_audio"]
        assert upload.file.read() == b"\xff\xfe\xfd RIFF"
        assert (upload.filename, upload.size) == ("src_audio.wav", 8)

    @pytest.mark.parametrize("sent", ["not base64!", "QUJDR", "data:audio/wav;base64,ä", "https://x/y.wav"])
    def test_what_is_not_base64_is_refused(self, sent: str):
        with pytest.raises(
            InvalidFieldError, match=r"messages: .* as src_audio; allowed: a whole audio file"
        ):
            decode({"src_audio": InputAudio(data=sent)})


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
