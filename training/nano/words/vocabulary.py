"""The words of captions, in one place: each phrase belongs to one value of one kind.

`ENGLISH` and `JAPANESE` map kind -> value -> phrases, the plainest first. Kinds and values are those of
`Facts`; what a phrase claims is decided in `claims`, how captions are put in `english` and `japanese`.
"""

from __future__ import annotations

Phrases = dict[str, tuple[str, ...]]


def _split(table: dict[str, str]) -> Phrases:
    return {value: tuple(phrases.split(", ")) for value, phrases in table.items()}


_INSTRUMENTS = {
    "piano": ("piano, grand piano, acoustic piano", "ピアノ, グランドピアノ"),
    "electric piano": ("electric piano, rhodes, e-piano", "エレピ, エレクトリックピアノ, ローズピアノ"),
    "harpsichord": ("harpsichord, cembalo", "チェンバロ, ハープシコード"),
    "music box": ("music box, musical box", "オルゴール"),
    "vibraphone": ("vibraphone, vibes", "ビブラフォン, ヴィブラフォン"),
    "marimba": ("marimba", "マリンバ"),
    "organ": ("organ, hammond organ", "オルガン, ハモンドオルガン"),
    "accordion": ("accordion", "アコーディオン"),
    "harmonica": ("harmonica, mouth organ, blues harp", "ハーモニカ, ブルースハープ"),
    "acoustic guitar": ("acoustic guitar, steel-string guitar", "アコースティックギター, アコギ"),
    "electric guitar": ("electric guitar, clean guitar", "エレキギター, エレキ, クリーンギター"),
    "distorted guitar": ("distorted guitar, overdriven guitar, fuzz guitar", "ディストーションギター, 歪んだギター"),
    "banjo": ("banjo", "バンジョー"),
    "double bass": ("double bass, upright bass, contrabass", "コントラバス, ウッドベース"),
    "electric bass": ("electric bass, bass guitar", "エレキベース, ベースギター"),
    "synth bass": ("synth bass, synthesizer bass", "シンセベース"),
    "violin": ("violin, fiddle", "バイオリン, ヴァイオリン"),
    "cello": ("cello, violoncello", "チェロ"),
    "strings": ("strings, string section, string orchestra", "ストリングス, 弦楽器, 弦"),
    "pizzicato strings": ("pizzicato strings, plucked strings, pizzicato", "ピチカート, ピッツィカート"),
    "harp": ("harp, concert harp", "ハープ, 竪琴"),
    "choir": ("choir, choral voices, choir aahs", "合唱, コーラス, クワイア"),
    "trumpet": ("trumpet", "トランペット"),
    "trombone": ("trombone", "トロンボーン"),
    "french horn": ("french horn, horn", "ホルン, フレンチホルン"),
    "brass": ("brass, brass section, horn section", "ブラス, 金管, ブラスセクション"),
    "saxophone": ("saxophone, sax, alto sax", "サックス, サクソフォン, アルトサックス"),
    "oboe": ("oboe", "オーボエ"),
    "clarinet": ("clarinet", "クラリネット"),
    "flute": ("flute, concert flute", "フルート"),
    "shakuhachi": ("shakuhachi, bamboo flute, japanese flute", "尺八, 竹笛"),
    "koto": ("koto, japanese zither", "琴, 箏"),
    "shamisen": ("shamisen", "三味線"),
    "sitar": ("sitar", "シタール"),
    "steel drums": ("steel drums, steelpan, steel pan", "スチールドラム, スティールパン"),
    "synth lead": ("synth lead, saw lead, lead synth", "シンセリード, リードシンセ"),
    "square lead": ("square lead, square wave, chip lead, pulse lead", "矩形波, 矩形波シンセ, ピコピコ音"),
    "synth pad": ("synth pad, pads, warm pad", "シンセパッド, パッド"),
    "drums": ("drums, drum kit, drum set", "ドラム, ドラムス, ドラムセット"),
    "percussion": ("percussion, hand percussion", "パーカッション, 打楽器"),
    # Groups
    "guitar": ("guitar, guitars", "ギター"),
    "bass": ("bass, bass line, bassline", "ベース"),
    "synth": ("synth, synths, synthesizer", "シンセ, シンセサイザー"),
    "woodwinds": ("woodwinds, woodwind, winds", "木管, 木管楽器"),
}  # fmt: skip
GROUPS = {
    "guitar": ("acoustic guitar", "electric guitar", "distorted guitar"),
    "bass": ("double bass", "electric bass", "synth bass"),
    "synth": ("synth lead", "square lead", "synth pad"),
    "woodwinds": ("flute", "clarinet", "oboe", "saxophone"),
}
# What must be absent too, where a term is said to be absent.
RELATIVES = {
    "piano": ("electric piano",),
    "strings": ("violin", "cello", "pizzicato strings"),
    "brass": ("trumpet", "trombone", "french horn"),
    "synth": ("synth bass",),
    "woodwinds": ("shakuhachi",),
    "percussion": ("drums", "marimba", "vibraphone", "steel drums"),
    "drums": ("percussion",),
    "flute": ("shakuhachi",),
    "electric guitar": ("distorted guitar",),
}

