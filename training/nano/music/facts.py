"""What is true of a piece or a cut of it, read from its notes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from training.nano.music.piece import (
    BEATS,
    DRUMS,
    LEAD_IN,
    PERCUSSION,
    Facts,
    Note,
    Piece,
    Place,
    Section,
    Stem,
)

_PROMINENT = 0.3  # share of a clip that an instrument must sound to be one that plays in it
_ORDER = ("lead", "chords", "arp", "counter", "pad", "bass")
_SPARSE, _DENSE = 4.0, 14.0  # notes a second; about a quarter of the pieces lie below, and above
_LOW, _HIGH = 58.0, 75.0  # mean pitch of the highest voice
_MOODS = {
    ("major", 0): ("calm", "warm"),
    ("major", 1): ("happy", "bright"),
    ("major", 2): ("joyful", "energetic", "bright"),
    ("minor", 0): ("sad", "melancholic", "lonely", "calm"),
    ("minor", 1): ("dark", "melancholic", "serious"),
    ("minor", 2): ("intense", "dramatic", "energetic"),
    (None, 0): ("calm",),
    (None, 1): ("steady",),
    (None, 2): ("energetic",),
}
_STYLE_MOODS = {
    "funk": "groovy", "disco": "groovy", "latin": "groovy", "house": "groovy", "cinematic": "epic",
    "march": "solemn",
    "ambient": "dreamy", "lullaby": "dreamy", "lo-fi": "nostalgic", "city pop": "nostalgic",
    "synthwave": "nostalgic",
    "chiptune": "playful", "celtic": "playful", "waltz": "elegant", "chamber strings": "elegant",
    "bossa nova": "elegant",
    "classical": "elegant", "metal": "aggressive", "techno": "hypnotic", "trance": "hypnotic",
    "tango": "passionate",
    "ballad": "romantic", "japanese": "serene", "reggae": "relaxed", "jazz": "relaxed",
}  # fmt: skip
_ONLY_CALM = ("relaxed", "serene", "dreamy", "romantic")  # not where energy is 2


@dataclass(frozen=True, slots=True)
class Origin:
    """What the composer decided, whatever of it a clip shows."""

    style: str
    form: str
    bpm: int
    time_signature: str
    key_scale: str
    energy: int


def facts_of(
    origin: Origin, stems: Sequence[Stem], notes: Sequence[Note], seconds: float, place: Place | None = None
) -> Facts:
    """The facts of a clip of `seconds` in which `notes` sound."""
    shares = {stem.name: _share(stem, notes, seconds) for stem in stems}
    melodic = [stem for stem in stems if not stem.is_drums]
    heard = [stem.name for stem in melodic if shares[stem.name] > 0]
    rank = {stem.name: min(_ORDER.index(role) for role in stem.roles) for stem in melodic}
    heard.sort(key=lambda name: rank[name])
    pitched = [note for note in notes if note.stem in rank]
    key_scale = origin.key_scale if pitched else None
    density = _density(notes, seconds)
    return Facts(
        style=origin.style,
        form=origin.form,
        bpm=origin.bpm,
        time_signature=origin.time_signature,
        key_scale=key_scale,
        seconds=seconds,
        instruments=tuple(name for name in heard if shares[name] >= _PROMINENT),
        heard=tuple(heard),
        lead=heard[0] if heard and rank[heard[0]] == 0 else None,
        has_drums=shares.get(DRUMS, 0.0) > 0,
        has_percussion=shares.get(PERCUSSION, 0.0) > 0,
        energy=origin.energy,
        density=density,
        register=_register(melodic, heard, pitched),
        moods=_moods(origin, key_scale),
        place=place or Place(0.0, seconds),
    )


def _share(stem: Stem, notes: Sequence[Note], seconds: float) -> float:
    """How much of the clip a stem plays in: from the first note of a second to its last."""
    counted = {
        second
        for note in notes
        if note.stem == stem.name and note.end > 0 and note.start < seconds
        for second in range(max(0, int(note.start)), int(min(note.end, seconds - 0.01)) + 1)
    }
    return len(counted) / max(1.0, seconds)


def _density(notes: Sequence[Note], seconds: float) -> str:
    rate = len(notes) / seconds
    return "sparse" if rate < _SPARSE else "dense" if rate > _DENSE else "medium"


def _register(stems: Sequence[Stem], heard: Sequence[str], pitched: Sequence[Note]) -> str | None:
    """Of the first voice: what a listener takes for the tune."""
    tune = [note for note in pitched if heard and note.stem == heard[0]]
    weight = sum(note.end - note.start for note in tune)
    if not weight:
        return None
    # Of an instrument that also accompanies itself, the upper half is the tune.
    tune.sort(key=lambda note: note.pitch)
    accompanies = any(stem.name == heard[0] and len(stem.roles) > 1 for stem in stems)
    upper = tune[len(tune) // 2 :] if accompanies else tune
    mean = sum(note.pitch for note in upper) / len(upper)
    return "low" if mean < _LOW else "high" if mean > _HIGH else "mid"


def _moods(origin: Origin, key_scale: str | None) -> tuple[str, ...]:
    mode = key_scale.rpartition(" ")[2] if key_scale else None
    moods = list(_MOODS[mode, origin.energy])
    own = _STYLE_MOODS.get(origin.style)
    if own and not (origin.energy == 2 and own in _ONLY_CALM):
        moods.append(own)
    return tuple(moods)


def cut(piece: Piece, start: float, seconds: float) -> Piece:
    """`seconds` of a whole piece from `start` on, as a piece whose place says so.

    Raises ValueError where the piece does not reach so far.
    """
    facts = piece.facts
    if start < 0 or start + seconds > facts.seconds + 1e-6:
        raise ValueError(f"a cut of {seconds:g} s from {start:g} s lies outside of {facts.seconds:g} s")
    sounding = (note for note in piece.notes if note.end > start and note.start < start + seconds)
    notes = tuple(
        dataclasses.replace(note, start=note.start - start, end=note.end - start) for note in sounding
    )
    place = Place(start, facts.seconds, start < 1e-6, start + seconds > facts.seconds - 1e-6)
    origin = Origin(
        facts.style, facts.form, facts.bpm, facts.time_signature, facts.key_scale or "C major", facts.energy
    )
    found = facts_of(origin, piece.stems, notes, seconds, place)
    names = (
        *found.heard,
        *(name for name in (DRUMS, PERCUSSION) if any(note.stem == name for note in notes)),
    )
    stems = tuple(stem for stem in piece.stems if stem.name in names)
    sections = (_moved(section, start) for section in piece.sections)
    inside = tuple(section for section in sections if section.end > 0 and section.start < seconds)
    return Piece(piece.seed, piece.material, found, stems, inside, notes)


def _moved(section: Section, start: float) -> Section:
    return dataclasses.replace(section, start=section.start - start, end=section.end - start)


def cut_starts(piece: Piece) -> list[float]:
    """Where cuts may begin: `LEAD_IN` before each bar, so that all clips have their downbeat there."""
    facts = piece.facts
    bar = BEATS[facts.time_signature] * 60.0 / facts.bpm
    count = int((facts.seconds - LEAD_IN) / bar)
    return [0.0, *(round(number * bar, 9) for number in range(1, count))]
