from __future__ import annotations

import string

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from acestep.domain.draft import Draft, Metadata
from acestep.domain.song import LANGUAGES
from acestep.errors import PlannerError
from acestep.planner import metadata

WHOLE = Metadata(
    bpm=120, caption="a song", duration=60, key_scale="F# minor", language="en", time_signature="6"
)

# Words that make YAML quote, fold or misread.
ODD = st.sampled_from(
    [
        "#",
        ":",
        "a:",
        "#b",
        "'",
        '"',
        "''",
        "- ",
        "? ",
        "|",
        ">",
        "no",
        "1:30",
        "07",
        "{",
        "\n",
        "\n\n",
        "  ",
        "\t",
    ]
)
# Without lone surrogates, which no text has, and three line breaks that PyYAML does not read as it wrote.
CAPTIONS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029")),
    st.lists(ODD | st.text(string.ascii_letters, min_size=1, max_size=12), max_size=40).map(" ".join),
    st.lists(ODD | st.sampled_from(["明るい曲", "🎹", "é"]), max_size=8).map("".join),
)


@pytest.mark.parametrize("language", [*LANGUAGES])
def test_every_language_is_read_back(language: str) -> None:
    assert metadata.read(metadata.write(Metadata(language=language))).language == language


@settings(deadline=None, derandomize=True)
@given(CAPTIONS)
def test_a_written_caption_is_read_back(caption: str) -> None:
    song = Metadata(bpm=99, caption=caption, duration=30, key_scale="Bb major")
    assert metadata.read(metadata.write(song)) == song


@settings(deadline=None, derandomize=True)
@given(CAPTIONS)
def test_the_block_is_yaml(caption: str) -> None:
    block = metadata.write(Metadata(caption=caption, language="no"))
    inside = block.removeprefix("<think>\n").removesuffix("</think>")
    assert {key: str(value) for key, value in yaml.safe_load(inside).items()} == {
        "caption": caption,
        "language": "no",
    }


def test_digits_are_written_as_a_number() -> None:
    song = Metadata(caption="1984", time_signature="4")
    assert metadata.write(song) == "<think>\ncaption: 1984\ntimesignature: 4\n</think>"
    assert metadata.read(metadata.write(song)) == song


def test_empty_metadata_is_an_empty_block() -> None:
    assert metadata.write(Metadata()) == "<think>\n</think>"
    assert metadata.read("<think>\n</think>") == Metadata()


def test_genres_are_skipped() -> None:
    block = "<think>\nbpm: 90\ngenres: folk\n  and: more\nlanguage: en\n</think>"
    assert metadata.read(block) == Metadata(bpm=90, language="en")


@pytest.mark.parametrize(
    ("written", "caption"),
    [
        ("short: no quotes", "short: no quotes"),
        ("a #hash\n  and more", "a #hash and more"),
        ("'tis the season", "'tis the season"),
        ("'left open", "'left open"),
        ("'a' and 'b'", "'a' and 'b'"),
        ('"a \\q b"', '"a \\q b"'),
        ('"\\ud800"', '"\\ud800"'),
        ("one\n\n  two\n\n\n  three", "one\ntwo\n\nthree"),
        ("it ends within a lett\ufffd", "it ends within a lett"),
        ("duration: 5\n  bpm: 7", "duration: 5 bpm: 7"),
        ("</think> and on", "</think> and on"),
    ],
)
def test_text_that_is_not_yaml_is_plain_text(written: str, caption: str) -> None:
    block = f"<think>\nbpm: 90\ncaption: {written}\nduration: 30\n</think>"
    assert metadata.read(block) == Metadata(bpm=90, caption=caption, duration=30)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bpm: 90",
        "<think>\nbpm: 90\n",
        "<think>\nbpm: fast\n</think>",
        "<think>\nmood: sad\n</think>",
        "<think>\nlanguage: en\nmood: sad\n</think>",
        "so <think>\nbpm: 90\n</think>",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(PlannerError, match="wrote"):
        metadata.read(text)


@pytest.mark.parametrize("header", ["", "# Languages\nen\n\n"])
def test_a_draft_is_a_block_and_lyrics(header: str) -> None:
    lyrics = "[Verse]\n# Lyric\n</think> la\n\n[Chorus]\nla"
    text = f"{metadata.write(WHOLE)}\n\n{header}# Lyric\n{lyrics}\n"
    assert metadata.read_draft(text) == Draft(WHOLE, lyrics)


def test_a_draft_without_lyrics_is_refused() -> None:
    with pytest.raises(PlannerError, match="no lyrics"):
        metadata.read_draft(metadata.write(WHOLE))