_STYLES = {
    "pop": ("pop, pop music, pop song, chart pop", "ポップス, ポップ, J-POP"),
    "rock": ("rock, rock music, rock song, guitar rock, band rock", "ロック, ギターロック, バンドサウンド"),
    "metal": ("metal, heavy metal, thrash metal", "メタル, ヘヴィメタル, ヘビメタ"),
    "house": ("house, house music, club house, four-on-the-floor house", "ハウス, ハウスミュージック"),
    "techno": ("techno, techno track, minimal techno", "テクノ, ミニマルテクノ"),
    "trance": ("trance, edm, trance music", "トランス, EDM"),
    "drum and bass": ("drum and bass, drum & bass, dnb, jungle", "ドラムンベース, ジャングル"),
    "hip-hop": ("hip-hop, hip hop, boom bap", "ヒップホップ, ブーンバップ"),
    "lo-fi": ("lo-fi, lofi, lo-fi hip hop, lofi beat, chillhop", "ローファイ, ローファイヒップホップ, チルホップ"),
    "funk": ("funk, funk music, funk groove", "ファンク, ファンクミュージック"),
    "disco": ("disco, disco music, 70s disco", "ディスコ, ディスコミュージック"),
    "city pop": ("city pop, 80s japanese pop", "シティポップ, 80年代シティポップ"),
    "reggae": ("reggae, reggae music, roots reggae", "レゲエ, ルーツレゲエ"),
    "jazz": ("jazz, swing jazz, jazz music, swing", "ジャズ, スウィングジャズ, スウィング"),
    "blues": ("blues, twelve-bar blues, blues music", "ブルース"),
    "bossa nova": ("bossa nova, bossa, brazilian bossa", "ボサノバ, ボサノヴァ"),
    "latin": ("latin, salsa, latin music", "ラテン, サルサ, ラテン音楽"),
    "folk": ("folk, folk music, folk song", "フォーク, フォークソング"),
    "country": ("country, country music, bluegrass", "カントリー, ブルーグラス"),
    "waltz": ("waltz, ballroom waltz, viennese waltz", "ワルツ, 円舞曲"),
    "march": ("march, marching band music, parade music", "マーチ, 行進曲"),
    "cinematic": ("cinematic, orchestral, film score, movie soundtrack, trailer music", "映画音楽, オーケストラ, サントラ, 劇伴"),
    "classical": ("classical, classical music, classical piece", "クラシック, クラシック音楽, 古典派"),
    "chamber strings": ("chamber strings, string quartet, string ensemble", "弦楽四重奏, 弦楽アンサンブル, 弦楽合奏"),
    "ballad": ("ballad, ballade", "バラード"),
    "lullaby": ("lullaby, cradle song, bedtime song", "子守唄, 子守歌, ララバイ"),
    "ambient": ("ambient, ambient music, soundscape, drone", "アンビエント, 環境音楽, ドローン"),
    "synthwave": ("synthwave, retrowave, 80s synth pop, outrun", "シンセウェイブ, シンセウェーブ, 80年代シンセポップ"),
    "chiptune": ("chiptune, 8-bit, 8-bit game music, retro game music", "チップチューン, 8ビット, レトロゲーム音楽, ファミコン"),
    "japanese": ("traditional japanese, japanese traditional music, japanese", "和風, 和楽, 日本の伝統音楽"),
    "celtic": ("celtic, irish folk, celtic music", "ケルト, ケルト音楽, アイリッシュ"),
    "tango": ("tango, argentine tango", "タンゴ"),
}  # fmt: skip
# Styles whose plainest word is a thing that can be counted: "a waltz", not "waltz music".
COUNTABLE = ("waltz", "march", "ballad", "lullaby", "tango")

