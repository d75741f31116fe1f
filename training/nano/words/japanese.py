"""Captions in Japanese: tags, one phrase that ends in a noun, or up to three sentences."""

from __future__ import annotations

import random
from collections.abc import Sequence

from training.nano.theory import enharmonic
from training.nano.words.claims import Claim
from training.nano.words.vocabulary import JAPANESE, MODES_JA, TONICS_JA

_ATTRIBUTES = ("mood", "tempo", "density", "register")
_NOUNS = ("曲", "曲", "音楽", "楽曲", "トラック")
_REQUESTS = ("を作って", "を作ってください", "をお願いします", "が欲しい", "が聴きたい", "をください")
_BEFORE = 3  # claims before a noun; more are hard to read, and follow as tags


def caption(claims: Sequence[Claim], rng: random.Random) -> str:
    """A caption that makes exactly these claims."""
    (shape,) = rng.choices((_tags, _phrase, _sentences), weights=(0.35, 0.4, 0.25))
    return shape(claims, rng)


def _tags(claims: Sequence[Claim], rng: random.Random) -> str:
    tags = [_tag(claim, rng) for claim in claims]
    rng.shuffle(tags)
    return rng.choice(("、", "、", "、", " ", ", ")).join(tags)


def _phrase(claims: Sequence[Claim], rng: random.Random) -> str:
    near = rng.randint(1, _BEFORE)
    before, noun = _attributes(claims[:near], rng)
    text = "".join(before) + noun
    rest = [_tag(claim, rng) for claim in claims[near:]]
    if rest:
        return "、".join([text, *rest] if rng.random() < 0.8 else [*rest, text])
    return text + rng.choice(_REQUESTS) if rng.random() < 0.3 else text


def _sentences(claims: Sequence[Claim], rng: random.Random) -> str:
    polite = rng.random() < 0.7
    near = rng.randint(1, _BEFORE)
    before, noun = _attributes(claims[:near], rng)
    desu = "です" if polite else ""
    told = ["".join(before) + noun + rng.choice((desu, ""))]
    told += [_sentence(claim, polite, rng) for claim in claims[near : near + 1]]
    rest = [_tag(claim, rng) for claim in claims[near + 1 :]]
    if rest:
        told.append("、".join(rest) + desu)
    return "".join(f"{sentence}。" for sentence in told)


def _attributes(claims: Sequence[Claim], rng: random.Random) -> tuple[list[str], str]:
    """What stands before the noun, outer circumstances first, and the noun."""
    noun = ""
    outer: list[str] = []
    inner: list[str] = []
    playing: list[str] = []
    for claim in claims:
        said = _word(claim, rng)
        if claim.kind == "style" and not noun:
            noun = _styled(said, rng)
        elif claim.kind in _ATTRIBUTES:
            inner.append(said)
        elif claim.kind == "instrument" and claim.polarity == "is":
            playing.append(said)
        elif claim.kind == "count":
            outer.append(f"{said}による" if rng.random() < 0.5 else f"{said}の")
        else:
            outer.append(_attributive(claim, rng))
    rng.shuffle(outer)
    if playing:
        joined = ("と" if len(playing) < 4 else "、").join(playing)
        outer.append(joined + rng.choice(("による", "の", "を使った", "の入った")))
    rng.shuffle(inner)
    inner = [f"{said}、" if number < len(inner) - 1 else said for number, said in enumerate(inner)]
    return [*outer, *inner], noun or rng.choice(_NOUNS)


def _styled(style: str, rng: random.Random) -> str:
    noun = rng.choice(_NOUNS)
    if style.endswith("風"):
        return f"{style}{rng.choice(('の', 'な'))}{noun}"
    if style.endswith(("音楽", "曲", "唄", "歌", "ミュージック", "ソング")):
        return style
    return rng.choice(
        (style, style, f"{style}の{noun}", f"{style}風の{noun}", f"{style}調の{noun}", f"{style}っぽい{noun}")
    )


