"""A composer of short, plain pieces: what nano learns from.

Pieces start on a downbeat, keep one tempo and one key, repeat in phrases of four and eight bars, and return
to the tonic: real enough to enjoy, regular enough for five million weights. Styles are data (`styles`),
harmony is `theory`; sound is `render`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from training.nano.styles import (
    DRUMS,
    INSTRUMENTS,
    KITS,
    POWER_CHORDS,
    PROGRESSIONS,
    RHYTHMS,
    STYLES,
    Part,
    Style,
)
from training.nano.theory import KEY_SCALES, Chord, Key

MIN_BPM, MAX_BPM = 60, 180
PHRASE = 4  # bars; one round of the progression
DRUM_CHANNEL = 9
_CHANNELS = tuple(channel for channel in range(16) if channel != DRUM_CHANNEL)


@dataclass(frozen=True, slots=True)
class Note:
    """One note: MIDI channel, General MIDI program, pitch and velocity; start and end in seconds."""

    channel: int
    program: int
    pitch: int
    velocity: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Wish:
    """What a piece must be; None leaves it to the composer."""

    style: str | None = None
    bpm: int | None = None
    key_scale: str | None = None
    time_signature: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A score and its facts. `energy` is 0 (calm) to 2 (lively); `instruments` are named lead first."""

    seed: int
    style: Style
    bpm: int
    key_scale: str
    time_signature: str
    seconds: float
    energy: int
    has_drums: bool
    instruments: tuple[str, ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where sixteenths fall, in seconds; off-beat eighths are late where the style swings."""

    beats: int
    beat_seconds: float
    swing: float

    @property
    def steps(self) -> int:
        return self.beats * 4

    def time(self, bar: int, step: int) -> float:
        beat, quarter = divmod(step, 4)
        half = 0.5 * self.swing
        within = (0.0, half, self.swing, self.swing + (1 - self.swing) / 2)[quarter]
        return (bar * self.beats + beat + within) * self.beat_seconds


def compose(seed: int, seconds: float = 30.0, wish: Wish | None = None) -> Piece:
    """A piece of exactly `seconds`, the same for the same seed and wish.

    Raises ValueError for a wish that no piece can fulfil.
    """
    wish = wish or Wish()
    _check(wish)
    rng = random.Random(seed)
    bpm = wish.bpm if wish.bpm is not None else rng.randint(MIN_BPM, MAX_BPM)
    style, metre = _choose_style(bpm, wish, rng)
    key = Key.parse(wish.key_scale or rng.choice(KEY_SCALES))
    energy = rng.choice(style.energy)
    grid = _Grid(int(metre), 60.0 / bpm, style.swing)
    bars = math.ceil(seconds / (grid.beats * grid.beat_seconds))
    numerals = rng.choice(PROGRESSIONS[key.mode]).split()
    chords = [key.chord(numerals[bar % PHRASE], style.sevenths) for bar in range(bars)]
    parts = [part for part in style.parts if rng.random() < part.chance]
    named: list[tuple[str, str]] = []  # role and instrument of each part; two parts may share a role
    notes: list[Note] = []
    for channel, part in zip(_CHANNELS, parts, strict=False):
        instrument = _choose_instrument(part, named, rng)
        named.append((part.role, instrument))
        strikes = _lead if part.role == "lead" else _accompany
        for note in strikes(part, instrument, chords, grid, energy, rng):
            program, _ = INSTRUMENTS[instrument]
            notes.append(Note(channel, program, *note))
    has_drums = rng.random() < style.drum_chance
    if has_drums:
        notes.extend(_drum(style, metre, grid, bars))
    return Piece(
        seed=seed,
        style=style,
        bpm=bpm,
        key_scale=str(key),
        time_signature=metre,
        seconds=seconds,
        energy=energy,
        has_drums=has_drums,
        instruments=_by_prominence(named),
        notes=tuple(_cut(notes, seconds)),
    )


def _check(wish: Wish) -> None:
    if wish.bpm is not None and not MIN_BPM <= wish.bpm <= MAX_BPM:
        raise ValueError(f"bpm {wish.bpm} cannot be played: write {MIN_BPM} to {MAX_BPM}")
    styles = [style for style in STYLES if wish.style in (None, style.name)]
    if not styles:
        names = ", ".join(style.name for style in STYLES)
        raise ValueError(f"style {wish.style!r} is unknown: write one of {names}")
    metres = sorted({metre for style in styles for metre in style.drums})
    if wish.time_signature not in (None, *metres):
        played_in = f"{wish.style or 'music'} is played in {' or '.join(metres)}"
        raise ValueError(f"time_signature {wish.time_signature!r} cannot be played: {played_in}")


def _choose_style(bpm: int, wish: Wish, rng: random.Random) -> tuple[Style, str]:
    """A style that lives at this tempo and in this metre; three beats for a quarter of the pieces."""
    metre = wish.time_signature or ("3" if rng.random() < 0.25 else "4")
    fitting = [
        style
        for style in STYLES
        if (style.name == wish.style if wish.style else style.bpm[0] <= bpm <= style.bpm[1])
    ]
    playable = [style for style in fitting if metre in style.drums]
    if not playable:  # a style that was wished for, in the one metre that it has
        playable, metre = fitting, next(iter(fitting[0].drums))
    return rng.choice(playable), metre


def _choose_instrument(part: Part, named: list[tuple[str, str]], rng: random.Random) -> str:
    taken = {instrument for _, instrument in named}
    fresh = [name for name in part.instruments if name not in taken]
    return rng.choice(fresh or list(part.instruments))


def _by_prominence(named: list[tuple[str, str]]) -> tuple[str, ...]:
    order = ("lead", "comp", "arp", "pad", "bass")
    ranked = sorted(named, key=lambda part: order.index(part[0]))
    return tuple(dict.fromkeys(instrument for _, instrument in ranked))


Strike = tuple[int, int, float, float]  # pitch, velocity, start, end


def _accompany(
    part: Part, instrument: str, chords: list[Chord], grid: _Grid, energy: int, rng: random.Random
) -> Iterator[Strike]:
    """Repeat one pattern over the chords. `energy` shades the loudness."""
    pattern = rng.choice(part.patterns[str(grid.beats)])
    velocity = part.velocity + 4 * (energy - 1)
    for bar, chord in enumerate(chords):
        for step, sign, held in _signs(pattern):
            start, end = grid.time(bar, step), grid.time(bar, step + held)
            loud = velocity if sign != "o" else velocity - 16
            if step == 0:
                loud += 8
            for pitch in _pitches(part, instrument, chord, sign):
                yield pitch, min(127, loud), start, end


def _pitches(part: Part, instrument: str, chord: Chord, sign: str) -> list[int]:
    if part.role == "bass":
        return [chord.bass(part.low)[int(sign)]]
    if sign.isdigit():
        return [chord.ladder(part.low, 4)[int(sign)]]
    if instrument in POWER_CHORDS:
        return chord.power(part.low)
    return chord.ladder(part.low, len(chord.tones))


def _lead(
    part: Part, instrument: str, chords: list[Chord], grid: _Grid, energy: int, rng: random.Random
) -> Iterator[Strike]:
    """A melody of two phrases, played A A B A; chord tones on the beats that count, steps between."""
    del instrument
    phrases = [_phrase(part, chords[:PHRASE], grid, energy, rng) for _ in "AB"]
    for bar in range(len(chords)):
        phrase = phrases["AABA".index("B") == (bar // PHRASE) % 4]
        for step, held, pitch in phrase[bar % PHRASE]:
            yield pitch, part.velocity, grid.time(bar, step), grid.time(bar, step + held)


def _phrase(
    part: Part, chords: list[Chord], grid: _Grid, energy: int, rng: random.Random
) -> list[list[tuple[int, int, int]]]:
    """One phrase as bars of (step, length in steps, pitch)."""
    rhythms = RHYTHMS[str(grid.beats)][energy]
    motif, answer = rng.choice(rhythms), rng.choice(rhythms)
    tonic = (chords[0].root,)
    pitch = rng.choice(chords[0].ladder(part.low, 3))
    bars = []
    for number in range(PHRASE):
        chord = chords[number % len(chords)]
        bar = []
        for step, _, held in _signs(answer if number % 2 else motif):
            allowed = chord.tones[:3] if step % 8 == 0 or held >= 4 else tuple(chord.scale)
            if chords[0].root in chord.tones and (step == 0 or rng.random() < 0.3):
                allowed = tonic  # the melody comes home whenever the harmony lets it
            pitch = _near(pitch, allowed, part.low, rng)
            bar.append((step, held, pitch))
        bars.append(bar)
    return bars


def _near(pitch: int, allowed: tuple[int, ...], low: int, rng: random.Random) -> int:
    """A step away from `pitch`, within an octave and a half above `low`."""
    reach = [p for p in range(low, low + 18) if p % 12 in allowed and (p != pitch or len(allowed) == 1)]
    reach.sort(key=lambda p: abs(p - pitch))
    return rng.choice(reach[:3])


def _drum(style: Style, metre: str, grid: _Grid, bars: int) -> Iterator[Note]:
    kit = KITS[style.kit]
    for name, pattern in style.drums[metre].items():
        pitch, velocity = DRUMS[name]
        for bar in range(bars):
            for step, sign, _ in _signs(pattern):
                start = grid.time(bar, step)
                loud = velocity if sign == "x" else velocity - 24
                yield Note(DRUM_CHANNEL, kit, pitch, loud, start, start + 0.1)


def _signs(pattern: str) -> Iterator[tuple[int, str, int]]:
    """(step, sign, length in steps) of each strike of a pattern."""
    for step, sign in enumerate(pattern):
        if sign in ".-":
            continue
        tail = pattern[step + 1 :]
        yield step, sign, 1 + len(tail) - len(tail.lstrip("-"))


def _cut(notes: list[Note], seconds: float) -> Iterator[Note]:
    for note in sorted(notes, key=lambda note: (note.start, note.channel, note.pitch)):
        if note.start < seconds - 1e-6:  # bars that end with the piece may seem to begin just before
            yield Note(
                note.channel, note.program, note.pitch, note.velocity, note.start, min(note.end, seconds)
            )