_MOODS = {
    "calm": ("calm, peaceful, gentle, quiet, soothing, tranquil", "穏やかな, 静かな, 落ち着いた, 優しい"),
    "warm": ("warm, tender, heartwarming", "温かい, あたたかい, ぬくもりのある"),
    "happy": ("happy, cheerful, sunny, carefree", "楽しい, 陽気な, 楽しげな"),
    "bright": ("bright, uplifting, radiant", "明るい, 爽やかな, 晴れやかな"),
    "joyful": ("joyful, exuberant, jubilant", "喜びにあふれた, ハッピーな"),
    "energetic": ("energetic, upbeat, lively, powerful, high-energy", "元気な, 勢いのある, エネルギッシュな, ノリのいい"),
    "sad": ("sad, sorrowful, mournful, tearful", "悲しい, 悲しげな, 泣ける"),
    "melancholic": ("melancholic, wistful, bittersweet", "切ない, 哀愁のある, 物悲しい"),
    "lonely": ("lonely, solitary, forlorn", "寂しい, 孤独な"),
    "dark": ("dark, gloomy, brooding, moody", "暗い, ダークな, 重い"),
    "serious": ("serious, sober, grave", "真剣な, シリアスな"),
    "intense": ("intense, tense, fierce", "激しい, 緊張感のある, 緊迫した"),
    "dramatic": ("dramatic, stormy", "ドラマチックな, 劇的な"),
    "steady": ("steady, even", "安定した, 一定の"),
    "groovy": ("groovy, danceable, funky", "グルーヴィーな, 踊れる"),
    "epic": ("epic, heroic, grand, majestic", "壮大な, 勇壮な, スケールの大きい"),
    "solemn": ("solemn, proud, stately", "堂々とした, 厳かな"),
    "dreamy": ("dreamy, floating, ethereal", "夢のような, 幻想的な, ふわふわした"),
    "nostalgic": ("nostalgic, retro", "懐かしい, ノスタルジックな, レトロな"),
    "playful": ("playful, bouncy, whimsical", "遊び心のある, 軽快な, かわいい"),
    "elegant": ("elegant, graceful, refined", "優雅な, 上品な, エレガントな"),
    "aggressive": ("aggressive, brutal, angry", "攻撃的な, 荒々しい"),
    "hypnotic": ("hypnotic, pulsing, trance-like", "催眠的な, 没入感のある"),
    "passionate": ("passionate, fiery", "情熱的な"),
    "romantic": ("romantic, loving", "ロマンチックな, 甘い"),
    "serene": ("serene, meditative, zen", "静寂な, 瞑想的な, 趣のある"),
    "relaxed": ("relaxed, laid-back, chill", "リラックスした, くつろいだ, チルな"),
}  # fmt: skip