def _attributive(claim: Claim, rng: random.Random) -> str:
    said = _word(claim, rng)
    if claim.kind == "instrument":
        forms = {
            "not": (
                f"{said}なしの",
                f"{said}のない",
                f"{said}を使わない",
                f"{said}抜きの",
                f"{said}の入らない",
            ),
            "only": (f"{said}ソロの", f"{said}のみの", f"{said}だけの", f"{said}独奏の"),
            "leads": (f"{said}が主旋律の", f"{said}がメロディーの", f"{said}がリードする"),
        }
        return rng.choice(forms[claim.polarity])
    if said.endswith(("たい", "ある", "から", "まで")):
        return {"ら": f"{said}の", "で": f"{said}の"}.get(said[-1], said)
    return f"{said}の"


def _word(claim: Claim, rng: random.Random) -> str:
    if claim.kind == "bpm":
        return rng.choice((f"BPM{claim.value}", f"テンポ{claim.value}", f"{claim.value}BPM"))
    if claim.kind == "key":
        return _key(claim.value, rng)
    phrases = JAPANESE[claim.kind][claim.value]
    said = phrases[0] if rng.random() < 0.5 else rng.choice(phrases)
    # "a piece with a beginning and an end" is a noun of its own.
    return said.removesuffix("曲") if claim.kind == "place" else said


def _key(key_scale: str, rng: random.Random) -> str:
    spelled = enharmonic(key_scale) if rng.random() < 0.3 else key_scale
    tonic, _, mode = spelled.partition(" ")
    formal, casual = MODES_JA[mode]
    return f"{TONICS_JA[tonic]}{formal}" if rng.random() < 0.6 else f"{tonic}{casual}"


_TAGS = {
    "is": ("{}", "{}", "{}入り", "{}あり"),
    "not": ("{}なし", "{}なし", "{}抜き", "{}は不要", "{}無し"),
    "only": ("{}ソロ", "{}のみ", "{}だけ", "{}独奏", "ソロ{}"),
    "leads": ("{}が主旋律", "{}がメロディー", "{}が主役"),
    "mood": ("{}曲", "{}雰囲気", "{}感じ"),
    "density": ("{}曲",),
}


def _tag(claim: Claim, rng: random.Random) -> str:
    said = _word(claim, rng)
    if claim.kind == "tempo":
        return _tempo_noun(said)
    if claim.kind == "register":
        return said.removesuffix("の")
    if claim.kind == "style":
        return rng.choice((said, said, _styled(said, rng)))
    if said.endswith(("たい", "ある")):
        said = f"{said}曲"
    kind = claim.polarity if claim.kind == "instrument" else claim.kind
    return rng.choice(_TAGS.get(kind, ("{}",)) if not said.endswith("曲") else ("{}",)).format(said)


def _tempo_noun(said: str) -> str:
    if said.endswith("の"):
        return said.removesuffix("の")
    return f"{said}曲" if "テンポ" in said or said.endswith("ある") else f"{said}テンポ"


def _sentence(claim: Claim, polite: bool, rng: random.Random) -> str:
    said = _word(claim, rng)
    desu = "です" if polite else ""
    if claim.kind == "instrument":
        forms = {
            "is": (f"{said}が入っています", f"{said}を使っています")
            if polite
            else (f"{said}入り", f"{said}が入る"),
            "not": (f"{said}はありません", f"{said}は入っていません")
            if polite
            else (f"{said}なし", f"{said}は使わない"),
            "only": (f"{said}だけです", f"{said}ソロです") if polite else (f"{said}のみ", f"{said}だけ"),
            "leads": (f"{said}が主旋律です", f"{said}がメロディーを弾きます")
            if polite
            else (f"{said}が主旋律",),
        }
        return rng.choice(forms[claim.polarity])
    simple = {
        "mood": f"{said}雰囲気{desu}",
        "tempo": f"{_tempo_noun(said)}{desu}",
        "bpm": f"{rng.choice(('テンポ', 'BPM'))}は{claim.value}{desu}",
        "density": f"{said}曲{desu}",
        "register": f"{said}メロディー{desu}",
        "key": f"調は{said}{desu}" if rng.random() < 0.5 else f"キーは{said}{desu}",
        "style": f"{_styled(said, rng)}{desu}",
    }
    tag = f"{said}曲" if said.endswith(("たい", "ある")) else said
    return simple.get(claim.kind, f"{tag}{desu}")
