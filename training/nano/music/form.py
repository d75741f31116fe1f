"""The form of a piece: how many bars fit, which sections they make, and when each bar and step falls."""

from __future__ import annotations

from dataclasses import dataclass

from training.nano.music.figures import FORMS
from training.nano.music.piece import BEATS, LEAD_IN

SHORTEST = 8.0  # seconds; below that no bar of a slow piece fits
_RING = 1.8  # seconds that the last chord has at least
_UNITS = (8, 4, 2, 1)  # bars of a section
_INTRO = 4  # bars at most; what is left over beyond is the outro
_NAMES = {
    "song": {"A": "verse", "B": "chorus", "C": "bridge"},
    "variations": {"A": "variation"},
    "riff": {"A": "riff", "B": "chorus", "C": "break"},
    "build": {"A": "drop", "B": "break"},
    "drone": {"A": "layer"},
}


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the steps of a bar fall, in seconds; off-beats are late where the style swings."""

    metre: str
    bpm: int
    swing: float = 0.5

    @property
    def bar(self) -> float:
        return BEATS[self.metre] * 60.0 / self.bpm

    @property
    def steps(self) -> int:
        return BEATS[self.metre] * self._per_beat

    @property
    def _per_beat(self) -> int:
        return 6 if self.metre == "6" else 4

    def accent(self, step: float) -> int:
        """How much louder a note at this step is."""
        return 11 if step == 0 else 5 if step % self._per_beat == 0 else 0

    def time(self, bar: int, step: float) -> float:
        beat, within = divmod(step, self._per_beat)
        if self.metre == "6" or within != int(within):
            share = within / self._per_beat
        else:
            share = (0.0, 0.5 * self.swing, self.swing, self.swing + (1 - self.swing) / 2)[int(within)]
        return LEAD_IN + bar * self.bar + (beat + share) * 60.0 / self.bpm


@dataclass(frozen=True, slots=True)
class Span:
    """`bars` bars from bar `first` on; `turn` counts the sections of the same letter before this one."""

    name: str
    letter: str
    level: int
    first: int
    bars: int
    turn: int


def bars_in(seconds: float, grid: Grid) -> int:
    """Whole bars before the last chord, which has the rest to ring out."""
    return max(1, int((seconds - LEAD_IN - _RING) / grid.bar + 1e-9))


def lay_out(bars: int, form: str, *, longest: int = 8) -> list[Span]:
    """Sections that fill `bars` bars: at least three of the longest unit that allows it."""
    unit = next((unit for unit in _UNITS if unit <= longest and bars // unit >= 3), 1)
    plan = [(_NAMES.get(form, {}).get(part[0], part[0]), part) for part in _sequence(form, bars // unit)]
    lengths = [unit] * len(plan)
    left = bars % unit
    if left:
        plan.insert(0, ("intro", "A0"))
        lengths.insert(0, min(left, _INTRO))
    if left > _INTRO:
        plan.append(("outro", "A1"))
        lengths.append(left - _INTRO)
    spans: list[Span] = []
    turns: dict[str, int] = {}
    first = 0
    for (name, part), length in zip(plan, lengths, strict=True):
        letter, level = part[0], part[1]
        is_theme = name not in ("intro", "outro")
        turn = turns.get(letter, 0)
        spans.append(Span(name, letter, int(level), first, length, turn))
        turns[letter] = turn + is_theme
        first += length
    return spans


def _sequence(form: str, count: int) -> list[str]:
    parts = FORMS[form]
    if count in parts:
        return parts[count].split()
    whole = parts[8].split()
    body = whole[:-1] * (count // 7 + 1)
    return [*body[: count - 1], whole[-1]]
