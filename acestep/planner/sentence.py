"""What the sentence of a query says outright: instrumental, or a language."""

from __future__ import annotations

import re

_INSTRUMENTAL = re.compile(
    r"\binstrumental\b|\bpure music\b|\b(?:no|without) (?:vocals|voices?|singing|lyrics)\b"
    # "a slow piano solo", but not "a rock song with a guitar solo".
    r"|^\W*(?:(?!with\b|song\b|and\b)[\w-]+ ){1,4}solo\b",
    re.IGNORECASE,
)
# English names. Latin is left out: it means the dances.
_NAMES = (
    "arabic ar, azerbaijani az, bulgarian bg, bengali bn, catalan ca, czech cs, danish da, german de, "
    "greek el, english en, spanish es, persian fa, farsi fa, finnish fi, french fr, hebrew he, "
    "hindi hi, croatian hr, haitian ht, hungarian hu, indonesian id, icelandic is, italian it, "
    "japanese ja, korean ko, lithuanian lt, malay ms, nepali ne, dutch nl, norwegian no, punjabi pa, "
    "polish pl, portuguese pt, romanian ro, russian ru, sanskrit sa, slovak sk, serbian sr, "
    "swedish sv, swahili sw, tamil ta, telugu te, thai th, tagalog tl, turkish tr, ukrainian uk, "
    "urdu ur, vietnamese vi, cantonese yue, chinese zh, mandarin zh"
)
_LANGUAGES = dict(pair.split() for pair in _NAMES.split(", "))
_LANGUAGE = re.compile(rf"\b(?:{'|'.join(_LANGUAGES)})\b", re.IGNORECASE)


def is_instrumental(sentence: str) -> bool:
    return _INSTRUMENTAL.search(sentence) is not None


def named_language(sentence: str) -> str | None:
    """The code of the first language that it names in English."""
    found = _LANGUAGE.search(sentence)
    return _LANGUAGES[found[0].lower()] if found else None
