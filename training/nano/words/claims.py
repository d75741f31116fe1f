"""What a caption claims about a piece, read from its words alone, and whether it is true."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Literal

from training.nano.music.piece import DRUMS, PERCUSSION, Facts
from training.nano.theory import Key
from training.nano.words.vocabulary import (
    ENGLISH,
    FLATS,
    GROUPS,
    JAPANESE,
    MODES_JA,
    RELATIVES,
    SHARPS,
    TEMPI,
    TONICS_JA,
    USES,
)

Polarity = Literal["is", "not", "only", "leads"]


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """`kind` and `value` are those of the vocabulary, or a key, or a number of beats a minute."""

    kind: str
    value: str
    polarity: Polarity = "is"


@dataclass(frozen=True, slots=True)
class Reading:
    """The claims of a text, and the words that are none and belong to none."""

    claims: tuple[Claim, ...]
    rest: str


def members(term: str) -> tuple[str, ...]:
    """The stems that a term for an instrument means."""
    return GROUPS.get(term, (term,))


def is_true(claim: Claim, facts: Facts) -> bool:
    """Whether a clip is as the claim says."""
    if claim.kind == "instrument":
        return _sounds_so(claim, facts)
    mode = facts.key_scale.rpartition(" ")[2] if facts.key_scale else None
    truths = {
        "style": claim.value == facts.style,
        "mood": claim.value in facts.moods,
        "density": claim.value == facts.density,
        "register": claim.value == facts.register,
        "metre": claim.value == facts.time_signature,
        "mode": claim.value == mode,
        "bpm": claim.value == str(facts.bpm),
        "vocals": "choir" not in facts.heard,
        "count": claim.value == str(len(facts.heard)) and not (facts.has_drums or facts.has_percussion),
        "place": claim.value in places(facts),
    }
    if claim.kind == "tempo":
        slowest, fastest = TEMPI[claim.value]
        return slowest <= facts.bpm <= fastest
    if claim.kind == "key":
        return facts.key_scale is not None and Key.parse(claim.value) == Key.parse(facts.key_scale)
    if claim.kind == "use":
        return facts.style in USES[claim.value]
    return truths[claim.kind]


def places(facts: Facts) -> tuple[str, ...]:
    """The values of kind "place" that are true of a clip."""
    place = facts.place
    if place.starts and place.ends:
        return ("whole",)
    return (*(() if place.starts else ("after the start",)), *(() if place.ends else ("before the end",)))


def stems_of(facts: Facts) -> tuple[str, ...]:
    """All that sounds in a clip."""
    drums = (DRUMS,) if facts.has_drums else ()
    return (*facts.heard, *drums, *((PERCUSSION,) if facts.has_percussion else ()))


def _sounds_so(claim: Claim, facts: Facts) -> bool:
    meant = members(claim.value)
    sounding = stems_of(facts)
    if claim.polarity == "only":
        return facts.solo in meant
    if claim.polarity == "leads":
        return facts.lead in meant
    if claim.polarity == "not":
        return not any(name in sounding for name in (*meant, *RELATIVES.get(claim.value, ())))
    return any(name in sounding for name in meant)


def normalized(text: str) -> str:
    return " ".join(
        unicodedata.normalize("NFKC", text).casefold().replace("♯", "#").replace("♭", "b").split()
    )


_SPELLED = {words.casefold(): tonic for tonic, words in (SHARPS | FLATS).items()}
_TONIC = "|".join([*sorted(_SPELLED, key=len, reverse=True), "[a-g][#b]?"])
_KEY = re.compile(rf"(?<![\w])({_TONIC})[ -](major|minor)(?![\w]| key| mode)")
_KEY_LATIN = re.compile(r"(?<![a-z])([a-g][#b]?)(メジャー|マイナー)(?!キー)")
_KEY_JA = re.compile("([嬰変]?[ハニホヘトイロ])(長調|短調)")
_BPM = re.compile(
    r"(\d{2,3}) ?bpm|bpm ?(?:は|:)? ?(\d{2,3})"
    r"|(?<!-)tempo(?: of| is|:)? (\d{2,3})(?!s)|テンポ(?:は|:)?(\d{2,3})"
    r"|(\d{2,3}) beats per minute"
)
_ARTICLE = r"(?:the |an? |any )?"
_NOT_BEFORE = re.compile(rf"(?:\bno|\bwithout|\bminus)(?: any)? {_ARTICLE}$")
_OR_BEFORE = re.compile(rf" (?:or|and no|nor) {_ARTICLE}$")
_ONLY_BEFORE = re.compile(rf"(?:\bsolo|\bonly|\bjust|\bnothing but|\bunaccompanied) {_ARTICLE}$|ソロ$")
_LEADS_BEFORE = re.compile(rf"(?:\bled by|\bmelody on|\bfronted by) {_ARTICLE}$")
_NOT_AFTER = re.compile(
    r"(?:(?:は|が|の|も)?(?:なし|無し|ない|抜き|ありません|不要)|(?:は|が|の)?入ら(?:ない|ず)"
    r"|は入っていません|は鳴らない|(?:を|は)使わ(?:ない|ず))"
)
_ONLY_AFTER = re.compile(r" (?:only|alone|solo)(?![\w])|の?(?:のみ|だけ|ソロ|独奏)")
_LEADS_AFTER = re.compile(r" (?:melody|lead line)(?![\w])|が(?:主旋律|メロディー|リードする|主役)")


@cache
def _phrases() -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    meaning: dict[str, tuple[str, str]] = {}
    patterns: list[tuple[str, str]] = []
    for table in (ENGLISH, JAPANESE):
        for kind, values in table.items():
            for value, phrases in values.items():
                for phrase in phrases:
                    # Before a noun these end in what belongs to the sentence.
                    said = normalized(phrase).removesuffix("の").removesuffix("曲")
                    if meaning.setdefault(said, (kind, value)) != (kind, value):
                        raise ValueError(f"{phrase!r} belongs to {meaning[said]} and to {(kind, value)}")
                    bounded = re.escape(said)
                    if said[0].isascii():
                        bounded = rf"(?<![a-z0-9-]){bounded}"
                    if said[-1].isascii():
                        bounded = rf"{bounded}(?![a-z0-9-])"
                    patterns.append((said, bounded))
    patterns.sort(key=lambda pattern: -len(pattern[0]))
    return re.compile("|".join(bounded for _, bounded in patterns)), meaning


def read(text: str) -> Reading:
    """The claims of a caption in either language."""
    said = normalized(text)
    claims: list[Claim] = []
    spans: list[tuple[int, int]] = []

    def take(found: re.Match[str], claim: Claim) -> None:
        claims.append(claim)
        spans.append(found.span())

    for found in _KEY.finditer(said):
        tonic = _SPELLED.get(found[1], found[1].capitalize())
        take(found, Claim("key", f"{tonic} {found[2]}"))
    for found in _KEY_LATIN.finditer(said):
        take(found, Claim("key", f"{found[1].capitalize()} {_mode_of(found[2])}"))
    tonics = {japanese: tonic for tonic, japanese in TONICS_JA.items()}
    for found in _KEY_JA.finditer(said):
        take(found, Claim("key", f"{tonics[found[1]]} {_mode_of(found[2])}"))
    for found in _BPM.finditer(said):
        take(found, Claim("bpm", next(number for number in found.groups() if number)))
    pattern, meaning = _phrases()
    last: tuple[int, Claim] | None = None
    for found in pattern.finditer(said):
        if any(start < found.end() and found.start() < end for start, end in spans):
            continue
        kind, value = meaning[found[0]]
        polarity = _polarity(said, found, last) if kind == "instrument" else "is"
        claim = Claim(kind, value, polarity)
        take(found, claim)
        last = found.end(), claim
    return Reading(tuple(dict.fromkeys(claims)), _without(said, spans))


def _polarity(said: str, found: re.Match[str], last: tuple[int, Claim] | None) -> Polarity:
    before = said[: found.start()]
    if _NOT_BEFORE.search(before) or _NOT_AFTER.match(said, found.end()):
        return "not"
    if last and last[1].polarity == "not" and _OR_BEFORE.fullmatch(said[last[0] : found.start()]):
        return "not"
    if _ONLY_BEFORE.search(before) or _ONLY_AFTER.match(said, found.end()):
        return "only"
    if _LEADS_BEFORE.search(before) or _LEADS_AFTER.match(said, found.end()):
        return "leads"
    return "is"


def _mode_of(japanese: str) -> str:
    return next(mode for mode, names in MODES_JA.items() if japanese in names)


def _without(said: str, spans: list[tuple[int, int]]) -> str:
    kept, position = [], 0
    for start, end in sorted(spans):
        kept.append(said[position:start])
        position = max(position, end)
    return " ".join(" ".join([*kept, said[position:]]).split())
