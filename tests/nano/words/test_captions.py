from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest

from training.nano.music.composer import compose
from training.nano.music.facts import cut
from training.nano.music.instruments import INSTRUMENTS
from training.nano.music.piece import Facts, Wish
from training.nano.music.styles import STYLES
from training.nano.theory import Key
from training.nano.words import english, japanese
from training.nano.words.captions import Caption, Metas, caption, metas
from training.nano.words.choosing import choose
from training.nano.words.claims import Claim, is_true, read
from training.nano.words.vocabulary import ENGLISH, JAPANESE

PIECES, EACH = 800, 4


@dataclass(frozen=True)
class Described:
    facts: Facts
    caption: Caption

    @property
    def is_japanese(self) -> bool:
        return not self.caption.text.isascii()


@pytest.fixture(scope="module")
def described() -> list[Described]:
    rng = random.Random(0)
    clips = [compose(seed, 12.0) for seed in range(PIECES)]
    clips = [cut(piece, number % 3, 6.0) if number % 5 == 0 else piece for number, piece in enumerate(clips)]
    return [Described(piece.facts, caption(piece.facts, rng)) for piece in clips for _ in range(EACH)]


def unspelled(claims: tuple[Claim, ...]) -> set[tuple[str, object, str]]:
    """Claims whatever the spelling of their key."""
    return {
        (claim.kind, Key.parse(claim.value) if claim.kind == "key" else claim.value, claim.polarity)
        for claim in claims
    }


def test_captions_say_what_they_mean_and_all_of_it_is_true(described: list[Described]) -> None:
    for each in described:
        claims = read(each.caption.text).claims
        assert unspelled(claims) == unspelled(each.caption.claims), each.caption.text
        for claim in claims:
            assert is_true(claim, each.facts), (each.caption.text, claim)


def test_every_phrase_turns_up(described: list[Described]) -> None:
    said = {claim for each in described for claim in each.caption.claims}
    values = {(claim.kind, claim.value) for claim in said}
    missing = [
        (kind, value) for kind, table in ENGLISH.items() for value in table if (kind, value) not in values
    ]
    assert missing == []
    assert {claim.polarity for claim in said} == {"is", "not", "only", "leads"}


def test_both_languages_are_as_frequent_and_varied(described: list[Described]) -> None:
    texts = [each.caption.text for each in described]
    assert 0.45 < sum(each.is_japanese for each in described) / len(described) < 0.55
    assert 0.02 < texts.count("") / len(texts) < 0.06
    assert len(set(texts)) > 0.9 * len(texts)
    words = Counter(len(text.split()) for text in texts if text.isascii() and text)
    assert words[1] > 20 and sum(count for length, count in words.items() if length > 15) > 100
    assert sum(text.count("。") == 3 or text.count(". ") == 2 for text in texts) > 50


def test_cuts_say_that_they_are_cuts(described: list[Described]) -> None:
    for each in described:
        values = {claim.value for claim in each.caption.claims if claim.kind == "place"}
        place = each.facts.place
        assert ("before the end" in values) == (not place.ends)
        assert ("after the start" in values) == (not place.starts)


def test_languages_share_kinds_and_values() -> None:
    assert {kind: table.keys() for kind, table in ENGLISH.items()} == {
        kind: table.keys() for kind, table in JAPANESE.items()
    }
    assert set(ENGLISH["style"]) == {style.name for style in STYLES}
    assert set(INSTRUMENTS) <= set(ENGLISH["instrument"])


