from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError

LEXICON_FILE = "lexicon.json"
_WORD = re.compile(r"[^\W\d_]+")
_TAG = re.compile(r"\[[^\]\n]*\]")
# Scripts without spaces between words: kana, Chinese characters, and Thai to Khmer.
_UNSPACED = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True, slots=True)
class Lexicon:
    """What a small planner was taught, which its folder lists in `lexicon.json`; others know all words."""

    words: frozenset[str] = frozenset()  # small letters; empty: all words
    longest: int = 0  # characters of a caption; 0: any number
    writes_lyrics: bool = True

    def knows(self, word: str) -> bool:
        """Whether a run of letters is one of the words, or consists of words in a script without spaces."""
        if not self.words or word in self.words:
            return True
        if word.isascii() or len(word) > self.longest:
            return False
        # The lengths of the beginnings that consist of words.
        reached = {0}
        for end in range(1, len(word) + 1):
            if any(end - len(known) in reached and word.endswith(known, 0, end) for known in self.words):
                reached.add(end)
        return len(word) in reached


def read_lexicon(folder: Path) -> Lexicon:
    """Raises CheckpointError for a file that is not of this form."""
    path = folder / LEXICON_FILE
    if not path.is_file():
        return Lexicon()
    values = read_json(path)
    words, longest, lyrics = (values.get(key) for key in ("words", "longest", "writes_lyrics"))
    if not isinstance(words, list) or not isinstance(longest, int) or not isinstance(lyrics, bool):
        raise CheckpointError(f"{path}: needs words (a list), longest (a number) and writes_lyrics (a flag).")
    return Lexicon(frozenset(map(str, words)), longest, lyrics)


def write_lexicon(folder: Path, lexicon: Lexicon) -> None:
    values = {
        "longest": lexicon.longest,
        "words": sorted(lexicon.words),
        "writes_lyrics": lexicon.writes_lyrics,
    }
    text = json.dumps(values, ensure_ascii=False, indent=0)
    (folder / LEXICON_FILE).write_text(f"{text}\n", encoding="utf-8")


def words_of(text: str) -> list[str]:
    """Its runs of letters, in small letters."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def unknown_words(text: str, lexicon: Lexicon, spells: Callable[[str], bool]) -> tuple[str, ...]:
    """The words that are not in `lexicon`, or that the tokenizer (`spells`) cannot spell; each once."""
    words = dict.fromkeys(words_of(text))
    all_spelled = spells(" ".join(words))  # one by one takes 100 ms for 10,000 characters
    return tuple(word for word in words if not (lexicon.knows(word) and (all_spelled or spells(word))))


def without(text: str, unknown: Iterable[str]) -> str:
    """The phrases between commas, without the unknown words; phrases of which nothing is left are dropped."""
    strange = frozenset(unknown)
    if not strange:
        return text

    def keep(found: re.Match[str]) -> str:
        return "" if found[0].casefold() in strange else found[0]

    plain = unicodedata.normalize("NFKC", text)
    phrases = (" ".join(_WORD.sub(keep, phrase).split()) for phrase in re.split(r"[,、。\n]", plain))
    return ", ".join(phrase for phrase in phrases if any(map(str.isalnum, phrase)))


def lost_words(asked: str, written: str) -> tuple[str, ...]:
    """The sung words of `asked` that `written` has less often; scripts without spaces count by character."""
    return tuple(_sung(asked) - _sung(written))


def _sung(lyrics: str) -> Counter[str]:
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", _TAG.sub(" ", lyrics)).casefold())
    return Counter(part for word in words for part in (word if _UNSPACED.search(word) else (word,)))
