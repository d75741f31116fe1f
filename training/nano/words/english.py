"""Captions in English: tags, one phrase, or up to three sentences."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from training.nano.theory import enharmonic
from training.nano.words.claims import Claim
from training.nano.words.vocabulary import COUNTABLE, ENGLISH, FLATS, SHARPS

_ADJECTIVES = ("mood", "tempo", "density", "register")
_NATIONS = re.compile("japanese|irish|brazilian|argentine|viennese|celtic|latin")
_REQUESTS = ("make", "please make", "write", "I want", "I need", "give me", "create", "compose")


def caption(claims: Sequence[Claim], rng: random.Random) -> str:
    """A caption that makes exactly these claims."""
    (shape,) = rng.choices((_tags, _phrase, _sentences), weights=(0.4, 0.35, 0.25))
    text = shape(claims, rng).replace(" ,", ",")
    if rng.random() < 0.1:
        return text.lower()
    if rng.random() < 0.5:
        text = _NATIONS.sub(lambda found: found[0].capitalize(), text)
    return text[0].upper() + text[1:] if rng.random() < 0.3 else text


def _tags(claims: Sequence[Claim], rng: random.Random) -> str:
    tags = [_tag(claim, rng) for claim in claims]
    rng.shuffle(tags)
    return ", ".join(tags)


def _phrase(claims: Sequence[Claim], rng: random.Random) -> str:
    head, rest = _head(claims, rng)
    text = " ".join([head, *_tail(rest, rng)])
    drawn = rng.random()
    if drawn < 0.15:
        text = f"{rng.choice(_REQUESTS)} {_article(text)} {text}"
    elif drawn < 0.4:
        text = f"{_article(text)} {text}"
    return text + ("." if rng.random() < 0.2 else "")


def _sentences(claims: Sequence[Claim], rng: random.Random) -> str:
    head, rest = _head(claims, rng)
    cut = rng.randint(0, len(rest))
    inside, after = rest[:cut], rest[cut:]
    first = " ".join([head, *_tail(inside, rng)])
    start = rng.choice(("This is ", "It is ", "", ""))
    sentences = [f"{start}{_article(first)} {first}".strip()]
    told = [_sentence(claim, rng) for claim in after]
    if len(told) > 2:
        tags = [_tag(claim, rng) for claim in after[2:]]
        told = [told[0], ", ".join([told[1], *tags])]
    sentences += told
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def _head(claims: Sequence[Claim], rng: random.Random) -> tuple[str, list[Claim]]:
    """A noun with its adjectives, and the claims that are left."""
    rest: list[Claim] = []
    words: list[str] = []
    noun = ""
    solo = ""
    for claim in claims:
        said = _word(claim, rng)
        if claim.kind in _ADJECTIVES and " " not in said and len(words) < 3:
            words.append(said)
        elif claim.kind == "style" and not noun:
            noun = said
            if claim.value not in COUNTABLE or said != ENGLISH["style"][claim.value][0]:
                noun = _as_noun(said, rng)
        elif claim.polarity == "only" and not solo:
            solo = f"solo {said}"
        else:
            rest.append(claim)
    if solo:
        words.append(solo)
    if not noun:
        noun = rng.choice(("piece", "track", "song", "tune", "music"))
    rng.shuffle(rest)
    return " ".join([*words, noun]), rest


def _as_noun(style: str, rng: random.Random) -> str:
    if style.endswith(("music", "song", "piece", "track", "soundtrack", "score", "beat", "groove")):
        return style
    return f"{style} {rng.choice(('track', 'piece', 'song', 'tune', 'music'))}"


def _tail(claims: Sequence[Claim], rng: random.Random) -> list[str]:
    """What follows the noun: the instruments first, then the rest."""
    playing = [_word(claim, rng) for claim in claims if claim.kind == "instrument" and claim.polarity == "is"]
    parts = []
    if playing:
        parts.append(
            f"{rng.choice(('with', 'with', 'featuring', 'played by', 'for'))} {_listed(playing, rng)}"
        )
    absent = [_word(claim, rng) for claim in claims if claim.polarity == "not"]
    if absent:
        joined = rng.choice((" or ", " and no ")).join(absent)
        prefix = "without" if " or " in joined or len(absent) == 1 else "with no"
        parts.append(f"{prefix} {joined}")
    others = [
        claim for claim in claims if not (claim.kind == "instrument" and claim.polarity in ("is", "not"))
    ]
    # What follows a comma comes last.
    return parts + sorted((_adverb(claim, rng) for claim in others), key=lambda part: part.startswith(","))


def _adverb(claim: Claim, rng: random.Random) -> str:
    said = _word(claim, rng)
    if claim.kind == "bpm":
        return f"at {said}"
    if claim.kind in ("key", "mode", "metre"):
        return _in(claim, rng)
    if claim.kind == "use" and said.startswith("for "):
        return said
    if claim.polarity == "leads":
        return f"led by {rng.choice(('', 'a '))}{said}" if said[0] not in "aeiou" else f"led by {said}"
    if claim.polarity == "only":
        return f"on {said} alone"
    return f", {said}"


def _in(claim: Claim, rng: random.Random) -> str:
    if claim.kind == "key":
        return f"in {rng.choice(('', '', 'the key of '))}{_key(claim.value, rng)}"
    if claim.kind == "mode":
        return f"in a {ENGLISH['mode'][claim.value][0]}"
    said = _word(claim, rng)
    return said if said.startswith("in ") else f"in {said}"


def _listed(names: list[str], rng: random.Random) -> str:
    if len(names) == 1:
        return names[0]
    if rng.random() < 0.2:
        return ", ".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _word(claim: Claim, rng: random.Random) -> str:
    """The claim's phrase without what makes it a part of a sentence."""
    if claim.kind == "bpm":
        return f"{claim.value} {rng.choice(('BPM', 'BPM', 'bpm', 'beats per minute'))}"
    if claim.kind == "key":
        return _key(claim.value, rng)
    phrases = ENGLISH[claim.kind][claim.value]
    return phrases[0] if rng.random() < 0.55 else rng.choice(phrases)