# value -> slowest and fastest bpm that it fits
TEMPI = {"slow": (0, 84), "moderate": (88, 120), "fast": (126, 999)}
_TEMPI = {
    "slow": ("slow, slow tempo, slow-paced, unhurried", "ゆっくりした, ゆったりした, スローテンポの, 遅い"),
    "moderate": (
        "mid-tempo, moderate tempo, medium tempo",
        "ミドルテンポの, ほどよいテンポの, 中くらいの速さの",
    ),
    "fast": ("fast, fast tempo, fast-paced, quick", "速い, アップテンポの, 疾走感のある, テンポの速い"),
}
_DENSITIES = {
    "sparse": ("sparse, minimal, uncluttered", "音数の少ない, 音の少ない, ミニマルな"),
    "dense": ("dense, busy, full-sounding", "音数の多い, 音の詰まった, にぎやかな"),
}
_REGISTERS = {
    "low": ("low register, low-pitched, deep", "低音の, 低音域の, 低い音域の"),
    "high": ("high register, high-pitched", "高音の, 高音域の, 高い音域の"),
}
_METRES = {
    "2": ("2/4, two-four time, in two", "2拍子, 二拍子, 4分の2拍子"),
    "3": ("3/4, three-four time, in three, triple metre", "3拍子, 三拍子, 4分の3拍子"),
    "4": ("4/4, four-four time, in four, common time", "4拍子, 四拍子, 4分の4拍子"),
    "6": ("6/8, six-eight time, in six", "6/8拍子, 八分の六拍子, 8分の6拍子"),
}
_MODES = {"major": ("major key, major mode", "長調, メジャーキー"), "minor": ("minor key, minor mode", "短調, マイナーキー")}  # fmt: skip
# What pieces of a style are made for.
USES = {
    "study": ("lo-fi", "ambient", "classical"),
    "sleep": ("lullaby", "ambient"),
    "game": ("chiptune", "celtic"),
    "dance": ("house", "techno", "trance", "disco", "drum and bass", "funk", "latin"),
    "film": ("cinematic", "chamber strings"),
    "cafe": ("bossa nova", "jazz", "lo-fi"),
    "drive": ("synthwave", "city pop", "rock", "country"),
    "parade": ("march",),
    "ball": ("waltz", "tango"),
    "meditation": ("ambient", "japanese"),
    "campfire": ("folk", "country"),
    "workout": ("metal", "trance", "drum and bass", "techno"),
    "beach": ("reggae", "latin"),
}
_USES = {
    "study": ("for studying, for working, study music", "勉強用, 作業用, 作業用BGM"),
    "sleep": ("for sleeping, for bedtime, sleep music", "睡眠用, おやすみ用, 寝る前に聴きたい"),
    "game": ("for a video game, for a game, game music", "ゲーム用, ゲーム音楽, ゲームBGM"),
    "dance": ("for dancing, for the dance floor, for a party", "ダンス用, パーティー用, クラブ向け"),
    "film": ("for a film, for a movie scene, for a trailer", "映画用, 映像用, 予告編用"),
    "cafe": ("for a cafe, for a coffee shop, cafe music", "カフェ用, カフェBGM, 喫茶店向け"),
    "drive": ("for driving, for a road trip, driving music", "ドライブ用, ドライブ向け"),
    "parade": ("for a parade, for a ceremony", "パレード用, 式典用, 運動会用"),
    "ball": ("for a ballroom, for a ball", "舞踏会用, 社交ダンス用"),
    "meditation": ("for meditation, for yoga", "瞑想用, ヨガ用"),
    "campfire": ("for a campfire, for camping", "キャンプ用, 焚き火のそばで聴きたい"),
    "workout": ("for working out, for the gym", "トレーニング用, 筋トレ用"),
    "beach": ("for the beach, for a holiday", "休日用, 海辺で聴きたい"),
}
_COUNTS = {"2": ("duo, duet", "デュオ, 二重奏")}
_VOCALS = {
    "none": (
        "instrumental, no vocals, without vocals, no singing",
        "インスト, インストゥルメンタル, ボーカルなし, 歌なし",
    ),
}
# Cuts out of a longer piece.
_PLACES = {
    "after the start": ("starts in mid-piece, without its beginning", "曲の途中から, 冒頭なし"),
    "before the end": ("ends in mid-piece, without its ending", "曲の途中まで, 終わりなし"),
    "whole": ("complete piece, with a beginning and an ending", "最後まである曲, 始まりと終わりのある曲"),
}

_KINDS = {
    "instrument": _INSTRUMENTS, "style": _STYLES, "mood": _MOODS, "tempo": _TEMPI, "density": _DENSITIES,
    "register": _REGISTERS, "metre": _METRES, "mode": _MODES, "use": _USES, "count": _COUNTS, "vocals": _VOCALS,
    "place": _PLACES,
}  # fmt: skip
ENGLISH = {
    kind: _split({value: english for value, (english, _) in table.items()}) for kind, table in _KINDS.items()
}
JAPANESE = {
    kind: _split({value: japanese for value, (_, japanese) in table.items()})
    for kind, table in _KINDS.items()
}

# Keys in words.
SHARPS = {"C#": "C sharp", "D#": "D sharp", "F#": "F sharp", "G#": "G sharp", "A#": "A sharp"}
FLATS = {"Db": "D flat", "Eb": "E flat", "Gb": "G flat", "Ab": "A flat", "Bb": "B flat"}
TONICS_JA = {
    "C": "ハ", "C#": "嬰ハ", "Db": "変ニ", "D": "ニ", "D#": "嬰ニ", "Eb": "変ホ", "E": "ホ", "F": "ヘ", "F#": "嬰ヘ",
    "Gb": "変ト", "G": "ト", "G#": "嬰ト", "Ab": "変イ", "A": "イ", "A#": "嬰イ", "Bb": "変ロ", "B": "ロ",
}  # fmt: skip
MODES_JA = {"major": ("長調", "メジャー"), "minor": ("短調", "マイナー")}
