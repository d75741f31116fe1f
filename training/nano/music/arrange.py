"""Which instruments play a piece, and what each does in it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from training.nano.music.figures import ARPEGGIOS, BASS_FIGURES, CHORD_FIGURES
from training.nano.music.instruments import HAND, INSTRUMENTS, KITS, LEADS, Instrument, track_of
from training.nano.music.piece import DRUMS, PERCUSSION, Stem, Wish
from training.nano.music.styles import Part, Style

# Styles that are themselves with one instrument alone, whichever it is.
LYRICAL = (
    *("folk", "celtic", "japanese", "waltz", "ballad", "lullaby", "ambient", "classical", "jazz"),
    *("blues", "march", "tango", "bossa nova", "cinematic", "pop"),
)
PURE = ("chamber strings", "chiptune")  # styles that are their instruments
_KINDS = {"band": 0.64, "solo": 0.22, "duo": 0.10, "drums": 0.04}
# Share of parts that any instrument plays: nano is to tell style and instrument apart.
_STRANGERS = {"lead": 0.35, "chords": 0.15, "arp": 0.15, "counter": 0.3}
_FIGURES = {"chords": CHORD_FIGURES, "pad": CHORD_FIGURES, "arp": ARPEGGIOS, "bass": BASS_FIGURES}
_USUAL = {
    "chords": ("halves", "quarters", "eighths"),
    "arp": ("up", "alberti", "slow"),
    "bass": ("root halves",),
}
# What does not lead must carry a piece alone.
_ALONE = {"bass": ("walk", "walk up", "root quarters", "boogie"), "pad": ("halves", "quarters")}
# How loud a role is beside the lead, in LU, and how far from the middle.
_LEVELS = {
    "lead": 0,
    "counter": -3,
    "chords": -5,
    "arp": -4,
    "pad": -7,
    "bass": -2,
    DRUMS: -2,
    PERCUSSION: -7,
}
_PANS = {"lead": 0.1, "counter": 0.5, "chords": 0.4, "arp": 0.45, "pad": 0.15, "bass": 0.0, DRUMS: 0.0}


@dataclass(frozen=True, slots=True)
class Voice:
    """One instrument in one role. `figure` is its bar; from level `enters` on it plays."""

    role: str
    instrument: Instrument
    figure: str
    enters: int

    @property
    def stem(self) -> str:
        return self.instrument.name


@dataclass(frozen=True, slots=True)
class Arrangement:
    voices: tuple[Voice, ...]
    has_drums: bool


def kind_of(wish: Wish, rng: random.Random) -> str:
    """How many are to play: a band, one, two, or the drums alone."""
    if wish.ensemble is not None:
        return "wished"
    kinds = {kind: share for kind, share in _KINDS.items() if kind != "drums" or wish.drums is not False}
    if wish.drums:
        kinds["solo"] = 0.0
    (kind,) = rng.choices(list(kinds), weights=list(kinds.values()))
    return kind


def fits(style: Style, kind: str, wish: Wish) -> bool:
    """Whether a style is still itself when played so."""
    if kind == "drums" or wish.drums:
        return style.drum_chance > 0.4
    if kind == "solo" or (wish.ensemble is not None and len(wish.ensemble) == 1):
        return style.name in LYRICAL or _plays(style, wish.ensemble)
    return kind == "band" or style.name not in PURE


def _plays(style: Style, ensemble: tuple[str, ...] | None) -> bool:
    return any(name in part.instruments for part in style.parts for name in ensemble or ())


def arrange(style: Style, metre: str, kind: str, wish: Wish, rng: random.Random) -> Arrangement:
    """Choose what plays in a piece of `style`."""
    if kind == "drums":
        return Arrangement((), has_drums=True)
    if kind == "wished" and wish.ensemble is not None:
        has_drums = bool(wish.drums) or not wish.ensemble
        if wish.drums is None and len(wish.ensemble) > 1:
            has_drums = rng.random() < style.drum_chance
        roles = _assign(wish.ensemble, style)
    elif kind == "solo":
        # Sometimes an instrument of the style, mostly any.
        own = [name for part in style.parts if part.role == "lead" for name in part.instruments]
        names = (rng.choice(own if own and rng.random() < 0.3 else list(INSTRUMENTS)),)
        roles, has_drums = _assign(names, style), False
    else:
        roles = _band(style, rng) if kind == "band" else _duo(style, rng)
        chance = style.drum_chance * (0.88 if kind == "band" else 0.35)
        has_drums = rng.random() < chance if wish.drums is None else wish.drums
    return Arrangement(_voices(roles, style, metre, rng), has_drums)


Roles = list[tuple[str, str]]  # role, instrument


def _band(style: Style, rng: random.Random) -> Roles:
    roles: Roles = []
    for part in style.parts:
        if rng.random() >= part.chance:
            continue
        names = list(part.instruments)
        if style.name not in PURE and rng.random() < _STRANGERS.get(part.role, 0.0):
            names = [name for name in INSTRUMENTS if part.role in INSTRUMENTS[name].roles]
        taken = set() if style.name in PURE else {name for _, name in roles}
        roles.append((part.role, rng.choice([name for name in names if name not in taken] or names)))
    return roles


def _duo(style: Style, rng: random.Random) -> Roles:
    lead = rng.choice(LEADS)
    second = [part for part in style.parts if part.role in ("chords", "arp", "bass", "pad")]
    part = rng.choice(second)
    names = [name for name in part.instruments if name != lead] or ["piano", "harp"]
    return [("lead", lead), (part.role, rng.choice(names))]


def _assign(names: tuple[str, ...], style: Style) -> Roles:
    """A role for each instrument: what the style gives it, else the first free one that it can play."""
    roles: Roles = []
    if len(names) == 1:
        one = INSTRUMENTS[names[0]]
        own = [part.role for part in style.parts if part.role in ("chords", "arp")]
        texture = next((role for role in own if role in one.roles), "arp" if "arp" in one.roles else "chords")
        wanted = ("lead", "bass", texture) if one.is_polyphonic else ("lead",)
        played = [role for role in wanted if role in one.roles] or [one.roles[-1]]
        return [(role, one.name) for role in played]
    for number, name in enumerate(names):
        able = INSTRUMENTS[name].roles
        taken = {role for role, _ in roles}
        if number == 0 and "lead" in able:
            roles.append(("lead", name))
            continue
        given = [part.role for part in style.parts if name in part.instruments and part.role in able]
        order = [*given, "chords", "arp", "pad", "bass", "counter"]
        free = [role for role in order if role in able and role not in taken and role != "lead"]
        roles.append((free[0] if free else next(role for role in order if role in able), name))
    if "bass" not in {role for role, _ in roles}:
        roles += [("bass", name) for _, name in roles if name in ("piano", "organ", "harpsichord")][:1]
    return roles


def _voices(roles: Roles, style: Style, metre: str, rng: random.Random) -> tuple[Voice, ...]:
    foundation = next(
        (role for role in ("chords", "arp", "pad", "bass", "lead") if role in {role for role, _ in roles}), ""
    )
    stems = {name for _, name in roles}
    voices: list[Voice] = []
    for role, name in roles:
        enters = 0 if role == foundation or len(stems) == 1 else 2 if role in ("pad", "counter") else 1
        figure = _FIGURES[role][_figure(role, name, style, metre, rng)][metre] if role in _USUAL else ""
        if len(stems) == 1 and role in _ALONE and roles[0][0] == role:
            figure = _FIGURES[role][rng.choice(_ALONE[role])][metre]
        elif role == "pad":
            figure = CHORD_FIGURES["whole"][metre]
        voices.append(Voice(role, INSTRUMENTS[name], figure, enters))
    return tuple(voices)


def _figure(role: str, name: str, style: Style, metre: str, rng: random.Random) -> str:
    parts: list[Part] = [part for part in style.parts if part.role == role]
    own = [part for part in parts if name in part.instruments] or parts
    figures = rng.choice(own).figures if own else _USUAL[role]
    return rng.choice(figures)


def stems_of(arrangement: Arrangement, style: Style, metre: str, rng: random.Random) -> tuple[Stem, ...]:
    """The stems that an arrangement sounds in, the lead first."""
    roles: dict[str, list[str]] = {}
    for voice in arrangement.voices:
        roles.setdefault(voice.stem, []).append(voice.role)
    side = rng.choice((-1.0, 1.0))
    stems = []
    for name, played in roles.items():
        loudest = max(played, key=lambda role: _LEVELS[role])
        side = -side
        pan = round(side * _PANS[loudest], 2) if len(roles) > 1 else 0.0
        stems.append(Stem(name, INSTRUMENTS[name].program, tuple(played), pan, _LEVELS[loudest]))
    if arrangement.has_drums:
        stems += drum_stems(style, metre, side)
    return tuple(stems)


def drum_stems(style: Style, metre: str, side: float) -> list[Stem]:
    kit = KITS[style.kit]
    stems = [Stem(DRUMS, kit, (DRUMS,), 0.0, _LEVELS[DRUMS])]
    if any(drum in HAND for drum in style.grooves[metre]):
        stems.append(Stem(PERCUSSION, kit, (PERCUSSION,), round(0.3 * side, 2), _LEVELS[PERCUSSION]))
    return stems


def tracks_of(stems: tuple[Stem, ...]) -> tuple[str, ...]:
    """The server's names for the groups that play, each once."""
    return tuple(dict.fromkeys(track_of(stem.name) for stem in stems))
