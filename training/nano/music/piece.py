"""A piece as plain data: notes by stem, its form with times, and what is true of it."""

from __future__ import annotations

from dataclasses import dataclass

DRUMS, PERCUSSION = "drums", "percussion"  # stems without pitches
LEAD_IN = 0.04  # seconds of silence before the first downbeat; cuts begin as long before a bar
BEATS = {"2": 2, "3": 3, "4": 4, "6": 2}  # in six eighths a beat is a dotted quarter


@dataclass(frozen=True, slots=True)
class Note:
    """`pitch` is a MIDI note, for drums that of the General MIDI drum map; times are seconds."""

    stem: str
    pitch: int
    velocity: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Stem:
    """One instrument of a piece. `pan` is -1 (left) to 1, `level` its loudness beside the others in LU."""

    name: str
    program: int
    roles: tuple[str, ...]
    pan: float
    level: float

    @property
    def is_drums(self) -> bool:
        return self.name in (DRUMS, PERCUSSION)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the form; sections of one `letter` share their material. `level` is 0 (bare) to 3 (full)."""

    name: str
    letter: str
    start: float
    end: float
    level: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the piece a clip lies: `start` of `whole` seconds; a whole piece starts and ends."""

    start: float
    whole: float
    starts: bool = True
    ends: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of a clip.

    `instruments` sound for a good part of it, the most prominent first; `heard` are all that sound at all.
    `lead` plays the melody. All leave drums out; with drums alone, `key_scale` and `register` are None.
    """

    style: str
    form: str
    bpm: int
    time_signature: str
    key_scale: str | None
    seconds: float
    instruments: tuple[str, ...]
    heard: tuple[str, ...]
    lead: str | None
    has_drums: bool
    has_percussion: bool
    energy: int
    density: str
    register: str | None
    moods: tuple[str, ...]
    place: Place

    @property
    def solo(self) -> str | None:
        """The one instrument that plays, or the drums alone."""
        if self.has_drums or self.has_percussion:
            return DRUMS if not self.heard else None
        return self.heard[0] if len(self.heard) == 1 else None

    @property
    def beats(self) -> int:
        """Beats a bar, as `bpm` counts them."""
        return BEATS[self.time_signature]


@dataclass(frozen=True, slots=True)
class Material:
    """What a cover keeps of a piece: `seed` draws its harmony and its themes, whichever style plays them."""

    seed: int
    form: str
    harmony: str
    scale: str
    energy: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A score, or a cut of one; times count from the beginning of the clip."""

    seed: int
    material: Material
    facts: Facts
    stems: tuple[Stem, ...]
    sections: tuple[Section, ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a piece must be; None leaves it to the composer.

    `ensemble` are exactly the instruments that play, the lead first; with none of them, drums play alone.
    """

    style: str | None = None
    bpm: int | None = None
    key_scale: str | None = None
    time_signature: str | None = None
    ensemble: tuple[str, ...] | None = None
    drums: bool | None = None
    energy: int | None = None
    register: str | None = None
    material: Material | None = None
