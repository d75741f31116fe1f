"""What a song file says about itself: title, caption, seed, bpm, key, model and software.

What a container has no field for goes into its comment, below the caption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tags:
    """Facts about one song; what is empty or None is not written."""

    title: str = ""
    caption: str = ""
    seed: int | None = None
    bpm: int | None = None
    key_scale: str | None = None
    model: str = ""
    software: str = "ACE-Step"


# The names under which FFmpeg fills each container's own fields. It writes the `encoder` field of all of
# them itself, so the software is named where people look next.
_RIFF_INFO = {"title": "title", "software": "encoded_by"}
_VORBIS_COMMENT = {
    "title": "title",
    "seed": "seed",
    "bpm": "bpm",
    "key": "initialkey",
    "model": "model",
    "software": "encoded_by",
}
_MP4_ATOMS = {"title": "title", "bpm": "tmpo"}
_FIELDS: Mapping[str, Mapping[str, str]] = {
    "wav": _RIFF_INFO,
    "flac": _VORBIS_COMMENT,
    "ogg": _VORBIS_COMMENT,
    "ipod": _MP4_ATOMS,
}


def metadata(tags: Tags, container: str) -> dict[str, str]:
    """The metadata to hand to FFmpeg's muxer `container` (wav, flac, ogg or ipod)."""
    fields = _FIELDS[container]
    facts = _facts(tags)
    homeless = [f"{name}: {value}" for name, value in facts.items() if name not in fields]
    comment = "\n".join(line for line in (_text(tags.caption), *homeless) if line)
    return {fields[name]: value for name, value in facts.items() if name in fields} | {"comment": comment}


def id3(tags: Tags) -> bytes:
    """An ID3v2.3 tag, to stand before the first MP3 frame.

    FFmpeg would write the comment as a TXXX frame, which players do not show; they read COMM.
    Version 2.3 with UTF-16 text is what all of them understand.
    """
    facts = _facts(tags)
    frames = [
        _frame(name, _utf16(facts[fact]))
        for name, fact in (("TIT2", "title"), ("TBPM", "bpm"), ("TSSE", "software"))
        if fact in facts
    ]
    if "key" in facts:  # ID3 spells keys C, C#, Cm
        frames.append(_frame("TKEY", _utf16(facts["key"].replace(" major", "").replace(" minor", "m"))))
    if tags.caption:  # language unknown, no short description
        frames.append(_frame("COMM", b"und" + _utf16("", end=True) + _utf16(_text(tags.caption))))
    frames += [
        _frame("TXXX", _utf16(fact, end=True) + _utf16(facts[fact]))
        for fact in ("seed", "model")
        if fact in facts
    ]
    body = b"".join(frames)
    # The tag's size has seven bits in each byte, so that it never looks like the start of an MP3 frame.
    size = bytes(len(body) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + size + body


def _facts(tags: Tags) -> dict[str, str]:
    """All facts but the caption, in the order in which people read them."""
    facts = {
        "title": tags.title,
        "bpm": tags.bpm,
        "key": tags.key_scale,
        "seed": tags.seed,
        "model": tags.model,
        "software": tags.software,
    }
    return {name: _text(str(value)) for name, value in facts.items() if value not in (None, "")}


def _text(value: str) -> str:
    """Text that every container can hold: JSON allows NUL and half surrogate pairs, tags allow neither."""
    return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _utf16(text: str, end: bool = False) -> bytes:
    return b"\xff\xfe" + text.encode("utf-16-le") + (b"\0\0" if end else b"")


def _frame(name: str, content: bytes) -> bytes:
    content = b"\x01" + content  # 1: what follows is UTF-16
    return name.encode("ascii") + len(content).to_bytes(4, "big") + b"\0\0" + content
