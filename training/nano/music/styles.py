"""The styles: how each one is played. What it is called stands in `words.vocabulary`."""

from __future__ import annotations

from dataclasses import dataclass

Groove = dict[str, str]  # drum -> one bar


@dataclass(frozen=True, slots=True)
class Part:
    """One layer of an arrangement: instruments that may play it, and the names of its figures."""

    role: str
    instruments: tuple[str, ...]
    figures: tuple[str, ...] = ()
    chance: float = 1.0


@dataclass(frozen=True, slots=True)
class Style:
    """`grooves` maps each metre that the style is played in to its drums; `swing` is where an off-beat falls."""

    name: str
    bpm: tuple[int, int]
    grooves: dict[str, Groove]
    parts: tuple[Part, ...]
    forms: tuple[str, ...] = ("song", "aaba")
    harmony: str = "plain"
    energy: tuple[int, ...] = (1, 2)
    kit: str = "standard"
    swing: float = 0.5
    sevenths: bool = False
    drum_chance: float = 1.0
    scale: str = "diatonic"


def _part(role: str, instruments: str, figures: str = "", chance: float = 1.0) -> Part:
    return Part(role, tuple(instruments.split(", ")), tuple(figures.split(", ")) if figures else (), chance)


def _lead(instruments: str, chance: float = 1.0) -> Part:
    return _part("lead", instruments, chance=chance)


def _pad(instruments: str, chance: float = 1.0) -> Part:
    return _part("pad", instruments, "whole", chance)


def _counter(instruments: str, chance: float = 0.3) -> Part:
    return _part("counter", instruments, chance=chance)


_BACKBEAT = {"kick": "x.......x.......", "snare": "....x.......x...", "hat": "x.o.x.o.x.o.x.o."}
_BACKBEAT_6 = {"kick": "x...........", "snare": "......x.....", "hat": "x.o.o.x.o.o."}
_WALTZ = {"kick": "x...........", "rim": "....x...x...", "hat": "x...o...o..."}
_FOUR_FLOOR = {"kick": "x...x...x...x...", "clap": "....x.......x...", "open": "..x...x...x...x."}
_SOFT_4 = {"kick": "x.......x.......", "shaker": "..o...o...o...o."}
_SOFT_3 = {"kick": "x...........", "shaker": "....o...o..."}
_SOFT_6 = {"kick": "x...........", "shaker": "..o.o...o.o."}
_POLKA = {"kick": "x...x...", "snare": "..x...x.", "hat": "x.o.x.o."}
_TRAIN = {"kick": "x...x...", "snare": "o.x.o.x.", "shaker": "x.o.x.o."}

