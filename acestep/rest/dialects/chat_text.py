from __future__ import annotations

import re
from dataclasses import dataclass

from acestep.domain.song import is_instrumental
from acestep.errors import InvalidFieldError

_TAGS = ("prompt", "lyrics")
# A section, alone on a line: [Verse], [Chorus 2], [Bridge - whispered].
_SECTION = re.compile(
    r"\[\s*(?:intro|verse|pre-?chorus|chorus|post-?chorus|refrain|hook|bridge|interlude|break|drop|build"
    r"|solo|rap|ad-?lib|instrumental|inst|outro|ending)\b[^\]]*\]",
    re.IGNORECASE,
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
    found = {name: _find(name, text) for name in _TAGS}
    spans = {name: span for name, span in found.items() if span}
    if spans:
        inside = {
            name: text[opening.end() : closing.start()].strip() for name, (opening, closing) in spans.items()
        }
        return Message(inside.get("prompt"), inside.get("lyrics"), aside=_beside(text, [*spans.values()]))
    if not text.strip():
        return Message()
    if is_instrumental(text) or (may_be_lyrics and looks_like_lyrics(text)):
        return Message(lyrics=text.strip())
    return Message(sentence=text.strip())


def looks_like_lyrics(text: str) -> bool:
    """Whether a text has section tags, or at least four lines that are all short."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(_SECTION.fullmatch(line) for line in lines):
        return True
    return len(lines) >= _MIN_LINES and all(len(line) <= _MAX_LINE for line in lines)


def _find(tag: str, text: str) -> tuple[re.Match[str], re.Match[str]] | None:
    # The first opening tag and the first closing one after it. (One pattern for both takes quadratic time.)
    opening = re.search(f"<{tag}>", text, re.IGNORECASE)
    if opening is None:
        return None
    closing = re.compile(f"</{tag}>", re.IGNORECASE).search(text, opening.end())
    if closing is None:
        raise InvalidFieldError("messages", text, f"a </{tag}> after every <{tag}>")
    return opening, closing


def _beside(text: str, spans: list[tuple[re.Match[str], re.Match[str]]]) -> str:
    kept, at = "", 0
    for opening, closing in sorted(spans, key=lambda span: span[0].start()):
        kept += text[at : max(at, opening.start())]
        at = max(at, closing.end())
    return (kept + text[at:]).strip()