def _key(key_scale: str, rng: random.Random) -> str:
    spelled = enharmonic(key_scale) if rng.random() < 0.3 else key_scale
    tonic, _, mode = spelled.partition(" ")
    if rng.random() < 0.3:
        tonic = (SHARPS | FLATS).get(tonic, tonic)
    return f"{tonic} {mode}"


_TAGS = {
    "bpm": ("{}", "{}", "at {}", "tempo {number}", "{number}bpm"),
    "key": ("{}", "in {}", "key of {}"),
    "is": ("{}", "{}", "{}", "with {}"),
    "not": ("no {}", "no {}", "without {}", "without any {}"),
    "only": ("solo {}", "{} only", "only {}", "just {}", "{} solo", "{} alone"),
    "leads": ("{} melody", "led by {}", "melody on {}", "{} lead line"),
}


def _tag(claim: Claim, rng: random.Random) -> str:
    said = _word(claim, rng)
    if claim.kind == "style" and rng.random() < 0.2:
        return _as_noun(said, rng)
    kind = claim.polarity if claim.kind == "instrument" else claim.kind
    return rng.choice(_TAGS.get(kind, ("{}",))).format(said, number=claim.value)


_SENTENCES = {
    "mood": ("The mood is {}", "It feels {}"),
    "tempo": ("The music is {}", "The pace is {}"),
    "bpm": ("The tempo is {}", "It runs at {}"),
    "key": ("It is in {}", "The key is {}"),
    "mode": ("It is in a {}",),
    "density": ("The texture is {}",),
    "style": ("The style is {}",),
    "count": ("It is played as a {}",),
    "is": ("It features {}", "You can hear {}", "It is played with {}"),
    "not": ("There is no {}", "It does without {}", "No {}"),
    "only": ("Only {} can be heard", "It is played on {} alone"),
    "leads": ("It is led by {}", "It has the melody on {}"),
}


def _sentence(claim: Claim, rng: random.Random) -> str:
    said = _word(claim, rng)
    if claim.kind == "metre":
        return f"It is {_in(claim, rng)}"
    if claim.kind == "use":
        return f"Made {said}" if said.startswith("for ") else f"It works as {said}"
    if claim.kind == "register":
        return f"It keeps to a {said}" if said.endswith("register") else f"The melody is {said}"
    if claim.kind == "vocals":
        return f"There is {said}" if said.startswith("no ") else f"It is {said}"
    if claim.kind == "place":
        return (
            f"The clip {said}"
            if said[0] in "se"
            else f"It comes as a {said}"
            if said[0] == "c"
            else f"It is {said}"
        )
    kind = claim.polarity if claim.kind == "instrument" else claim.kind
    return rng.choice(_SENTENCES[kind]).format(said)


def _article(text: str) -> str:
    """By sound: an energetic rock, an 80s disco, a euphoric trance; none before music."""
    head = re.split(r" ?,| (?:with|without|in|at|for|on|led|featuring|played)\b", text)[0]
    if head.endswith("music"):
        return "some"
    start = text[:2].lower()
    if start[:1] == "8" or text[:2] in ("F#", "A#", "Eb", "Ab"):
        return "an"
    return "an" if start == "un" or (start[0] in "aeiou" and start not in ("eu", "us")) else "a"
