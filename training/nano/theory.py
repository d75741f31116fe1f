"""Keys, scales and chords in twelve-tone equal temperament."""

from dataclasses import dataclass

PITCH_CLASSES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
ENHARMONIC = {"C#": "Db", "Eb": "D#", "F#": "Gb", "Ab": "G#", "Bb": "A#"}
MODES = ("major", "minor")
KEY_SCALES = tuple(f"{tonic} {mode}" for mode in MODES for tonic in PITCH_CLASSES)

_STEPS = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII")
_RESPELLED = {other: name for name, other in ENHARMONIC.items()}


@dataclass(frozen=True)
class Chord:
    """One chord in a key: `tones` are pitch classes from the root up, `scale` those that fit it."""

    tones: tuple[int, ...]
    scale: frozenset[int]

    @property
    def root(self) -> int:
        """The pitch class of the root."""
        return self.tones[0]

    def ladder(self, low: int, count: int) -> list[int]:
        """The first `count` chord tones at or above MIDI pitch `low`, lowest first."""
        return [pitch for pitch in range(low, low + 12 * count) if pitch % 12 in self.tones][:count]

    def power(self, low: int) -> list[int]:
        """Root, fifth and octave, never inverted, the root at or above MIDI pitch `low`."""
        root, _, fifth, octave = self.bass(low)
        return [root, fifth, octave]

    def bass(self, low: int) -> list[int]:
        """Root, third, fifth and octave, the root being its lowest pitch at or above MIDI pitch `low`."""
        root = low + (self.root - low) % 12
        return [*(root + (tone - self.root) % 12 for tone in self.tones[:3]), root + 12]


@dataclass(frozen=True)
class Key:
    """A tonic pitch class and a mode."""

    tonic: int
    mode: str

    @classmethod
    def parse(cls, key_scale: str) -> "Key":
        """Read "F# minor" or "Gb minor"; raises ValueError for anything outside the 24 keys."""
        name, _, mode = key_scale.partition(" ")
        name = _RESPELLED.get(name, name)
        if name not in PITCH_CLASSES or mode not in MODES:
            raise ValueError(f"key_scale {key_scale!r} is unknown: write one of {', '.join(KEY_SCALES)}")
        return cls(PITCH_CLASSES.index(name), mode)

    def __str__(self) -> str:
        return f"{PITCH_CLASSES[self.tonic]} {self.mode}"

    def scale(self) -> tuple[int, ...]:
        """The pitch classes of the seven degrees, from the tonic up; in minor the natural ones."""
        return tuple((self.tonic + step) % 12 for step in _STEPS[self.mode])

    def chord(self, numeral: str, seventh: bool = False) -> Chord:
        """The diatonic chord on a Roman numeral; V in minor borrows the raised seventh degree."""
        scale = list(self.scale())
        if self.mode == "minor" and numeral == "V":
            scale[6] = (self.tonic + 11) % 12
        degree = _NUMERALS.index(numeral.upper())
        thirds = range(degree, degree + (8 if seventh else 6), 2)
        return Chord(tuple(scale[step % 7] for step in thirds), frozenset(scale))


def enharmonic(key_scale: str) -> str:
    """The other common spelling of a key ("C# major" <-> "Db major"), or the same where there is none."""
    name, _, mode = key_scale.partition(" ")
    return f"{(ENHARMONIC | _RESPELLED).get(name, name)} {mode}"


def transpose_key(key_scale: str, semitones: int) -> str:
    """The key that a piece in `key_scale` is in once it is moved up by `semitones`."""
    key = Key.parse(key_scale)
    return str(Key((key.tonic + semitones) % 12, key.mode))
