"""The data of the composer: instruments, drums, chord progressions and styles.

A pattern is one bar in sixteenths (16 signs in 4/4, 12 in 3/4): "." rests, "-" holds the note before, "x"
and "o" strike a chord, a drum or a melody note (loud and soft), a digit strikes that step of the chord's
ladder.
"""

from dataclasses import dataclass, field

INSTRUMENTS: dict[str, tuple[int, str]] = {
    # name -> (General MIDI program, Japanese name)
    "piano": (0, "ピアノ"),
    "electric piano": (4, "エレピ"),
    "music box": (10, "オルゴール"),
    "vibraphone": (11, "ビブラフォン"),
    "marimba": (12, "マリンバ"),
    "organ": (16, "オルガン"),
    "accordion": (21, "アコーディオン"),
    "acoustic guitar": (25, "アコースティックギター"),
    "electric guitar": (27, "エレキギター"),
    "distorted guitar": (29, "ディストーションギター"),
    "double bass": (32, "コントラバス"),
    "electric bass": (33, "エレキベース"),
    "synth bass": (38, "シンセベース"),
    "violin": (40, "バイオリン"),
    "cello": (42, "チェロ"),
    "harp": (46, "ハープ"),
    "strings": (48, "ストリングス"),
    "choir": (52, "コーラス"),
    "trumpet": (56, "トランペット"),
    "brass": (61, "ブラス"),
    "saxophone": (65, "サックス"),
    "clarinet": (71, "クラリネット"),
    "flute": (73, "フルート"),
    "square lead": (80, "矩形波シンセ"),
    "synth lead": (81, "シンセリード"),
    "synth pad": (89, "シンセパッド"),
}
POWER_CHORDS = ("distorted guitar",)

# General MIDI drum map, and how loud each one is played.
DRUMS = {"kick": (36, 112), "rim": (37, 84), "snare": (38, 100), "clap": (39, 96), "hat": (42, 76), "open": (46, 78),
         "tom": (45, 92), "ride": (51, 82), "shaker": (70, 78), "tambourine": (54, 72), "crash": (49, 88)}  # fmt: skip
KITS = {"standard": 0, "power": 16, "electronic": 24, "808": 25, "jazz": 32, "brush": 40, "orchestra": 48}

# All start on the tonic and come back to it. The fourth degree sounds in every major one, and V follows no
# iv in minor: overtones (a fifth and a major third above each note) otherwise make the dominant or the
# parallel key heard.
PROGRESSIONS = {
    "major": ("I vi IV V", "I vi ii I", "I IV V I", "I IV ii I", "I ii IV I", "I IV vi V", "I vi IV I"),
    "minor": ("i VI VII i", "i iv VI i", "i VI iv i", "i VII VI i", "i VI iv V", "i VI V i"),
}

# Melody rhythms by metre and energy (0 calm .. 2 lively).
RHYTHMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "4": (
        ("x-------x-------", "x-----------x---", "x-------x---x---", "x---------------"),
        ("x---x---x-------", "x-------x-x-x---", "x---x-x-x-------", "x---x---x---x---"),
        ("x-x-x---x-x-x---", "x---x-x-x---x-x-", "x-x-x-x-x-------", "x-x-x---x---x---"),
    ),
    "3": (
        ("x-------x---", "x-----------", "x---x-------"),
        ("x-------x---", "x---x---x---", "x---x-------"),
        ("x---x-x-x---", "x-x-x---x---", "x---x---x-x-"),
    ),
}


@dataclass(frozen=True)
class Part:
    """One layer of an arrangement: who may play it and its patterns by metre (a lead takes its rhythm from RHYTHMS)."""

    role: str
    instruments: tuple[str, ...]
    patterns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    chance: float = 1.0
    velocity: int = 72
    low: int = 53


@dataclass(frozen=True)
class Style:
    """How one style sounds. `drums` maps a metre to patterns by drum; a metre that is not in it cannot be played."""

    name: str
    bpm: tuple[int, int]
    drums: dict[str, dict[str, str]]
    parts: tuple[Part, ...]
    words: tuple[str, ...]
    words_ja: tuple[str, ...]
    energy: tuple[int, ...] = (1, 2)
    kit: str = "standard"
    swing: float = 0.5
    sevenths: bool = False
    drum_chance: float = 1.0


