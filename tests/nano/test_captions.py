from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass

import pytest

from acestep.catalog.planner_choice import NANO_PLANNER_FOLDER
from acestep.planner.lexicon import read_lexicon, unknown_words
from training.nano.captions import Metas, caption, lexicon, metas
from training.nano.composer import Piece, Wish, compose
from training.nano.styles import INSTRUMENTS
from training.nano.theory import Key

PIECES, CAPTIONS_EACH = 600, 3
CAPTIONS = PIECES * CAPTIONS_EACH
JAPANESE_NAMES = {japanese: name for name, (_, japanese) in INSTRUMENTS.items()}
METRES = {"3": ("waltz time", "3/4", "in three"), "4": ("4/4", "in four")}
# Every tempo word, and the tempi that it does not fit.
TEMPI = {
    "slow": range(76, 181),
    "slow tempo": range(76, 181),
    "mid-tempo": (*range(60, 76), *range(104, 181)),
    "medium-fast": (*range(60, 104), *range(136, 181)),
    "fast tempo": range(60, 136),
    "遅いテンポ": range(76, 181),
    "速いテンポ": range(60, 136),
}


@dataclass(frozen=True)
class Described:
    """A piece, a caption of it, and the parts of the caption in lower case."""

    piece: Piece
    text: str

    @property
    def is_japanese(self) -> bool:
        return not self.text.isascii()

    @property
    def parts(self) -> list[str]:
        return re.split("、|, ", self.text.lower().removesuffix("."))


@pytest.fixture(scope="module")
def described() -> list[Described]:
    # Ten seconds have the facts of a long piece.
    rng = random.Random(0)
    pieces = [compose(seed, 10.0) for seed in range(PIECES)]
    return [Described(piece, caption(piece, rng)) for piece in pieces for _ in range(CAPTIONS_EACH)]


def test_the_same_draw_gives_the_same_caption() -> None:
    piece = compose(1, 10.0)
    assert caption(piece, random.Random(4)) == caption(piece, random.Random(4))


def test_captions_are_varied(described: list[Described]) -> None:
    assert len({one.text for one in described}) > 0.97 * CAPTIONS
    piece, rng = compose(1, 10.0), random.Random(0)
    assert len({caption(piece, rng) for _ in range(100)}) > 90


def test_one_in_ten_is_japanese(described: list[Described]) -> None:
    assert 0.07 < sum(one.is_japanese for one in described) / CAPTIONS < 0.13


def test_a_stated_tempo_is_the_tempo(described: list[Described]) -> None:
    stated = 0
    for one in described:
        for number in re.findall(r"(\d+) ?bpm|bpm(\d+)|tempo (\d+)", one.text.lower()):
            stated += 1
            assert int("".join(number)) == one.piece.bpm, one.text
    assert 0.3 < stated / CAPTIONS < 0.6


def test_tempo_words_fit_the_tempo(described: list[Described]) -> None:
    said = Counter[str]()
    for one in described:
        for part in one.parts:
            if part in TEMPI:
                said[part] += 1
                assert one.piece.bpm not in TEMPI[part], one.text
    assert said.keys() == TEMPI.keys()


def test_a_stated_key_is_the_key_in_either_spelling(described: list[Described]) -> None:
    spelled = Counter[bool]()
    for one in described:
        for tonic, mode in re.findall(r"\b([a-g][#b]?) (major|minor)", one.text.lower()):
            stated = f"{tonic.capitalize()} {mode}"
            assert Key.parse(stated) == Key.parse(one.piece.key_scale), one.text
            spelled[stated == one.piece.key_scale] += 1
    assert 0.3 < spelled.total() / CAPTIONS < 0.6
    assert spelled[True] > spelled[False] > 30


def test_a_stated_metre_is_the_metre(described: list[Described]) -> None:
    stated = Counter[str]()
    for one in described:
        for metre, words in METRES.items():
            if any(part.endswith(words) for part in one.parts):
                stated[metre] += 1
                assert one.piece.time_signature == metre, one.text
    assert stated["3"] > 100 and stated["4"] > 300


def test_drums_are_named_where_they_are_and_missed_where_not(described: list[Described]) -> None:
    stated = Counter[str]()
    for one in described:
        for part in one.parts:
            if part in ("drums", "no drums"):
                stated[part] += 1
                assert one.piece.has_drums == (part == "drums"), one.text
    assert stated["drums"] > 500 and stated["no drums"] > 20


def test_named_instruments_play(described: list[Described]) -> None:
    stated = Counter[str]()
    for one in described:
        for name in instruments_in(one):
            stated[name] += 1
            assert name in one.piece.instruments, one.text
    assert stated.keys() == INSTRUMENTS.keys()


def instruments_in(one: Described) -> list[str]:
    """By its own, after "with" and the like, or joined by the Japanese "and"."""
    names = []
    for part in one.parts:
        names += [JAPANESE_NAMES[name] for name in part.split("と") if name in JAPANESE_NAMES]
        named = re.search(r"(?:^|with |by |featuring )([a-z ]+)$", part)
        if named and named[1] in INSTRUMENTS:
            names.append(named[1])
    return names


def test_the_style_is_always_said(described: list[Described]) -> None:
    for one in described:
        words = one.piece.style.words_ja if one.is_japanese else one.piece.style.words
        assert any(word.lower() in one.parts[0] for word in words), one.text


def test_no_word_stands_twice_in_a_row(described: list[Described]) -> None:
    for one in described:
        assert "テンポのテンポ" not in one.text
        assert "  " not in one.text and ", ," not in one.text


@pytest.mark.parametrize(
    ("style", "right", "wrong"),
    [
        ("disco", "a 70s", "an 70s"),
        ("synthwave", "an 80s", "a 80s"),
        ("chiptune", "an 8-bit", "a 8-bit"),
        ("trance", "a euphoric", "an euphoric"),
        ("trance", "an electronic", "a electronic"),
    ],
)
def test_articles_go_by_sound(style: str, right: str, wrong: str) -> None:
    piece, rng = compose(2, 10.0, Wish(style=style)), random.Random(0)
    starts = Counter(" ".join(caption(piece, rng).lower().split()[:2]) for _ in range(800))
    assert starts[right] > 0
    assert starts[wrong] == 0


def test_metas_are_true_and_mostly_given(described: list[Described]) -> None:
    drawn = [(one.piece, metas(one.piece, random.Random(one.piece.seed))) for one in described]
    for fact in ("bpm", "key_scale", "time_signature"):
        given = sum(getattr(facts, fact) is not None for _, facts in drawn) / CAPTIONS
        assert 0.8 < given < 0.9
    for piece, facts in drawn:
        assert facts.bpm in (None, piece.bpm)
        assert facts.time_signature in (None, piece.time_signature)
        assert facts.key_scale is None or Key.parse(facts.key_scale) == Key.parse(piece.key_scale)
    assert Metas(None, None, None) in [facts for _, facts in drawn]


def test_the_planner_folder_lists_all_words_of_captions() -> None:
    known = read_lexicon(NANO_PLANNER_FOLDER)
    assert known == lexicon()
    assert not known.writes_lyrics
    drawn = [caption(compose(seed), random.Random(number)) for seed in range(20) for number in range(10)]
    assert all(unknown_words(text, known, lambda word: True) == () for text in drawn)
    assert max(map(len, drawn)) <= known.longest