SOLO = compose(5, 12.0, Wish("folk", 70, "A minor", "3", ("piano",), drums=False)).facts
BAND = compose(
    5, 12.0, Wish("rock", 150, "E major", "4", ("electric guitar", "organ", "electric bass"), True)
).facts


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("piano only", "only piano"),
        ("Solo piano, no drums", "only piano, not drums"),
        ("a slow waltz without any drums or synth", "not drums, not synth, tempo slow, style waltz"),
        ("drum & bass", "style drum and bass"),
        ("fast drum and bass with drums", "style drum and bass, tempo fast, is drums"),
        ("in a minor key", "mode minor"),
        ("in F sharp minor at 96 BPM", "key F# minor, bpm 96"),
        ("no vocals", "vocals none"),
        ("flute melody over harp", "leads flute, is harp"),
        ("an 80s synth pop song", "style synthwave"),
        ("ピアノソロ、ドラムなし", "only piano, not drums"),
        ("ドラムは入っていません。", "not drums"),
        ("ドラムの入らない静かな曲", "not drums, mood calm"),
        (
            "アコギとエレキベースによる明るいロック",
            "is acoustic guitar, is electric bass, mood bright, style rock",
        ),
        ("イ短調、テンポ120、三拍子", "key A minor, bpm 120, metre 3"),
        ("変ホ長調のゆったりした曲", "key Eb major, tempo slow"),
        ("シンセベースが主旋律", "leads synth bass"),
        ("something entirely else", ""),
    ],
)
def test_reading(text: str, claims: str) -> None:
    assert unspelled(read(text).claims) == unspelled(tuple(map(claim_of, filter(None, claims.split(", ")))))


def claim_of(text: str) -> Claim:
    kind, _, value = text.partition(" ")
    return Claim("instrument", value, kind) if kind in ("is", "not", "only", "leads") else Claim(kind, value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("claim", "facts", "true"),
    [
        (Claim("instrument", "piano", "only"), SOLO, True),
        (Claim("instrument", "piano", "only"), BAND, False),
        (Claim("instrument", "guitar"), BAND, True),
        (Claim("instrument", "guitar", "not"), SOLO, True),
        (Claim("instrument", "guitar", "not"), BAND, False),
        (Claim("instrument", "drums"), BAND, True),
        (Claim("instrument", "drums", "not"), BAND, False),
        (Claim("instrument", "electric guitar", "leads"), BAND, True),
        (Claim("instrument", "organ", "leads"), BAND, False),
        (Claim("tempo", "slow"), SOLO, True),
        (Claim("tempo", "slow"), BAND, False),
        (Claim("tempo", "moderate"), BAND, False),
        (Claim("metre", "3"), SOLO, True),
        (Claim("key", "A minor"), SOLO, True),
        (Claim("key", "C major"), SOLO, False),
        (Claim("mode", "minor"), BAND, False),
        (Claim("place", "whole"), SOLO, True),
        (Claim("place", "after the start"), SOLO, False),
    ],
)
def test_truth(claim: Claim, facts: Facts, true: bool) -> None:
    assert is_true(claim, facts) == true


def test_no_sentence_is_broken(described: list[Described]) -> None:
    for each in described:
        text = each.caption.text
        for broken in (
            "  ",
            " ,",
            ",,",
            "..",
            "、、",
            "。。",
            "ののの",
            "曲曲",
            "a an ",
            "the the",
            "風風",
            "風調",
        ):
            assert broken not in text, text
        lowered = f" {text.lower()}"
        for article in (
            " a e-piano",
            " a organ",
            " a electric",
            " a acoustic",
            " an happy",
            " a ambient",
            " an euro",
        ):
            assert article not in lowered, text


def test_the_same_draw_gives_the_same_caption() -> None:
    assert caption(BAND, random.Random(4)) == caption(BAND, random.Random(4))
    claims = choose(BAND, random.Random(4))
    for written in (english, japanese):
        assert len({written.caption(claims, random.Random(seed)) for seed in range(40)}) > 30


def test_metas_are_true_and_mostly_given(described: list[Described]) -> None:
    rng = random.Random(1)
    drawn = [(each.facts, metas(each.facts, rng)) for each in described]
    for facts, given in drawn:
        assert given.bpm in (None, facts.bpm)
        assert given.time_signature in (None, facts.time_signature)
        if given.key_scale is not None:
            assert facts.key_scale is not None
            assert Key.parse(given.key_scale) == Key.parse(facts.key_scale)
    assert 0.12 < sum(given == Metas(None, None, None) for _, given in drawn) / len(drawn) < 0.25
    assert 0.5 < sum(given.bpm is not None for _, given in drawn) / len(drawn) < 0.7