def _bass(instruments: str, four: str, three: str = "") -> Part:
    return _part("bass", instruments, four, three, velocity=96, low=28)


def _lead(instruments: str, chance: float = 1.0, low: int = 65) -> Part:
    return Part("lead", tuple(instruments.split(", ")), chance=chance, velocity=96, low=low)


def _part(role: str, instruments: str, four: str, three: str = "", **more: float) -> Part:
    patterns = {"4": tuple(four.split()), "3": tuple(three.split())}
    return Part(role, tuple(instruments.split(", ")), patterns, **more)  # type: ignore[arg-type]


def _pad(instruments: str, chance: float = 1.0) -> Part:
    return _part("pad", instruments, "x---------------", "x-----------", chance=chance, velocity=56)


STYLES = (
    Style(
        "piano pop", (76, 136),
        {"4": {"kick": "x.......x.......", "snare": "....x.......x...", "hat": "x.o.x.o.x.o.x.o."}},
        (
            _bass("electric bass", "0-------0------- 0---0---0---0---"),
            _part("comp", "piano", "x---x---x---x--- x---o-o-x---o-o-"),
            _pad("strings", 0.4),
            _lead("piano, violin, flute"),
        ),
        ("piano pop", "pop with piano", "pop song with bright piano", "piano-driven pop"), ("ピアノポップ", "ポップス"),
    ),
    Style(
        "rock", (100, 180),
        {"4": {"kick": "x.......x.x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."}},
        (
            _bass("electric bass", "0-0-0-0-0-0-0-0-"),
            _part("comp", "distorted guitar", "x---x---x---x--- x-x-x-x-x-x-x-x-", velocity=64, low=40),
            _part("comp", "organ, electric guitar", "x-------x-------", velocity=88),
            _lead("electric guitar, synth lead, trumpet"),
        ),
        ("rock", "guitar rock", "rock band", "driving rock"), ("ロック", "ギターロック"), kit="power",
    ),
    Style(
        "house", (112, 136),
        {"4": {"kick": "x...x...x...x...", "clap": "....x.......x...", "open": "..x...x...x...x."}},
        (
            _bass("synth bass", "..0-..0-..0-..0- 0-0-0-0-0-0-0-0-"),
            _part("comp", "piano, organ, electric piano", "x-..x-..x-..x-.. x---x---x---x---", velocity=80),
            _pad("synth pad, strings", 0.5),
            _lead("synth lead, square lead, vibraphone", 0.8),
        ),
        ("house", "electronic dance music", "four-on-the-floor house", "club house"), ("ハウス", "四つ打ちの電子音楽"),
        kit="electronic", sevenths=True,
    ),
    Style(
        "trance", (128, 150),
        {"4": {"kick": "x...x...x...x...", "hat": "..x...x...x...x.", "clap": "....x.......x..."}},
        (
            _bass("synth bass", "..0-..0-..0-..0-"),
            _part("arp", "square lead, synth lead", "0-1-2-3-0-1-2-3- 0-2-1-2-3-2-1-2-", velocity=74, low=60),
            _pad("synth pad, strings"),
            _lead("synth lead", 0.7),
        ),
        ("trance", "EDM", "euphoric trance", "electronic trance"), ("トランス", "EDM"), energy=(2,), kit="electronic",
    ),
    Style(
        "waltz", (84, 180),
        {"3": {"kick": "x...........", "rim": "....x...x...", "hat": "x...o...o..."}},
        (
            _bass("double bass, cello", "", "0-------.... 0---........"),
            _part("comp", "piano, accordion, harp, strings", "", "....x---x---", velocity=78),
            _pad("strings", 0.3),
            _lead("violin, accordion, clarinet, flute, piano"),
        ),
        ("waltz", "ballroom waltz", "elegant waltz", "waltz in three"), ("ワルツ", "優雅なワルツ"),
        energy=(0, 1, 2), kit="orchestra", drum_chance=0.75,
    ),
    Style(
        "folk", (80, 150),
        {
            "4": {"kick": "x.......x.......", "tambourine": "....x.......x...", "shaker": "x.o.x.o.x.o.x.o."},
            "3": {"kick": "x...........", "tambourine": "....x...x...", "shaker": "x.o.x.o.x.o."},
        },
        (
            _bass("double bass, electric bass", "0-------2-------", "0-----------"),
            _part("comp", "acoustic guitar", "x---x-o-x---x-o- x---x---x---x---", "x---x-o-x-o- x---x---x---"),
            _lead("flute, violin, accordion, acoustic guitar"),
        ),
        ("folk", "acoustic folk", "singer-songwriter folk", "country folk"), ("フォーク", "アコースティック"),
        energy=(0, 1, 2), drum_chance=0.75,
    ),
    Style(
        "ambient", (60, 92),
        {
            "4": {"kick": "x.......x.......", "shaker": "..o...o...o...o."},
            "3": {"kick": "x...........", "shaker": "....o...o..."},
        },
        (
            _bass("synth bass, cello", "0---------------", "0-----------"),
            _part("arp", "harp, electric piano, vibraphone, piano", "0---1---2---1--- 0-1-2-3-2-1-2-1-",
                  "0---1---2--- 0-1-2-3-2-1-", velocity=84, low=57),
            _pad("synth pad, choir, strings"),
            _lead("flute, vibraphone, synth lead", 0.5),
        ),
        ("ambient", "ambient pads", "atmospheric ambient", "soundscape with a soft pulse"), ("アンビエント", "環境音楽"),
        energy=(0,), kit="electronic", drum_chance=0.75,
    ),
    Style(
        "lo-fi", (64, 96),
        {"4": {"kick": "x.......x.......", "snare": "....x.......x...", "hat": "x.o.x.o.x.o.x.o."}},
        (
            _bass("electric bass, double bass", "0-------0-----2- 0-------0-------"),
            _part("comp", "electric piano, piano", "x-------x------- x---o---x---o---"),
            _pad("synth pad", 0.3),
            _lead("vibraphone, electric guitar, saxophone, flute", 0.8),
        ),
        ("lo-fi", "lo-fi hip hop", "chillhop beats", "lofi beat"), ("ローファイ", "ローファイヒップホップ"),
        energy=(0, 1), kit="808", swing=0.56, sevenths=True,
    ),
    Style(
        "jazz", (96, 180),
        {
            "4": {"ride": "x...x.o.x...x.o.", "hat": "....x.......x...", "kick": "x...o...x...o..."},
            "3": {"ride": "x...x...x...", "hat": "....x...x...", "kick": "x..........."},
        },
        (
            _bass("double bass", "0---1---2---1--- 0---2---3---2---", "0---1---2---"),
            _part("comp", "piano, electric guitar", "x-------x------- x---x---x---x---", "x---x---x--- x-----------"),
            _lead("saxophone, trumpet, vibraphone, clarinet, piano"),
        ),
        ("jazz", "jazz trio", "swing jazz", "small-combo jazz"), ("ジャズ", "ジャズトリオ"),
        kit="jazz", swing=0.6, sevenths=True,
    ),
    Style(
        "orchestral march", (88, 144),
        {"4": {"kick": "x.......x.......", "snare": "x...x.oox...x.oo", "tom": "x...............", "open": "................"}},
        (
            _bass("double bass, cello", "0---2---0---2--- 0---0---0---0---"),
            _part("comp", "strings, brass", "x---x---x---x--- x-..x-..x-..x-..", velocity=84),
            _part("pad", "choir, strings", "x-------x-------", chance=0.4),
            _lead("trumpet, brass, violin, flute"),
        ),
        ("orchestral", "orchestral march", "epic orchestra", "cinematic orchestral"), ("オーケストラ", "行進曲"), kit="orchestra",
    ),
    Style(
        "synthwave", (80, 124),
        {"4": {"kick": "x...x...x...x...", "snare": "....x.......x...", "hat": "..o...o...o...o."}},
        (
            _bass("synth bass", "0-0-0-0-0-0-0-0- 0-3-0-3-0-3-0-3-"),
            _part("arp", "square lead, synth lead, electric piano", "0-1-2-1-3-2-1-2- 0-2-1-2-0-2-1-2-", chance=0.7, low=60),
            _pad("synth pad, strings"),
            _lead("synth lead, square lead, saxophone"),
        ),
        ("synthwave", "retro synthwave", "80s synth pop", "electronic retrowave"), ("シンセウェイブ", "80年代風シンセポップ"),
        kit="electronic",
    ),
    Style(
        "chiptune", (110, 180),
        {
            "4": {"kick": "x...x...x...x...", "snare": "....x.......x...", "hat": "..x...x...x...x."},
            "3": {"kick": "x...........", "snare": "....x...x...", "hat": "..x...x...x."},
        },
        (
            _bass("synth bass", "0---3---0---3--- 0-0-3-3-0-0-3-3-", "0---3---3---"),
            _part("arp", "square lead", "0-1-2-1-0-1-2-1- 0-1-2-3-0-1-2-3-", "0-1-2-1-2-1- 0-2-1-2-1-2-", low=60),
            _lead("square lead, synth lead", low=70),
        ),
        ("chiptune", "8-bit video game music", "retro game music", "chiptune with square waves"), ("チップチューン", "8ビットゲーム音楽"),
        kit="electronic",
    ),
    Style(
        "lullaby", (60, 116),
        {
            "4": {"kick": "o.......o.......", "shaker": "....o.......o..."},
            "3": {"kick": "o...........", "shaker": "....o...o..."},
        },
        (
            _bass("double bass, cello", "0-------0-------", "0-----------"),
            _part("arp", "music box, harp, marimba", "0---1---2---1--- 0-2-1-2-0-2-1-2-", "0---1---2--- 0-1-2-1-2-1-",
                  velocity=80, low=60),
            _lead("music box, flute, vibraphone, clarinet", low=70),
        ),
        ("lullaby", "music box lullaby", "children's lullaby", "gentle music box tune"), ("子守唄", "オルゴール風の曲"),
        energy=(0, 1), drum_chance=0.75,
    ),
    Style(
        "drum and bass", (156, 180),
        {"4": {"kick": "x.........x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."}},
        (
            _bass("synth bass", "0-------0------- 0---0---0---0---"),
            _part("comp", "electric piano, piano, organ", "x-------x------- x---x---x---x---"),
            _pad("synth pad, strings"),
            _lead("synth lead, saxophone, vibraphone", 0.8),
        ),
        ("drum and bass", "drum & bass", "DnB", "liquid drum and bass"), ("ドラムンベース",), energy=(2,), kit="electronic",
    ),
    Style(
        "piano ballad", (60, 96),
        {
            "4": {"kick": "x.......x.......", "rim": "....x.......x...", "hat": "o.o.o.o.o.o.o.o."},
            "3": {"kick": "x...........", "rim": "........x...", "hat": "o...o...o..."},
        },
        (
            _bass("piano, cello", "0-------0------- 0-------2-------", "0-----------"),
            _part("arp", "piano", "0-1-2-1-0-1-2-1- 0-1-2-3-2-1-2-1-", "0-1-2-3-2-1- 0-1-2-1-2-1-", velocity=76),
            _pad("strings", 0.4),
            _lead("piano, violin, cello, flute", low=67),
        ),
        ("piano ballad", "slow piano ballad", "ballad", "emotional piano piece"), ("ピアノバラード", "バラード"),
        energy=(0, 1), drum_chance=0.75,
    ),
    Style(
        "bossa nova", (100, 156),
        {"4": {"kick": "x.......x.......", "rim": "....x.....x.x...", "shaker": "x.o.x.o.x.o.x.o."}},
        (
            _bass("double bass, electric bass", "0-------2-------"),
            _part("comp", "acoustic guitar, piano, electric piano", "x---x---x---x--- x---x-x-x---x---"),
            _lead("flute, saxophone, vibraphone, clarinet"),
        ),
        ("bossa nova", "latin bossa", "brazilian bossa nova", "latin lounge"), ("ボサノバ", "ラテン"), energy=(0, 1), sevenths=True,
    ),
    Style(
        "disco", (100, 132),
        {"4": {"kick": "x...x...x...x...", "snare": "....x.......x...", "open": "..x...x...x...x.", "hat": "x...x...x...x..."}},
        (
            _bass("electric bass, synth bass", "0-3-0-3-0-3-0-3-"),
            _part("comp", "electric guitar, electric piano", "x-..x-..x-..x-.. x-o-x-o-x-o-x-o-"),
            _part("pad", "strings, brass", "x-------x-------"),
            _lead("trumpet, synth lead, saxophone, brass"),
        ),
        ("disco", "funky disco", "70s disco", "dance disco funk"), ("ディスコ", "ファンク"),
    ),
)  # fmt: skip
