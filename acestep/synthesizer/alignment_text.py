"""Lyrics as singers read them: lines of words, and where in the text each word stands.

Owns what is sung and what is not (section tags, empty lines), and what a word is where no spaces are written.
Knows nothing of tokens or time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TAG = re.compile(r"\[[^\]\n]*\]")
# Kana, Han characters and the scripts of South East Asia, which put no spaces between words: a sung syllable
# is about one character there. Marks and punctuation belong to the character before them.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff66-\uff9d"
)
_MARKS = (
    "ーゝゞっッゃゅょャュョァィゥェォぁぃぅぇぉ"
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd"
)
_WORD = re.compile(rf"[{_UNSPACED}](?:[{_MARKS}]|[^\w\s])*|[^\s{_UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class Word:
    """A sung word: its characters are `lyrics[start:end]`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Line:
    """A line with at least one word, as it is written, without tags."""

    text: str
    words: tuple[Word, ...]


def sung_lines(lyrics: str) -> tuple[Line, ...]:
    """The lines of `lyrics` that somebody sings."""
    # Tags become spaces, so that what stands behind them keeps its place.
    sung = _TAG.sub(lambda tag: " " * len(tag[0]), lyrics)
    lines, start = [], 0
    for row in sung.splitlines(keepends=True):
        words = tuple(
            Word(found[0], start + found.start(), start + found.end())
            for found in _WORD.finditer(row)
            if any(letter.isalnum() for letter in found[0])
        )
        if words:
            lines.append(Line(" ".join(row.split()), words))
        start += len(row)
    return tuple(lines)