STYLES = (
    Style("pop", (76, 140), {"4": _BACKBEAT, "6": _BACKBEAT_6},
          (_lead("piano, violin, flute, saxophone, synth lead"), _part("bass", "electric bass", "root halves, root quarters"),
           _part("chords", "piano, electric piano, acoustic guitar", "quarters, eighths, strum"), _pad("strings, synth pad", 0.4),
           _counter("violin, clarinet"))),
    Style("rock", (100, 170), {"4": {"kick": "x.......x.x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."}, "6": _BACKBEAT_6},
          (_lead("electric guitar, organ, saxophone"), _part("bass", "electric bass", "root eighths, root quarters"),
           _part("chords", "distorted guitar", "quarters, chug, push"), _part("chords", "organ, electric guitar, piano", "halves", 0.5)),
          ("song", "riff"), kit="power"),
    Style("metal", (110, 180), {"4": {"kick": "x.xxx.xxx.xxx.xx", "snare": "....x.......x...", "hat": "x...x...x...x..."}},
          (_lead("distorted guitar, electric guitar"), _part("bass", "electric bass", "root eighths, gallop"),
           _part("chords", "distorted guitar", "gallop, chug"), _pad("choir, strings", 0.3)),
          ("riff", "song"), energy=(2,), kit="power"),
    Style("house", (112, 132), {"4": _FOUR_FLOOR},
          (_lead("synth lead, square lead, vibraphone, saxophone", 0.8), _part("bass", "synth bass", "off, root eighths, octaves"),
           _part("chords", "piano, organ, electric piano", "club, stabs, push"), _pad("synth pad, strings", 0.5)),
          ("build",), kit="electronic", sevenths=True),
    Style("techno", (122, 145), {"4": {"kick": "x...x...x...x...", "hat": "..x...x...x...x.", "rim": "...x..x....x..x.", "clap": "............x..."}},
          (_lead("square lead, synth lead", 0.6), _part("bass", "synth bass", "root eighths, off"),
           _part("arp", "synth lead, square lead", "sixteenths, riff, riff two"), _pad("synth pad", 0.4)),
          ("build",), harmony="still", energy=(2,), kit="electronic"),
    Style("trance", (128, 148), {"4": {"kick": "x...x...x...x...", "open": "..x...x...x...x.", "clap": "....x.......x..."}},
          (_lead("synth lead, square lead", 0.7), _part("bass", "synth bass", "off"), _part("arp", "square lead, synth lead", "up, sixteenths, wave"),
           _pad("synth pad, strings")),
          ("build",), energy=(2,), kit="electronic"),
    Style("drum and bass", (156, 180), {"4": {"kick": "x.........x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."}},
          (_lead("synth lead, saxophone, vibraphone", 0.8), _part("bass", "synth bass", "root halves, root quarters, halftime"),
           _part("chords", "electric piano, piano, organ", "halves, charleston"), _pad("synth pad, strings", 0.7)),
          ("build",), energy=(2,), kit="electronic"),
    Style("hip-hop", (72, 104), {"4": {"kick": "x..x......x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.xx"}},
          (_lead("electric piano, flute, synth lead, vibraphone, sitar", 0.8), _part("bass", "synth bass, electric bass", "halftime, root halves"),
           _part("chords", "electric piano, piano, strings", "halves, charleston"), _pad("synth pad", 0.3)),
          ("riff", "song"), kit="808", swing=0.54, energy=(0, 1, 2)),
    Style("lo-fi", (64, 96), {"4": {"kick": "x.......x.......", "snare": "....x.......x...", "hat": "x.o.x.o.x.o.x.o."}},
          (_lead("vibraphone, electric guitar, saxophone, flute, piano", 0.85), _part("bass", "electric bass, double bass", "root halves, two"),
           _part("chords", "electric piano, piano", "halves, charleston, comping"), _pad("synth pad", 0.3)),
          ("aaba", "riff"), energy=(0, 1), kit="808", swing=0.56, sevenths=True),
    Style("funk", (92, 124), {"4": {"kick": "x.x.....x.x.....", "snare": "....x..o.o..x...", "hat": "x.o.x.o.x.o.x.o."}},
          (_lead("saxophone, trumpet, brass, electric piano"), _part("bass", "electric bass", "funk"),
           _part("chords", "electric guitar, electric piano", "funk, stabs"), _part("chords", "brass", "comping", 0.4)),
          ("riff", "song"), sevenths=True),
    Style("disco", (104, 130), {"4": {**_FOUR_FLOOR, "snare": "....x.......x...", "hat": "x...x...x...x..."}},
          (_lead("trumpet, strings, saxophone, brass, synth lead"), _part("bass", "electric bass, synth bass", "octaves"),
           _part("chords", "electric guitar, electric piano, piano", "funk, stabs, eighths"), _pad("strings", 0.7)),
          ("song", "build")),
    Style("city pop", (92, 124), {"4": {"kick": "x.....x.x.......", "snare": "....x.......x...", "hat": "x.o.x.o.x.o.x.o.", "tambourine": "....x.......x..."}},
          (_lead("saxophone, electric guitar, flute, synth lead, trumpet"), _part("bass", "electric bass", "octaves, funk, root eighths"),
           _part("chords", "electric piano", "push, eighths, comping"), _part("chords", "brass, electric guitar", "stabs", 0.4), _pad("strings, synth pad", 0.5)),
          ("song",), sevenths=True),
    Style("reggae", (66, 92), {"4": {"kick": "........x.......", "rim": "........x.......", "hat": "..x...x...x...x."}},
          (_lead("organ, trombone, harmonica, electric guitar, saxophone"), _part("bass", "electric bass", "reggae, two"),
           _part("chords", "electric guitar, piano, organ", "off"), _counter("trumpet, trombone")),
          ("aaba", "riff"), energy=(0, 1)),
    Style("jazz", (96, 180), {"4": {"ride": "x...x.o.x...x.o.", "hat": "....x.......x...", "kick": "x...o...x...o..."},
                              "3": {"ride": "x...x.o.x...", "hat": "....x...x...", "kick": "x..........."}},
          (_lead("saxophone, trumpet, vibraphone, clarinet, piano, trombone"), _part("bass", "double bass", "walk, walk up"),
           _part("chords", "piano, electric guitar", "comping, charleston, quarters"), _counter("trumpet, clarinet, trombone")),
          ("aaba",), kit="jazz", swing=0.62, sevenths=True),
    Style("blues", (66, 128), {"4": {**_BACKBEAT, "hat": "x...x.o.x...x.o."}, "6": _BACKBEAT_6},
          (_lead("harmonica, electric guitar, saxophone, piano"), _part("bass", "electric bass, double bass", "boogie, walk up"),
           _part("chords", "acoustic guitar, piano, electric guitar, organ", "eighths, after, halves")),
          ("blues",), harmony="blues", energy=(0, 1, 2), swing=0.62, scale="pentatonic", drum_chance=0.8),
    Style("bossa nova", (100, 150), {"4": {"kick": "x.....x.x.....x.", "rim": "x..x..x...x..x..", "shaker": "x.o.x.o.x.o.x.o."}},
          (_lead("flute, saxophone, vibraphone, clarinet, acoustic guitar"), _part("bass", "double bass, electric bass", "bossa, two"),
           _part("chords", "acoustic guitar, piano, electric piano", "push, comping, montuno"), _pad("strings", 0.3)),
          ("aaba",), energy=(0, 1), sevenths=True, drum_chance=0.8),
    Style("latin", (92, 140), {"4": {"kick": "x.......x.......", "conga": "..x.x.oo..x.x.oo", "low conga": "......xx......xx", "claves": "x..x..x...x.x...",
                                     "cowbell": "x...x...x...x..."},
                               "2": {"kick": "x...x...", "snare": "x.oxx.ox", "shaker": "xoxoxoxo", "conga": "..x...xx"}},
          (_lead("trumpet, flute, brass, trombone, steel drums"), _part("bass", "double bass, electric bass", "tumbao, bossa"),
           _part("chords", "piano, acoustic guitar", "montuno"), _counter("trombone, trumpet")),
          ("song", "riff")),
    Style("folk", (80, 140), {"4": {"kick": "x.......x.......", "tambourine": "....x.......x...", "shaker": "x.o.x.o.x.o.x.o."},
                              "3": {"kick": "x...........", "tambourine": "....x...x...", "shaker": "x.o.x.o.x.o."}, "6": _SOFT_6},
          (_lead("flute, violin, accordion, acoustic guitar, harmonica, clarinet"), _part("bass", "double bass", "two, root halves"),
           _part("chords", "acoustic guitar", "strum, eighths, quarters"), _counter("violin, accordion, flute")),
          ("song", "aaba", "variations"), energy=(0, 1, 2), drum_chance=0.6),
    Style("country", (88, 156), {"4": {**_BACKBEAT, "snare": "o.o.x.o.o.o.x.o."}, "2": _TRAIN},
          (_lead("violin, banjo, harmonica, electric guitar, acoustic guitar"), _part("bass", "electric bass, double bass", "two, march"),
           _part("chords", "acoustic guitar, banjo", "after, strum, eighths"), _part("arp", "banjo, acoustic guitar", "roll", 0.4)),
          ("song", "aaba"), scale="pentatonic", drum_chance=0.85),
    Style("waltz", (84, 180), {"3": _WALTZ},
          (_lead("violin, accordion, clarinet, flute, piano, strings"), _part("bass", "double bass, cello", "waltz"),
           _part("chords", "piano, accordion, harp, pizzicato strings", "after"), _pad("strings", 0.3), _counter("cello, clarinet, french horn")),
          ("aaba", "variations"), energy=(0, 1, 2), kit="orchestra", drum_chance=0.5),
    Style("march", (96, 132), {"4": {"kick": "x.......x.......", "snare": "x...x.oox...x.oo", "crash": "x..............."},
                               "2": {"kick": "x...x...", "snare": "x.oox.ox"}, "6": {"kick": "x.....x.....", "snare": "x...oox...oo"}},
          (_lead("trumpet, flute, clarinet, brass"), _part("bass", "trombone, double bass", "march"),
           _part("chords", "brass", "stabs, after"), _counter("french horn, trombone")),
          ("aaba", "variations"), energy=(1, 2), kit="orchestra", drum_chance=0.9),
    Style("cinematic", (72, 140), {"4": {"low tom": "x..x..x.x..x..x.", "kick": "x.......x......."}, "3": {"low tom": "x..x..x...x.", "kick": "x..........."},
                                   "6": {"low tom": "x.o.o.x.o.o.", "kick": "x.....x....."}},
          (_lead("french horn, trumpet, violin, choir, strings, brass"), _part("bass", "cello, double bass", "root eighths, root, root quarters"),
           _part("chords", "strings, brass", "eighths, quarters, whole"), _pad("choir, strings", 0.6), _counter("cello, french horn")),
          ("song", "build"), energy=(1, 2), kit="orchestra", drum_chance=0.85),
    Style("classical", (66, 144), {"4": _SOFT_4, "3": _SOFT_3, "2": _POLKA, "6": _SOFT_6},
          (_lead("piano"), _part("bass", "piano", "root, two, root halves"), _part("arp", "piano", "alberti, wave, up")),
          ("aaba", "variations"), energy=(0, 1, 2), drum_chance=0.0),
    Style("chamber strings", (66, 132), {"4": _SOFT_4, "3": _SOFT_3, "2": _POLKA, "6": _SOFT_6},
          (_lead("violin"), _counter("violin", 1.0), _part("bass", "cello", "root quarters, walk, walk up"), _counter("cello", 1.0),
           _pad("strings", 0.2)),
          ("aaba", "variations"), energy=(0, 1, 2), drum_chance=0.0),
    Style("ballad", (60, 92), {"4": {"kick": "x.......x.......", "rim": "....x.......x...", "hat": "o.o.o.o.o.o.o.o."}, "3": _WALTZ,
                               "6": {"kick": "x...........", "rim": "......x.....", "hat": "o.o.o.o.o.o."}},
          (_lead("piano, violin, cello, flute, saxophone, oboe"), _part("bass", "electric bass, cello", "root halves, two"),
           _part("arp", "piano, acoustic guitar, electric piano", "up, wave, alberti"), _pad("strings", 0.5)),
          ("song", "aaba"), energy=(0, 1), drum_chance=0.6),
    Style("lullaby", (60, 110), {"4": _SOFT_4, "3": _SOFT_3, "6": _SOFT_6},
          (_lead("music box, flute, vibraphone, clarinet, harp"), _part("bass", "double bass, cello", "root, root halves", 0.6),
           _part("arp", "music box, harp, marimba, piano", "slow, alberti, up")),
          ("aaba", "variations"), energy=(0,), drum_chance=0.15),
    Style("ambient", (60, 92), {"4": _SOFT_4, "3": _SOFT_3, "6": _SOFT_6},
          (_lead("flute, vibraphone, synth lead, shakuhachi, oboe", 0.6), _part("bass", "synth bass, cello", "root", 0.7),
           _part("arp", "harp, electric piano, vibraphone, piano, marimba", "slow, wave", 0.8), _pad("synth pad, choir, strings")),
          ("drone",), harmony="still", energy=(0,), kit="electronic", drum_chance=0.25),
    Style("synthwave", (80, 118), {"4": {"kick": "x...x...x...x...", "snare": "....x.......x...", "hat": "..o...o...o...o."}},
          (_lead("synth lead, square lead, saxophone"), _part("bass", "synth bass", "root eighths, octaves"),
           _part("arp", "square lead, synth lead, electric piano", "up, sixteenths", 0.7), _pad("synth pad, strings")),
          ("song", "build"), kit="electronic"),
    Style("chiptune", (112, 180), {"4": {"kick": "x...x...x...x...", "snare": "....x.......x...", "hat": "..x...x...x...x."},
                                   "3": {"kick": "x...........", "snare": "....x...x...", "hat": "..x...x...x."}},
          (_lead("square lead"), _part("bass", "synth bass", "octaves, root eighths"), _part("arp", "square lead", "up, sixteenths, alberti", 0.8),
           _counter("synth lead")),
          ("song", "aaba", "riff"), kit="electronic"),
    Style("japanese", (60, 116), {"4": {"low tom": "x.......x...x...", "woodblock": "....x.......x..."}, "2": {"low tom": "x...x.x.", "woodblock": "..x....."}},
          (_lead("shakuhachi, koto, shamisen, flute"), _part("arp", "koto, harp", "slow, roll, riff"), _part("counter", "shamisen, koto, shakuhachi", chance=0.4),
           _pad("strings, synth pad", 0.2)),
          ("variations", "aaba"), harmony="still", energy=(0, 1), kit="orchestra", scale="japanese", drum_chance=0.5),
    Style("celtic", (90, 140), {"4": _SOFT_4, "6": {"kick": "x.....x.....", "tambourine": "..o.x...o.x."}, "2": _TRAIN},
          (_lead("flute, violin, accordion, harp, oboe"), _part("bass", "double bass, cello", "root halves, two", 0.7),
           _part("chords", "acoustic guitar, harp", "strum, eighths"), _counter("violin, flute, accordion")),
          ("aaba", "variations"), scale="pentatonic", energy=(1, 2), drum_chance=0.5),
    Style("tango", (104, 132), {"4": {"kick": "x.....x.x...x...", "rim": "x.....x.x...x..."}, "2": {"kick": "x..xx.x.", "rim": "x..xx.x."}},
          (_lead("accordion, violin, clarinet"), _part("bass", "double bass", "march, root quarters"), _part("chords", "piano, pizzicato strings", "stabs, push"),
           _counter("cello, violin")),
          ("aaba", "song"), drum_chance=0.4),
)  # fmt: skip
STYLE_OF = {style.name: style for style in STYLES}
