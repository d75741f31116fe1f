from __future__ import annotations

from pathlib import Path

import av
import pytest

from acestep.audio.encode import FileSpec, Tags, extension, tag_text, write
from acestep.domain.song import AudioFormat
from tests.audio.sounds import music

FULL = Tags(
    title="夜の歌",
    caption="静かな ピアノ, 雨",
    seed=0,
    bpm=96,
    key_scale="C# minor",
    model="acestep-v15-turbo",
    software="ACE-Step 0.1",
)
IN_FIELDS = {
    "title": "夜の歌",
    "comment": "静かな ピアノ, 雨",
    "seed": "0",
    "bpm": "96",
    "initialkey": "C# minor",
    "model": "acestep-v15-turbo",
    "encoded_by": "ACE-Step 0.1",
}
EXPECTED: dict[AudioFormat, dict[str, str]] = {
    "flac": IN_FIELDS,
    "opus": IN_FIELDS,
    "mp3": {
        "title": "夜の歌",
        "comment": "静かな ピアノ, 雨",
        "seed": "0",
        "TBPM": "96",
        "TKEY": "C#m",
        "model": "acestep-v15-turbo",
        "encoder": "ACE-Step 0.1",
    },
    "wav": {
        "title": "夜の歌",
        "comment": "静かな ピアノ, 雨\nbpm: 96\nkey: C# minor\nseed: 0\nmodel: acestep-v15-turbo",
        "encoded_by": "ACE-Step 0.1",
    },
    "aac": {
        "title": "夜の歌",
        "comment": (
            "静かな ピアノ, 雨\nkey: C# minor\nseed: 0\nmodel: acestep-v15-turbo\nsoftware: ACE-Step 0.1"
        ),
    },
}
EXPECTED["wav32"] = EXPECTED["wav"]


def tagged(tmp_path: Path, audio_format: AudioFormat, tags: Tags) -> Path:
    path = tmp_path / f"song.{extension(audio_format)}"
    write(music(48000), path, FileSpec(audio_format, tags=tags))
    return path


def read_tags(path: Path) -> dict[str, str]:
    with av.open(str(path)) as file:
        return {**file.streams.audio[0].metadata, **file.metadata}


@pytest.mark.parametrize("audio_format", EXPECTED)
def test_every_fact_is_found_again(tmp_path: Path, audio_format: AudioFormat) -> None:
    found = read_tags(tagged(tmp_path, audio_format, FULL))
    assert {name: found.get(name) for name in EXPECTED[audio_format]} == EXPECTED[audio_format]


@pytest.mark.parametrize("audio_format", EXPECTED)
def test_what_is_not_known_is_not_written(tmp_path: Path, audio_format: AudioFormat) -> None:
    found = read_tags(tagged(tmp_path, audio_format, Tags(title="Only this", software="")))
    by_ffmpeg = {"encoder", "language", "handler_name", "vendor_id"}
    mp4_brands = {"major_brand", "minor_version", "compatible_brands"}
    assert {name: found[name] for name in found.keys() - by_ffmpeg - mp4_brands} == {"title": "Only this"}


def test_mp4_has_its_tempo_atom(tmp_path: Path) -> None:
    # FFmpeg writes the atom but does not read it: ilst entry, then a `data` atom with a 16-bit number.
    content = tagged(tmp_path, "aac", FULL).read_bytes()
    atom = content[content.index(b"tmpo") :]
    assert atom[8:12] == b"data"
    assert int.from_bytes(atom[20:22], "big") == 96


def test_mp3_has_the_frames_that_players_read(tmp_path: Path) -> None:
    content = tagged(tmp_path, "mp3", FULL).read_bytes()
    assert content.startswith(b"ID3\x03")
    for frame in (b"TIT2", b"COMM", b"TBPM", b"TKEY", b"TSSE"):
        assert content.count(frame) == 1


def test_a_long_caption_fits_an_id3_tag(tmp_path: Path) -> None:
    caption = "長い。" * 5000
    assert read_tags(tagged(tmp_path, "mp3", Tags(caption=caption)))["comment"] == caption


@pytest.mark.parametrize("audio_format", EXPECTED)
def test_text_that_no_tag_can_hold_does_not_stop_the_song(tmp_path: Path, audio_format: AudioFormat) -> None:
    found = read_tags(tagged(tmp_path, audio_format, Tags(title="a\ud800b\0c")))
    assert found["title"] == "a?bc"


# Colours, a window title (ended in both ways), a hyperlink, single escapes, C1 codes, and what else steers.
STEERING = {
    "\x1b[31mred\x1b[0m": "red",
    "a\x1b]0;title\x07b": "ab",
    "a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b": "alinkb",
    "a\x1bPdevice\x1b\\b": "ab",
    "a\x1bcb\x1b(Bc": "abc",
    "a\x9b31mb\x9d0;t\x9cc": "abc",
    "a\x07\x08\x7f\x0b\x0c\x85b": "ab",
    "a\x1b": "a",
    "\x1b]no end": "no end",
    "x\r\ny\rz\tw": "x\ny\nz\tw",
    "静かな\x1b[1mピアノ, R&B, ♯🎹": "静かなピアノ, R&B, ♯🎹",
}


@pytest.mark.parametrize(("sent", "found"), STEERING.items(), ids=ascii)
def test_nothing_in_a_tag_steers_a_terminal(sent: str, found: str) -> None:
    assert tag_text(sent) == found


@pytest.mark.parametrize("audio_format", EXPECTED)
def test_no_file_holds_control_characters_of_a_caption(tmp_path: Path, audio_format: AudioFormat) -> None:
    rough = "\x1b[31mslow\x1b]0;pwned\x07 piano\x08\x9b2J"
    tags = Tags(title=rough, caption=rough, key_scale=f"C{rough}", model=rough, software="\x1bcus")
    found = read_tags(tagged(tmp_path, audio_format, tags))
    assert found["title"] == "slow piano"
    assert "slow piano" in found["comment"] and "pwned" not in str(found)
    assert not [
        value for value in found.values() if set(value) & {chr(code) for code in (*range(9), 27, 155)}
    ]


def test_a_long_run_of_escapes_is_read_once() -> None:
    for run in ("\x1b]" * 50_000, "\x90" * 100_000, "\x1b[" + "0" * 100_000, "\x1b[0" * 30_000):
        assert len(tag_text(run)) <= 100_001
