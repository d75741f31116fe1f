"""One-bar figures of the accompaniment, chord progressions, melody rhythms and forms: the composer's small stock.

A figure is one bar in sixteenths: 16 signs in 4/4, 12 in 3/4 and 6/8, 8 in 2/4. "." rests, "-" holds the note
before, "x" and "o" strike a chord, a drum or a melody note (loud and soft), a digit strikes that step of the
chord's ladder.
"""

from __future__ import annotations

# name -> (4/4, 3/4, 6/8); 2/4 is the first half of 4/4.
_CHORDS = {
    "whole": ("x---------------", "x-----------", "x-----------"),
    "halves": ("x-------x-------", "x-------x---", "x-----x-----"),
    "quarters": ("x---x---x---x---", "x---x---x---", "x-----x-----"),
    "eighths": ("x-o-x-o-x-o-x-o-", "x-o-x-o-x-o-", "x-o-o-x-o-o-"),
    "strum": ("x---x-o-x---x-o-", "x---x-o-x-o-", "x---o-x-o-o-"),
    "stabs": ("x-..x-..x-..x-..", "x-..x-..x-..", "x-....x-...."),
    "off": ("..x-..x-..x-..x-", "..x-..x-..x-", "....x-....x-"),
    "after": ("....x-......x-..", "....x---x---", "..x-x-..x-x-"),
    "charleston": ("x-----x-........", "x-----x-....", "x---..x---.."),
    "comping": ("x-....x-..x-....", "x-....x-..x-", "x-..x-..x-.."),
    "funk": ("x...x.x...x...x.", "x...x.x...x.", "x..x..x..x.."),
    "montuno": ("x-x---x---x-x---", "x-x---x-x---", "x-x---x-x---"),
    "push": ("x-----x-----x---", "x-----x---x-", "x---x---x---"),
    "chug": ("x-x-x-x-x-x-x-x-", "x-x-x-x-x-x-", "x-x-x-x-x-x-"),
    "gallop": ("x-oox-oox-oox-oo", "x-oox-oox-oo", "x-oox-x-oox-"),
    "club": ("x--x--x--x--x-x-", "x--x--x--x--", "x--x--x--x--"),
}
_ARPEGGIOS = {
    "up": ("0-1-2-3-0-1-2-3-", "0-1-2-3-2-1-", "0-1-2-3-2-1-"),
    "wave": ("0-1-2-3-4-3-2-1-", "0-1-2-3-2-1-", "0-1-2-4-2-1-"),
    "alberti": ("0-2-1-2-0-2-1-2-", "0-2-1-2-1-2-", "0-2-1-2-1-2-"),
    "slow": ("0---1---2---1---", "0---1---2---", "0-----2-----"),
    "sixteenths": ("0123012301230123", "012301230123", "012321012321"),
    "riff": ("0-0-2-0-3-2-0---", "0-0-2-0-3-2-", "0-0-2-3-2-0-"),
    "riff two": ("0---2-3-..3-2-0-", "0---2-3-2-0-", "0---2-3-2---"),
    "roll": ("0-2-3-2-0-2-3-2-", "0-2-3-2-3-2-", "0-2-3-2-3-2-"),
}
_BASSES = {  # 0 root, 1 third, 2 fifth, 3 octave
    "root": ("0---------------", "0-----------", "0-----------"),
    "root halves": ("0-------0-------", "0-------0---", "0-----0-----"),
    "root quarters": ("0---0---0---0---", "0---0---0---", "0-----0-----"),
    "root eighths": ("0-0-0-0-0-0-0-0-", "0-0-0-0-0-0-", "0-0-0-0-0-0-"),
    "two": ("0-------2-------", "0-----------", "0-----2-----"),
    "march": ("0---2---0---2---", "0-------2---", "0-----2-----"),
    "waltz": ("0---............", "0---........", "0---........"),
    "walk": ("0---1---2---1---", "0---1---2---", "0-----1-----"),
    "walk up": ("0---2---3---2---", "0---2---1---", "0-----2-----"),
    "boogie": ("0-0-2-2-3-3-2-2-", "0-0-2-2-3-3-", "0---2-3---2-"),
    "octaves": ("0-3-0-3-0-3-0-3-", "0-3-0-3-0-3-", "0---3-0---3-"),
    "off": ("..0-..0-..0-..0-", "..0-..0-..0-", "....0-....0-"),
    "reggae": ("0-----0-2-------", "0-----0-2---", "0---..0---2-"),
    "funk": ("0-..0.3-..0-2.3-", "0-..0.3-..2-", "0-..0.3-..2-"),
    "bossa": ("0-----2-2-----0-", "0-----2-2---", "0-----2-----"),
    "tumbao": ("......2-....3---", "......2-3---", "......2-3---"),
    "halftime": ("0---------0-2---", "0-------2---", "0-------2---"),
    "gallop": ("0-000-000-000-00", "0-000-000-00", "0-000-0-000-"),
}


