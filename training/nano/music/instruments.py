"""The instruments, the register that each plays in, and what it can do in an arrangement."""

from __future__ import annotations

from dataclasses import dataclass

from training.nano.music.piece import DRUMS, PERCUSSION

MELODIC_ROLES = ("lead", "counter", "chords", "arp", "pad", "bass")
_ROLES = {"l": "lead", "c": "counter", "h": "chords", "a": "arp", "p": "pad", "b": "bass"}


@dataclass(frozen=True, slots=True)
class Instrument:
    """`program` is General MIDI's, `track` the server's name for its group, `low` to `high` its register."""

    name: str
    program: int
    track: str
    low: int
    high: int
    roles: tuple[str, ...]
    power_chords: bool = False

    @property
    def is_polyphonic(self) -> bool:
        return "chords" in self.roles

    @property
    def leads(self) -> bool:
        return "lead" in self.roles


# name: program, track, lowest and highest note, roles by their letters in _ROLES. Notes are those that sound
# well in the two SoundFonts, not all that a virtuoso can reach.
_TABLE = {
    "piano": (0, "keyboard", 28, 96, "lchab"),
    "electric piano": (4, "keyboard", 36, 91, "lchab"),
    "harpsichord": (6, "keyboard", 36, 86, "lchab"),
    "music box": (10, "keyboard", 60, 96, "lha"),
    "vibraphone": (11, "percussion", 53, 89, "lcha"),
    "marimba": (12, "percussion", 45, 91, "lcha"),
    "organ": (16, "keyboard", 36, 84, "lchapb"),
    "accordion": (21, "keyboard", 53, 86, "lchp"),
    "harmonica": (22, "woodwinds", 60, 86, "lc"),
    "acoustic guitar": (25, "guitar", 40, 79, "lcha"),
    "electric guitar": (27, "guitar", 40, 82, "lcha"),
    "distorted guitar": (29, "guitar", 40, 79, "lch"),
    "banjo": (105, "guitar", 50, 81, "lcha"),
    "double bass": (32, "bass", 28, 55, "b"),
    "electric bass": (33, "bass", 28, 55, "b"),
    "synth bass": (38, "bass", 26, 55, "b"),
    "violin": (40, "strings", 55, 91, "lcp"),
    "cello": (42, "strings", 36, 71, "lcpb"),
    "strings": (48, "strings", 43, 86, "lchp"),
    "pizzicato strings": (45, "strings", 43, 84, "lcha"),
    "harp": (46, "strings", 38, 91, "lcha"),
    "choir": (52, "backing_vocals", 48, 79, "lcp"),
    "trumpet": (56, "brass", 55, 82, "lc"),
    "trombone": (57, "brass", 41, 70, "lcb"),
    "french horn": (60, "brass", 43, 74, "lcp"),
    "brass": (61, "brass", 46, 79, "lchp"),
    "saxophone": (65, "woodwinds", 50, 80, "lc"),
    "oboe": (68, "woodwinds", 59, 87, "lc"),
    "clarinet": (71, "woodwinds", 50, 86, "lc"),
    "flute": (73, "woodwinds", 60, 93, "lc"),
    "shakuhachi": (77, "woodwinds", 57, 86, "lc"),
    "koto": (107, "strings", 45, 86, "lcha"),
    "shamisen": (106, "strings", 48, 79, "lca"),
    "sitar": (104, "guitar", 48, 79, "lca"),
    "steel drums": (114, "percussion", 55, 86, "lcha"),
    "synth lead": (81, "synth", 50, 91, "lca"),
    "square lead": (80, "synth", 50, 96, "lca"),
    "synth pad": (89, "synth", 40, 84, "hp"),
}
_POWER_CHORDS = ("distorted guitar",)

INSTRUMENTS = {
    name: Instrument(
        name, program, track, low, high, tuple(_ROLES[sign] for sign in roles), name in _POWER_CHORDS
    )
    for name, (program, track, low, high, roles) in _TABLE.items()
}
LEADS = tuple(name for name, instrument in INSTRUMENTS.items() if instrument.leads)


def track_of(stem: str) -> str:
    """The server's name for the group that a stem belongs to, as in an extract request."""
    return stem if stem in (DRUMS, PERCUSSION) else INSTRUMENTS[stem].track


# General MIDI drum map: note, and how hard it is struck. What `HAND` holds plays in the percussion stem.
DRUM_MAP = {
    "kick": (36, 112), "rim": (37, 88), "snare": (38, 100), "clap": (39, 96), "hat": (42, 76),
    "open": (46, 78),
    "low tom": (45, 96), "tom": (47, 94), "high tom": (50, 92), "ride": (51, 82), "crash": (49, 92),
    "shaker": (70, 82), "tambourine": (54, 76), "conga": (63, 90), "low conga": (64, 90), "bongo": (60, 86),
    "claves": (75, 84), "cowbell": (56, 74), "guiro": (73, 70), "woodblock": (76, 80),
}  # fmt: skip
HAND = ("shaker", "tambourine", "conga", "low conga", "bongo", "claves", "cowbell", "guiro", "woodblock")
KITS = {"standard": 0, "power": 16, "electronic": 24, "808": 25, "jazz": 32, "brush": 40, "orchestra": 48}
