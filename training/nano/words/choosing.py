"""Which of a clip's facts a caption tells."""

from __future__ import annotations

import random

from training.nano.music.arrange import LYRICAL
from training.nano.music.instruments import INSTRUMENTS
from training.nano.music.piece import DRUMS, PERCUSSION, Facts
from training.nano.words.claims import Claim, Polarity, is_true, places, stems_of
from training.nano.words.vocabulary import GROUPS, TEMPI, USES

# How many claims a caption makes, and how often.
_COUNTS = {1: 0.14, 2: 0.18, 3: 0.2, 4: 0.16, 5: 0.12, 7: 0.12, 99: 0.08}
_ABSENT = ("piano", "guitar", "strings", "synth", "bass", "brass", "violin", "flute", "choir", "percussion")


def choose(facts: Facts, rng: random.Random) -> list[Claim]:
    """Some true claims, at least one, in random order; a cut always says that it is one."""
    claims = [*_scene(facts, rng), *_instruments(facts, rng), *_drums(facts, rng), *_score(facts, rng)]
    claims = [claim for claim in dict.fromkeys(claims) if is_true(claim, facts)]
    if not claims:
        claims = [Claim("bpm", str(facts.bpm))]
    rng.shuffle(claims)
    (count,) = rng.choices(list(_COUNTS), weights=list(_COUNTS.values()))
    claims = claims[:count]
    values = places(facts)
    if values != ("whole",) or rng.random() < 0.04:
        claims += [Claim("place", value) for value in values]
    return claims


def _scene(facts: Facts, rng: random.Random) -> list[Claim]:
    claims = []
    # One instrument alone is no drum and bass; drums are their style.
    has_style = facts.solo in (None, DRUMS) or facts.style in LYRICAL
    if has_style and rng.random() < (0.75 if len(stems_of(facts)) > 1 else 0.45):
        claims.append(Claim("style", facts.style))
    if rng.random() < 0.5:
        moods = rng.sample(facts.moods, k=min(len(facts.moods), rng.choice((1, 1, 1, 2))))
        claims += [Claim("mood", mood) for mood in moods]
    uses = [use for use, styles in USES.items() if has_style and facts.style in styles]
    if uses and rng.random() < 0.18:
        claims.append(Claim("use", rng.choice(uses)))
    if rng.random() < 0.15:
        claims.append(Claim("density", facts.density))
    if facts.register and rng.random() < 0.25:
        claims.append(Claim("register", facts.register))
    # Most claims of density and register are untrue of "medium" and "mid", for which there are no words.
    return [claim for claim in claims if claim.value not in ("medium", "mid")]


def _instruments(facts: Facts, rng: random.Random) -> list[Claim]:
    if facts.solo and facts.solo != DRUMS:
        polarity: Polarity = "only" if rng.random() < 0.8 else "is"
        return [Claim("instrument", _term(facts.solo, rng), polarity)] if rng.random() < 0.9 else []
    claims = []
    names = list(facts.instruments)
    if names and rng.random() < 0.85:
        rng.shuffle(names)
        chosen = names[: rng.randint(1, len(names))]
        claims += [Claim("instrument", _term(name, rng)) for name in chosen]
        if len(facts.heard) == 2 and rng.random() < 0.4:
            claims.append(Claim("count", "2"))
    if facts.lead in facts.instruments and rng.random() < 0.2:
        leads = Claim("instrument", facts.lead, "leads")
        claims = [claim for claim in claims if facts.lead not in GROUPS.get(claim.value, (claim.value,))]
        claims.append(leads)
    return claims


def _drums(facts: Facts, rng: random.Random) -> list[Claim]:
    claims: list[Claim] = []
    if facts.solo == DRUMS:
        return [Claim("instrument", DRUMS, "only" if rng.random() < 0.85 else "is")]
    if facts.has_drums and rng.random() < 0.45:
        claims.append(Claim("instrument", DRUMS))
    if facts.has_percussion and rng.random() < 0.2:
        claims.append(Claim("instrument", PERCUSSION))
    if not facts.has_drums and rng.random() < (0.3 if facts.solo else 0.6):
        claims.append(Claim("instrument", DRUMS, "not"))
    if rng.random() < 0.12:
        absent = rng.choice((*_ABSENT, rng.choice(list(INSTRUMENTS))))
        claims.append(Claim("instrument", absent, "not"))
    if rng.random() < 0.15:
        claims.append(Claim("vocals", "none"))
    return claims


def _score(facts: Facts, rng: random.Random) -> list[Claim]:
    claims = []
    drawn = rng.random()
    if drawn < 0.35:
        claims += [Claim("tempo", tempo) for tempo in TEMPI]
    elif drawn < 0.6:
        claims.append(Claim("bpm", str(facts.bpm)))
    drawn = rng.random()
    if facts.key_scale and drawn < 0.3:
        claims.append(Claim("key", facts.key_scale))
    elif facts.key_scale and drawn < 0.4:
        claims.append(Claim("mode", facts.key_scale.rpartition(" ")[2]))
    if rng.random() < 0.18:
        claims.append(Claim("metre", facts.time_signature))
    return claims


def _term(name: str, rng: random.Random) -> str:
    """The instrument's own name, or now and then that of its group."""
    groups = [group for group, names in GROUPS.items() if name in names]
    return rng.choice(groups) if groups and rng.random() < 0.25 else name
