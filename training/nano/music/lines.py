"""What single voices play: melodies with themes and variations, accompaniment, drums with fills."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from training.nano.music.arrange import Voice
from training.nano.music.figures import CADENCES, COUNTERS, RHYTHMS
from training.nano.music.instruments import DRUM_MAP, HAND, Instrument
from training.nano.theory import Chord, Key

_SCALES = {
    ("pentatonic", "major"): (0, 2, 4, 7, 9),
    ("pentatonic", "minor"): (0, 3, 5, 7, 10),
    ("japanese", "major"): (0, 2, 4, 7, 9),
    ("japanese", "minor"): (0, 2, 3, 7, 8),
}
_LEVEL_VELOCITY = (-22, -12, 0, 8)
_WRITTEN, _WINDOW = 60, 17  # lowest note of a melody as it is written, and its range in semitones
_LOWEST = {"chords": 53, "arp": 57, "pad": 53, "bass": 28}

Strike = tuple[float, float, int, int]  # first step, steps held, pitch, velocity
Bar = list[Strike]
Theme = list[Bar]


@dataclass(frozen=True, slots=True)
class Harmony:
    """The key and the notes that melodies use in it."""

    key: Key
    scale: str

    def melodic(self, chord: Chord) -> tuple[int, ...]:
        steps = _SCALES.get((self.scale, self.key.mode))
        if steps is None:
            return tuple(chord.scale)
        return tuple((self.key.tonic + step) % 12 for step in steps)

    def strong(self, chord: Chord) -> tuple[int, ...]:
        """Chord tones that a melody may rest on."""
        tones = chord.tones[:3]
        return tuple(tone for tone in tones if tone in self.melodic(chord)) or tones

    def voiced(self, chord: Chord) -> Chord:
        """The chord as it is struck: in Japanese scales without the tones that these lack."""
        if self.scale != "japanese":
            return chord
        tones = tuple(tone for tone in chord.tones if tone in self.melodic(chord))
        return Chord(tones if len(tones) > 1 else chord.tones[:3:2], chord.scale)


def octaves_to(instrument: Instrument, register: str) -> int:
    """Semitones, whole octaves, from where melodies are written to a register of this instrument."""
    whole = [
        12 * octave
        for octave in range(-3, 4)
        if instrument.low - 2 <= _WRITTEN + 12 * octave
        and _WRITTEN + _WINDOW + 12 * octave <= instrument.high + 2
    ]
    highest = max(instrument.low, instrument.high - _WINDOW)
    low = {"low": instrument.low, "mid": (instrument.low + highest) // 2, "high": highest}[register]
    return min(whole or range(-36, 37, 12), key=lambda shift: abs(_WRITTEN + shift - low))


def signs(figure: str) -> Iterator[tuple[int, str, int]]:
    """(step, sign, steps held) of each strike of a figure."""
    for step, sign in enumerate(figure):
        if sign in ".-":
            continue
        tail = figure[step + 1 :]
        yield step, sign, 1 + len(tail) - len(tail.lstrip("-"))


def velocity(base: int, level: int, energy: int) -> int:
    return max(24, min(112, base + _LEVEL_VELOCITY[level] + 4 * (energy - 1)))


class Melodist:
    """Writes themes of one piece: steps between chord tones, two rhythms that alternate, a breath at the end.

    All are written in one place and sound in octaves from there, so that covers keep them.
    """

    def __init__(
        self,
        harmony: Harmony,
        metre: str,
        energy: int,
        instrument: Instrument,
        register: str,
        rng: random.Random,
    ) -> None:
        self._harmony = harmony
        self._metre = metre
        self._energy = energy
        self._shift = octaves_to(instrument, register)
        self._highest = instrument.high - self._shift
        self._rng = rng

    def theme(self, chords: list[Chord]) -> Theme:
        rhythms = RHYTHMS[self._metre][self._energy]
        motif, answer = self._rng.choice(rhythms), self._rng.choice(rhythms)
        pitch = self._rng.choice(self._reach((self._harmony.key.tonic,)))
        bars: Theme = []
        for number, chord in enumerate(chords):
            is_last = number == len(chords) - 1 and len(chords) > 1
            rhythm = CADENCES[self._metre] if is_last else answer if number % 2 else motif
            bar: Bar = []
            for step, _, held in signs(rhythm):
                rests = step % 8 == 0 or held >= 4
                allowed = self._harmony.strong(chord) if rests else self._harmony.melodic(chord)
                key = self._harmony.key
                if key.tonic in chord.tones and (step == 0 or is_last or self._rng.random() < 0.25):
                    allowed = (key.tonic,)  # the melody comes home where the harmony lets it
                    third = key.scale()[2]
                    if third in chord.tones and not is_last and self._rng.random() < 0.35:
                        allowed = (third,)  # major and minor differ in little else
                pitch = self._near(pitch, allowed)
                bar.append((step, held, pitch, 96))
            bars.append(bar)
        return bars

    def varied(self, theme: Theme, chords: list[Chord], turn: int, form: str) -> Theme:
        """The theme as it comes again: the same, ornamented, with a new answer, or an octave higher."""
        if turn == 0:
            return theme
        ways = ("same", "ornament", "answer", "octave")
        way = ("ornament", "answer", "octave")[turn % 3] if form == "variations" else self._rng.choice(ways)
        if way == "ornament":
            return [self._ornamented(bar, chord) for bar, chord in zip(theme, chords, strict=False)]
        if way == "answer" and len(theme) > 1:
            half = len(theme) // 2
            return [*theme[:half], *self.theme(chords[: len(theme)])[half:]]
        top = max((pitch for bar in theme for _, _, pitch, _ in bar), default=127)
        if way == "octave" and top + 12 <= min(self._highest, _WRITTEN + _WINDOW + 7):
            return [[(step, held, pitch + 12, loud) for step, held, pitch, loud in bar] for bar in theme]
        return theme

    def counter(self, chord: Chord) -> Bar:
        """Long notes below the melody."""
        bar: Bar = []
        for step, _, held in signs(COUNTERS[self._metre]):
            reach = self._reach(self._harmony.strong(chord))
            bar.append((step, held, self._rng.choice(reach[: max(1, len(reach) // 2)]), 84))
        return bar

    def home(self) -> int:
        """The tonic in the middle, as it sounds."""
        middle = _WRITTEN + _WINDOW // 2
        return (
            min(self._reach((self._harmony.key.tonic,)), key=lambda pitch: abs(pitch - middle)) + self._shift
        )

    def sounding(self, bar: Bar) -> Bar:
        return [(step, held, pitch + self._shift, loud) for step, held, pitch, loud in bar]

    def _ornamented(self, bar: Bar, chord: Chord) -> Bar:
        changed: Bar = []
        for step, held, pitch, loud in bar:
            if held >= 4 and held % 2 == 0 and step > 0:
                beside = self._near(pitch, self._harmony.melodic(chord))
                changed += [(step, held / 2, pitch, loud), (step + held / 2, held / 2, beside, loud - 6)]
            else:
                changed.append((step, held, pitch, loud))
        return changed

    def _reach(self, allowed: tuple[int, ...]) -> list[int]:
        return [pitch for pitch in range(_WRITTEN, _WRITTEN + _WINDOW + 1) if pitch % 12 in allowed]

    def _near(self, pitch: int, allowed: tuple[int, ...]) -> int:
        reach = [near for near in self._reach(allowed) if near != pitch or len(allowed) == 1]
        reach.sort(key=lambda near: abs(near - pitch))
        return self._rng.choice(reach[:3])


def accompany(voice: Voice, chord: Chord) -> Bar:
    """One bar of a voice's figure over a chord."""
    base = {"bass": 96, "pad": 64, "arp": 78}.get(voice.role, 74)
    bar: Bar = []
    for step, sign, held in signs(voice.figure):
        loud = base - (14 if sign == "o" else 0)
        bar += [(step, held, pitch, loud) for pitch in pitches(voice, chord, sign)]
    return bar


