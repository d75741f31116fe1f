from __future__ import annotations

import re
from dataclasses import dataclass

from acestep.domain.song import is_instrumental
from acestep.errors import InvalidFieldError

_TAGS = ("prompt", "lyrics")
# A section alone on a line: [Verse], [Chorus 2], [Bridge - whispered].
_SECTION = re.compile(
    r"^\s*\[\s*(?:intro|verse|pre-?chorus|chorus|post-?chorus|refrain|hook|bridge|interlude|break|drop|build"
    r"|solo|rap|ad-?lib|instrumental|inst|outro|ending)\b[^\]\n]*\]\s*$",
    re.IGNORECASE | re.MULTILINE,
)
# Fewer lines, or longer ones, may be a description.
_MIN_LINES, _MAX_LINE = 4, 60


@dataclass(frozen=True, slots=True)
class Message:
    """`caption` and `lyrics`, or else a `sentence`; `aside` is text beside the tags."""

    caption: str | None = None
    lyrics: str | None = None
    sentence: str | None = None
    aside: str = ""


def understand(text: str, may_be_lyrics: bool = True) -> Message:
    """Without tags a text is a sentence, or lyrics if it `may_be_lyrics` and looks like them.

    Raises `InvalidFieldError` for a tag that is not closed.
    """
    tagged = {name: _inside(name, text) for name in _TAGS}
    if any(inside is not None for inside in tagged.values()):
        return Message(tagged["prompt"], tagged["lyrics"], aside=_beside_tags(text))
    if not text.strip():
        return Message()
    if is_instrumental(text) or (may_be_lyrics and looks_like_lyrics(text)):
        return Message(lyrics=text.strip())
    return Message(sentence=text.strip())


def looks_like_lyrics(text: str) -> bool:
    """Whether a text has section tags, or at least four lines that are all short."""
    if _SECTION.search(text):
        return True
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return len(lines) >= _MIN_LINES and all(len(line) <= _MAX_LINE for line in lines)


def _inside(tag: str, text: str) -> str | None:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.IGNORECASE | re.DOTALL)
    if found:
        return found[1].strip()
    if re.search(rf"<{tag}>", text, re.IGNORECASE):
        raise InvalidFieldError("messages", text, f"a </{tag}> after every <{tag}>")
    return None


def _beside_tags(text: str) -> str:
    for tag in _TAGS:
        text = re.sub(rf"<{tag}>.*?</{tag}>", "", text, count=1, flags=re.IGNORECASE | re.DOTALL)
    return text.strip()
