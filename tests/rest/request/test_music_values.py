from typing import Any

import pytest

from acestep.domain.song import SongRequest
from acestep.errors import InvalidFieldError
from acestep.rest.request.schemas import GenerateTask, read_task
from tests.rest.conftest import NO_PLANNER, TURBO
from tests.rest.request.accepting import accept

UNDECIDED = (
    -1,
    0,
    "-1",
    "0",
    -1.0,
    "0.0",
    "auto",
    "Auto",
    "automatic",
    "n/a",
    "N/A",
    "none",
    "None",
    "null",
    "",
    " ",
)


def read(**fields: Any) -> GenerateTask:
    task, warnings = read_task(fields)
    assert warnings == ()
    return task


@pytest.mark.parametrize("value", UNDECIDED)
@pytest.mark.parametrize("name", ["bpm", "duration", "time_signature", "key_scale", "repainting_end"])
def test_what_is_not_decided(name: str, value: object):
    assert read(prompt="pop", **{name: value}) == GenerateTask(prompt="pop")


@pytest.mark.parametrize("value", UNDECIDED)
def test_top_p_and_top_k_that_are_not_decided(value: object):
    task = read(lm_top_p=value, lm_top_k=value)
    assert (task.lm_top_p, task.lm_top_k) == (0.9, None)


@pytest.mark.parametrize("value", ["auto", "n/a", "NONE", "null", "undefined", ""])
@pytest.mark.parametrize(
    "name",
    [
        "vocal_language",
        "seed",
        "model",
        "src_audio_path",
        "guidance_scale",
        "inference_steps",
        "audio_format",
    ],
)
def test_words_for_not_decided_wherever_a_value_is_chosen(name: str, value: str):
    assert read(prompt="pop", **{name: value}) == GenerateTask(prompt="pop")


@pytest.mark.parametrize("name", ["prompt", "lyrics", "lm_negative_prompt", "sample_query"])
def test_such_words_are_words_in_free_text(name: str):
    assert getattr(read(**{name: "none"}), name) == "none"


def test_a_value_further_on_counts_where_the_first_is_not_decided():
    assert read(key_scale="auto", key="A minor", bpm="n/a", metas={"bpm": 90}).bpm == 90
    assert read(key_scale="auto", key="A minor").key_scale == "A minor"


@pytest.mark.parametrize("value", [-2, "-5", 5, "fast", "n / a"])
def test_no_tempo(value: object):
    with pytest.raises(InvalidFieldError, match=r"bpm: .* allowed: a whole number from 30 to 300"):
        read(bpm=value)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("B-flat Major", "Bb major"),
        ("C sharp minor", "C# minor"),
        ("F#min", "F# minor"),
        ("C", "C major"),
        ("bb", "Bb major"),
        ("b", "B major"),
        ("E flat", "Eb major"),
        ("G-Sharp min", "G# minor"),
        ("Dmaj", "D major"),
        ("C:maj", "C major"),
        ("a_minor", "A minor"),
        ("A♭maj", "Ab major"),
        ("F＃ minor", "F# minor"),
        ("C大调", "C major"),
        ("F# マイナー", "F# minor"),
    ],
)
def test_spelled_keys(value: str, key: str):
    assert read(key_scale=value).key_scale == key


NOTES = {"ハ": "C", "ニ": "D", "ホ": "E", "ヘ": "F", "ト": "G", "イ": "A", "ロ": "B"}


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize(("sign", "written"), [("", ""), ("嬰", "#"), ("変", "b"), ("變", "b")])
@pytest.mark.parametrize(("mode", "scale"), [("長調", "major"), ("短調", "minor")])
def test_japanese_keys(note: str, sign: str, written: str, mode: str, scale: str):
    assert read(key_scale=f"{sign}{note}{mode}").key_scale == f"{NOTES[note]}{written} {scale}"


@pytest.mark.parametrize("value", ["ﾊ長調", " 嬰ハ 短調 "])
def test_japanese_keys_in_other_widths(value: str):
    assert read(key_scale=value).key_scale in ("C major", "C# minor")


@pytest.mark.parametrize(
    "value", ["チ長調", "嬰長調", "A-", "CM", "C flatly", "C sharp flat", "sharp", "C major major"]
)
def test_no_key(value: str):
    with pytest.raises(InvalidFieldError, match=r"key_scale: .* allowed: a key like 'C major'"):
        read(key_scale=value)


@pytest.mark.parametrize(
    ("value", "language"),
    [
        ("en-US", "en"),
        ("ja-JP", "ja"),
        ("ja_JP.UTF-8", "ja"),
        ("zh-Hant-TW", "zh"),
        ("pt_BR", "pt"),
        ("zh-yue", "yue"),
        ("nb-NO", "no"),
        ("unknown", "unknown"),
    ],
)
def test_languages_with_a_region(value: str, language: str):
    assert read(vocal_language=value).vocal_language == language


@pytest.mark.parametrize("value", ["xx-US", "english", "en--", "e", "en-US" + "-x" * 50])
def test_no_language(value: str):
    with pytest.raises(InvalidFieldError, match="vocal_language: "):
        read(vocal_language=value)


@pytest.mark.parametrize(("value", "share"), [(1.5, 1.0), (100, 1.0), ("2", 1.0), (1, 1.0), (0.5, 0.5)])
def test_top_p_over_one_is_off(value: object, share: float):
    assert read(lm_top_p=value).lm_top_p == share


def test_what_is_understood_brings_no_warning():
    sent = {"prompt": "pop", "bpm": -1, "duration": "auto", "key": "B-flat Major", "language": "en-US"}
    request = accept(sent, (TURBO,), NO_PLANNER)
    assert isinstance(request, SongRequest)
    assert (request.key_scale, request.language, request.bpm) == ("Bb major", "en", None)
    assert request.warnings == ()
