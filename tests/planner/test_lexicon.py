from __future__ import annotations

from pathlib import Path

import pytest

from acestep.errors import CheckpointError
from acestep.planner.lexicon import (
    Lexicon,
    lost_words,
    read_lexicon,
    unknown_words,
    without,
    write_lexicon,
)

SMALL = Lexicon(
    frozenset(["sad", "piano", "bpm", "切ない", "ロック", "と", "ピアノ"]), longest=40, writes_lyrics=False
)


def always(word: str) -> bool:
    return True


@pytest.mark.parametrize(
    ("caption", "unknown"),
    [
        ("Sad PIANO, 70 bpm", ()),
        ("sad pianos, R&B", ("pianos", "r", "b")),
        ("切ないロック、ピアノとピアノ", ()),
        ("切ない女性", ("切ない女性",)),
        ("ＳＡＤ piano", ()),  # full width
        ("", ()),
    ],
)
def test_words_that_were_not_taught(caption: str, unknown: tuple[str, ...]) -> None:
    assert unknown_words(caption, SMALL, always) == unknown
    assert unknown_words(caption, Lexicon(), always) == ()


def test_words_that_the_tokenizer_loses() -> None:
    assert unknown_words("sad 夜 piano 歌", Lexicon(), str.isascii) == ("夜", "歌")


@pytest.mark.parametrize(
    ("caption", "unknown", "rest"),
    [
        ("R&B, sad Piano, 70 bpm", ("r", "b"), "sad Piano, 70 bpm"),
        ("切ないロック、女性ボーカル。", ("女性ボーカル",), "切ないロック"),
        ("sad  piano", (), "sad  piano"),
        ("夜の歌", ("夜の歌",), ""),
    ],
)
def test_what_is_left_without_them(caption: str, unknown: tuple[str, ...], rest: str) -> None:
    assert without(caption, unknown) == rest


@pytest.mark.parametrize(
    ("asked", "written", "lost"),
    [
        ("[Verse]\nLa la, city", "[Verse 1 - soft]\ncity la LA!\n[Outro]\nmore", ()),
        ("[Verse]\nla la la", "[Verse]\nla la", ("la",)),
        ("夜の歌", "[Verse]\n夜 の 歌", ()),
        ("夜の歌", "夜の", ("歌",)),
        ("夜の歌", "[Instrumental]", ("夜", "の", "歌")),
        ("[Verse]", "", ()),
    ],
)
def test_sung_words_that_are_missing(asked: str, written: str, lost: tuple[str, ...]) -> None:
    assert lost_words(asked, written) == lost


def test_the_file_of_a_folder(tmp_path: Path) -> None:
    assert read_lexicon(tmp_path) == Lexicon()
    write_lexicon(tmp_path, SMALL)
    assert read_lexicon(tmp_path) == SMALL
    (tmp_path / "lexicon.json").write_text("{}")
    with pytest.raises(CheckpointError, match="needs words"):
        read_lexicon(tmp_path)
