"""The Japanese page about settings says what the English one does."""

from __future__ import annotations

import re

import pytest

from acestep.settings.docs import HEADINGS
from acestep.settings.settings import Settings, documented, variable
from scripts.settings_ja import PAGE, render, translated, words

TEXTS = words()
NAMES = {variable(field): field for field in Settings.model_fields}


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", text))


def names(text: str) -> set[str]:
    """Variables, routes and what stands as code."""
    return set(re.findall(r"(?:ACESTEP|MAX)_[A-Z_]+|`[^`]+`|/v1/[a-z/]+", text))


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == render(), "run `just docs`"


def test_every_setting_has_its_text_and_every_text_its_setting():
    assert set(TEXTS["settings"]) == set(NAMES)
    assert set(TEXTS["headings"]) == set(HEADINGS)
    page = render()
    assert all(page.count(f"| `{name}` |") == 1 for name in NAMES)
    assert all(len(line.split(" | ")) == 4 for line in page.splitlines() if line.startswith("| `"))


@pytest.mark.parametrize("name", NAMES)
def test_a_text_says_what_the_english_one_does(name: str):
    english, japanese = documented(NAMES[name])["meaning"], TEXTS["settings"][name]
    assert re.search(r"[ぁ-んァ-ン]", japanese)
    assert numbers(english) <= numbers(japanese)
    assert names(english) <= names(japanese)
    assert japanese.endswith(("。", "す", "る"))
    # One spelling a word.
    assert not re.search(
        r"サーバ(?!ー)|フォルダ(?!ー)|ユーザ(?!ー)|メモリー|ブラウザ(?!ー)|下さい|出来", japanese
    )


def test_no_phrase_is_translated_that_no_setting_has():
    said = {
        documented(field)[key] for field in Settings.model_fields for key in ("shown", "allowed", "pending")
    }
    assert set(TEXTS["words"]) <= said


@pytest.mark.parametrize(
    ("english", "japanese"),
    [
        ("1 or more s", "1 秒以上"),
        ("1 to 64 channels", "1 ～ 64 チャンネル"),
        ("1 or more MiB", "1 MiB 以上"),
        ("0 to 65535", "0 ～ 65535"),
        ("off, auto", "off、auto"),
        ("2 or 0", "2、0"),
    ],
)
def test_ranges_and_lists(english: str, japanese: str):
    assert translated(english, TEXTS) == japanese


def test_a_phrase_without_a_text_is_not_left_in_english():
    with pytest.raises(KeyError, match="a new kind of value"):
        translated("a new kind of value", TEXTS)