def pitches(voice: Voice, chord: Chord, sign: str) -> list[int]:
    """What one sign of a figure strikes, inside the instrument's register."""
    instrument = voice.instrument
    low = max(instrument.low, _LOWEST[voice.role])
    low = min(low, max(instrument.low, instrument.high - 24))
    if voice.role == "bass":
        root = low + (chord.root - low) % 12
        notes = [root, *(root + (tone - chord.root) % 12 for tone in chord.tones[1:3]), root + 12]
        if len(notes) == 3:
            notes.insert(1, root + 12)  # an open fifth has no third
        chosen = [notes[int(sign)]]
    elif sign.isdigit():
        chosen = [chord.ladder(low, 8)[int(sign)]]
    elif instrument.power_chords:
        root = instrument.low + (chord.root - instrument.low) % 12
        chosen = [root, root + 7, root + 12]
    else:
        chosen = chord.ladder(low, max(3, len(chord.tones)))
    return [pitch - 12 if pitch > instrument.high else pitch for pitch in chosen]


def drum_bar(groove: dict[str, str], level: int, *, light: bool, fill: bool) -> list[tuple[str, float, int]]:
    """(drum, step, velocity) of one bar; `light` leaves the snare out, `fill` ends in a roll."""
    struck: list[tuple[str, float, int]] = []
    length = len(next(iter(groove.values())))
    until = length // 2 if fill else length
    for drum, figure in groove.items():
        if light and drum in ("snare", "clap", "crash", "cowbell"):
            continue
        for step, sign, _ in signs(figure):
            if step >= until and drum not in ("kick", *HAND):
                continue
            loud = DRUM_MAP[drum][1] - (22 if sign == "o" else 0)
            struck.append((drum, step, max(20, min(124, loud + _LEVEL_VELOCITY[level] // 2))))
    if fill:
        roll = ("snare", "snare", "high tom", "tom", "tom", "low tom", "low tom", "low tom")
        for number, step in enumerate(range(until, length, 1 if length <= 8 else 2)):
            struck.append((roll[min(number, 7)], step, 84 + 4 * number))
    return struck
