"""The examples, as far as a program can judge them."""

import random
import re
import unicodedata
from collections import Counter

import pytest

from acestep.domain.song import LANGUAGES
from acestep.examples import CustomExample, Examples, SimpleExample, load_custom, load_simple

CUSTOM, SIMPLE = load_custom(), load_simple()
SUNG = [example for example in CUSTOM if example.lyrics != "[Instrumental]"]
# The scripts that must occur in a text of a language, by the first word of Unicode's names of letters.
SCRIPTS = {
    "ru": {"CYRILLIC"},
    "uk": {"CYRILLIC"},
    "zh": {"CJK"},
    "yue": {"CJK"},
    "ja": {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK"},
    "ko": {"HANGUL"},
    "hi": {"DEVANAGARI"},
    "ar": {"ARABIC"},
}
LATIN = {"LATIN"}


def scripts(text: str) -> set[str]:
    return {unicodedata.name(letter).split()[0] for letter in text if letter.isalpha()}


def sung_lines(example: CustomExample) -> list[str]:
    return [line for line in example.lyrics.splitlines() if line and not line.startswith("[")]


def test_there_are_enough_in_enough_languages():
    assert min(len(SIMPLE), len(SUNG)) >= 50
    for languages in (Counter(e.language for e in SIMPLE), Counter(e.language for e in SUNG)):
        assert len(languages) >= 10
        assert set(languages) <= set(LANGUAGES)


def test_no_two_are_the_same():
    assert len({example.description for example in SIMPLE}) == len(SIMPLE)
    assert len({example.caption for example in CUSTOM}) == len(CUSTOM)
    assert len({example.lyrics for example in SUNG}) == len(SUNG)


@pytest.mark.parametrize("example", SUNG, ids=lambda example: example.caption[:20])
def test_songs(example: CustomExample):
    tags = [line for line in example.lyrics.splitlines() if line.startswith("[")]
    assert len(tags) >= 3
    assert all(re.fullmatch(r"\[[A-Z][A-Za-z0-9 -]+\]", tag) for tag in tags)
    assert scripts("\n".join(sung_lines(example))) <= SCRIPTS.get(example.language, LATIN)
    assert 50 <= example.bpm <= 200
    assert 60 <= example.duration <= 180
    # A sung line takes between three and nine seconds, breaks included.
    assert 3 <= example.duration / len(sung_lines(example)) <= 9
    assert example.lyrics == example.lyrics.strip()
    assert scripts(example.caption) <= LATIN


@pytest.mark.parametrize(
    "example", [e for e in CUSTOM if e not in SUNG], ids=lambda example: example.caption[:20]
)
def test_instrumentals(example: CustomExample):
    assert example.language == "unknown"
    assert 60 <= example.duration <= 180


@pytest.mark.parametrize("example", SIMPLE, ids=lambda example: example.description[:20])
def test_sentences(example: SimpleExample):
    assert 10 <= len(example.description) <= 120
    assert example.instrumental == (example.language == "unknown")
    assert scripts(example.description) <= SCRIPTS.get(example.language, LATIN)


def test_a_seeded_draw_repeats_itself_and_an_unseeded_one_does_not():
    first, second = Examples.load(random.Random(3)), Examples.load(random.Random(3))
    assert [first.draw_custom() for _ in range(9)] == [second.draw_custom() for _ in range(9)]
    unseeded = Examples.load()
    assert len({unseeded.draw_simple() for _ in range(30)}) > 1


def test_every_example_comes_up():
    book = Examples(SIMPLE[:3], CUSTOM[:2], random.Random(0))
    assert {book.draw_simple() for _ in range(100)} == set(SIMPLE[:3])
    assert {book.draw_custom() for _ in range(100)} == set(CUSTOM[:2])
