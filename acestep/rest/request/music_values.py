"""Tempo, key, bars, length and language, in the spellings that clients send."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

from pydantic import WithJsonSchema

from acestep.domain.song import LANGUAGES
from acestep.rest.request.wire_types import is_open, read_text, read_whole, read_word, reader, shown_as

# Codes of a part, an older or an unofficial name of a language that the models know.
_LANGUAGES = {
    "nb": "no",
    "nn": "no",
    "fil": "tl",
    "iw": "he",
    "in": "id",
    "cmn": "zh",
    "jp": "ja",
    "zh-yue": "yue",
}
_SHARP, _FLAT = "#", "b"
_KEY = re.compile(
    r"([A-Ga-g])(?:[\s_-]*(#|b|(?i:sharp|flat)(?![a-z])))?"
    r"(?:m|[\s_:-]*(?i:(maj(?:or)?|メジャー|大[調调]|장조)|(min(?:or)?|マイナー|小[調调]|단조)))?"
)
_JAPANESE_KEY = re.compile(r"([嬰変變]?)([ハニホヘトイロ])([長短])調?")
_JAPANESE_NOTES = dict(zip("ハニホヘトイロ", "CDEFGAB", strict=True))


def read_language(value: object) -> str:
    """ "en" for "en-US", "ja" for "ja_JP.UTF-8"."""
    tag = read_word(value).replace("_", "-").partition(".")[0]
    main = tag.partition("-")[0]
    code = _LANGUAGES.get(tag) or _LANGUAGES.get(main) or main
    if code not in LANGUAGES or not re.fullmatch(r"[a-z]+(-[a-z0-9]{1,8}){0,4}", tag):
        raise ValueError
    return code


def read_bpm(value: object) -> int | None:
    return None if is_open(value) else read_whole(value)


def read_time_signature(value: object) -> str | None:
    """The beats of "4", 4, "4/4" or "6/8", which are all that the models know."""
    if is_open(value):
        return None
    found = re.fullmatch(r"([2346])(?:\.0|/4)?|(6)/8", read_text(value).replace(" ", ""))
    if found is None:
        raise ValueError
    return found[1] or found[2]


def read_key_scale(value: object) -> str | None:
    """ "C# minor" for "c♯ MINOR", "C sharp min" or "嬰ハ短調", "Bb major" for "B-flat", "C major" for "C"."""
    if is_open(value):
        return None
    text = unicodedata.normalize("NFKC", read_text(value)).replace("♯", _SHARP).replace("♭", _FLAT).strip()
    if japanese := _JAPANESE_KEY.fullmatch(text.replace(" ", "")):
        sign = "" if not japanese[1] else _SHARP if japanese[1] == "嬰" else _FLAT
        return _key(_JAPANESE_NOTES[japanese[2]], sign, japanese[3] == "短")
    found = _KEY.fullmatch(text)
    if found is None:  # also "CM", which may be C major, or "Cm" with a stuck shift key
        raise ValueError
    sign = {"sharp": _SHARP, "flat": _FLAT}.get((found[2] or "").lower(), found[2] or "")
    return _key(found[1].upper(), sign, bool(found[4]) or (not found[3] and text.endswith("m")))


def _key(note: str, sign: str, is_minor: bool) -> str:
    return f"{note}{sign} {'minor' if is_minor else 'major'}"


Language = Annotated[str, reader(read_language), WithJsonSchema({"type": "string", "enum": [*LANGUAGES]})]

OptionalLanguage = Annotated[
    str | None,
    reader(read_language),
    WithJsonSchema({"anyOf": [{"type": "string", "enum": [*LANGUAGES]}, {"type": "null"}]}),
]

Bpm = Annotated[int | None, reader(read_bpm)]

TimeSignature = Annotated[str | None, reader(read_time_signature), shown_as("string", "integer", "null")]

KeyScale = Annotated[str | None, reader(read_key_scale)]