def _by_metre(table: dict[str, tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    return {
        name: {"4": four, "3": three, "6": six, "2": four[:8]} for name, (four, three, six) in table.items()
    }


CHORD_FIGURES = _by_metre(_CHORDS)
ARPEGGIOS = _by_metre(_ARPEGGIOS)
BASS_FIGURES = _by_metre(_BASSES)

# Melody rhythms by metre and energy (0 calm .. 2 lively).
RHYTHMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "4": (
        ("x-------x-------", "x-----------x---", "x-------x---x---", "x-----x-x-------"),
        ("x---x---x-------", "x-------x-x-x---", "x---x-x-x-------", "x-----x-x---x---", "x---x---x---x---"),
        ("x-x-x---x-x-x---", "x---x-x-x---x-x-", "x-x-x-x-x-------", "x--x--x-x-x-x---", "x-x---x-x---x-x-"),
    ),
    "3": (
        ("x-------x---", "x-----------", "x---x-------"),
        ("x-------x---", "x---x---x---", "x---x-------", "x-----x-x---"),
        ("x---x-x-x---", "x-x-x---x---", "x---x---x-x-"),
    ),
    "6": (
        ("x-----------", "x-----x-----", "x---------x-"),
        ("x---x-x-----", "x-----x---x-", "x---x-x---x-"),
        ("x-x-x-x---x-", "x---x-x-x-x-", "x-x-x-x-----"),
    ),
    "2": (
        ("x-------", "x---x---"),
        ("x---x---", "x-----x-", "x---x-x-"),
        ("x-x-x---", "x---x-x-", "x-x-x-x-"),
    ),
}
# The last bar of a phrase, where the melody breathes, and its second part.
CADENCES = {"4": "x-----------....", "3": "x-------....", "6": "x-------....", "2": "x-----.."}
COUNTERS = {"4": "x-------x-------", "3": "x-----------", "6": "x-----x-----", "2": "x-------"}

# Four bars each. The first ones of a piece begin on the tonic. V follows no iv in minor: overtones otherwise
# make the parallel key heard.
PROGRESSIONS = {
    ("plain", "major"): ("I vi IV V", "I vi ii I", "I IV V I", "I IV ii I", "I ii IV I", "I IV vi V", "I vi IV I"),
    ("plain", "minor"): ("i VI VII i", "i iv VI i", "i VI iv i", "i VII VI i", "i VI iv V", "i VI V i"),
    ("contrast", "major"): ("IV I ii V", "vi IV I V", "IV V I I", "ii V I I"),
    ("contrast", "minor"): ("VI VII i i", "iv i VI V", "iv VII i i", "VI iv i V"),
    ("still", "major"): ("I I IV I", "I I I I", "I IV I I"),
    ("still", "minor"): ("i i VI i", "i i i i", "i iv i i"),
    ("blues", "major"): ("I I I I", "IV IV I I", "V IV I I"),
    ("blues", "minor"): ("i i i i", "iv iv i i", "V iv i i"),
}  # fmt: skip

# Letters and levels of the form by its number of sections; longer ones go on from `cycle`. An upper-case letter
# is material, its digit the level: 0 bare, 1 light, 2 normal, 3 full.
FORMS: dict[str, dict[int, str]] = {
    "song": {1: "A2", 2: "A2 B3", 3: "A1 B3 B3", 4: "A1 B3 A2 B3", 5: "A1 B2 A2 B3 B3",
             6: "A1 B2 A2 B3 C1 B3", 7: "A1 A2 B3 A2 B3 C1 B3", 8: "A1 A2 B3 A2 A2 B3 C1 B3"},
    "aaba": {1: "A2", 2: "A1 A2", 3: "A1 B2 A3", 4: "A1 A2 B2 A3", 5: "A1 A2 B2 A2 A3",
             6: "A1 A2 B2 A2 B2 A3", 7: "A1 A2 B2 A2 A3 B2 A3", 8: "A1 A2 B2 A2 A2 A3 B3 A3"},
    "riff": {1: "A2", 2: "A1 A3", 3: "A1 A3 B2", 4: "A1 A3 B2 A3", 5: "A1 A3 B2 A3 A3",
             6: "A1 A2 B3 A2 B3 A3", 7: "A1 A2 B3 A2 C1 B3 A3", 8: "A1 A2 B3 A2 B3 C1 B3 A3"},
    "variations": {1: "A2", 2: "A1 A2", 3: "A1 A2 A3", 4: "A1 A2 A2 A3", 5: "A1 A2 A2 A3 A2",
                   6: "A1 A2 A2 A3 A1 A3", 7: "A1 A2 A2 A3 A1 A2 A3", 8: "A1 A2 A2 A3 A2 A1 A2 A3"},
    "blues": {1: "A2", 2: "A2 B2", 3: "A1 B2 C2", 4: "A1 B2 C2 A2", 5: "A1 A2 B2 C2 A2", 6: "A1 B1 C2 A2 B3 C2",
              7: "A1 A1 B2 C2 A2 B3 C2", 8: "A1 A1 B2 C2 A2 A2 B3 C2"},
    "drone": {1: "A2", 2: "A1 A2", 3: "A1 A2 A1", 4: "A0 A2 A3 A1", 5: "A0 A1 A2 A3 A1", 6: "A0 A1 A2 A3 A2 A1",
              7: "A0 A1 A2 A3 A3 A2 A1", 8: "A0 A1 A2 A2 A3 A3 A2 A1"},
    "build": {1: "A2", 2: "A1 A3", 3: "A1 A3 A3", 4: "A1 A2 B1 A3", 5: "A1 A2 B1 A3 A3", 6: "A1 A2 A3 B0 A3 A2",
              7: "A1 A2 A3 B0 A3 A3 A2", 8: "A1 A2 A3 A3 B0 A2 A3 A2"},
}  # fmt: skip
