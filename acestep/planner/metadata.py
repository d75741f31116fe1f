"""The metadata block of the language model, to text and back."""

from __future__ import annotations

import re

import yaml

from acestep.domain.draft import Draft, Metadata
from acestep.errors import PlannerError

BEGIN, END = "<think>", "</think>"
LANGUAGE_HEADER, LYRIC_HEADER = "# Languages\n", "# Lyric\n"

_KEYS = ("bpm", "caption", "duration", "genres", "keyscale", "language", "timesignature")
_FIELD = re.compile(rf"\n({'|'.join(_KEYS)}): ?")
_STRAY = re.compile(r"\n(?!  |\n|$)")  # a line that is neither a field nor the continuation of one
_FOLD = re.compile(r" *\n(\n*) *")
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_LYRICS = re.compile(rf"\s*(?:{LANGUAGE_HEADER}[^\n]*\n+)?{LYRIC_HEADER}(.*)", re.DOTALL)
_CUT = "\ufffd"  # part of a character, if the text ends inside it


def field(key: str, value: str | int) -> str:
    """A field in YAML, with its line break; digits are a number, as in the training data."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and str(int(value)) == value:
        value = int(value)
    text: str = yaml.dump({key: value}, allow_unicode=True)
    return text


def facts(metadata: Metadata) -> dict[str, str | int]:
    """The known fields by their names in the block."""
    named = {
        "bpm": metadata.bpm,
        "caption": metadata.caption,
        "duration": metadata.duration,
        "keyscale": metadata.key_scale,
        "language": metadata.language,
        "timesignature": metadata.time_signature,
    }
    return {key: value for key, value in named.items() if value is not None}


def write(metadata: Metadata) -> str:
    return f"{BEGIN}{inside(metadata)}{END}"


def inside(metadata: Metadata) -> str:
    """The block without its markers."""
    return "".join(("\n", *(field(key, value) for key, value in facts(metadata).items())))


def read(text: str) -> Metadata:
    """Raises PlannerError if `text` does not begin with a block, or the block is not readable."""
    metadata, _ = _read_block(text)
    return metadata


def read_draft(text: str) -> Draft:
    """Raises PlannerError if `text` is not a block with lyrics after it."""
    metadata, rest = _read_block(text)
    lyrics = _LYRICS.fullmatch(rest)
    if lyrics is None:
        raise PlannerError(f"The language model wrote no lyrics: {rest[:80]!r}.")
    return Draft(metadata, lyrics[1].rstrip(_CUT).strip())


def _read_block(text: str) -> tuple[Metadata, str]:
    head, _, body = text.lstrip().partition("\n")
    inside, end, rest = f"\n{body}".partition(f"\n{END}")
    before, *parts = _FIELD.split(inside)
    values = dict(zip(parts[::2], parts[1::2], strict=True))
    if head.strip() != BEGIN or not end or before or any(map(_STRAY.search, values.values())):
        raise PlannerError(f"The language model wrote no readable metadata: {text[:200]!r}.")
    written = {key: _scalar(value) for key, value in values.items()}
    return (
        Metadata(
            bpm=_whole("bpm", written),
            caption=written.get("caption"),
            duration=_whole("duration", written),
            key_scale=written.get("keyscale"),
            language=written.get("language"),
            time_signature=written.get("timesignature"),
        ),
        rest,
    )


def _scalar(text: str) -> str:
    # A value, unquoted and unfolded. Other YAML syntax in it, such as a colon, is plain text.
    if _QUOTED.fullmatch(text):
        try:
            value = str(yaml.safe_load(text))
            value.encode()
        except (yaml.YAMLError, UnicodeEncodeError):  # an escape that YAML or Unicode does not know
            pass
        else:
            return value
    return _FOLD.sub(lambda breaks: breaks[1] or " ", text).rstrip(_CUT).strip()


def _whole(key: str, written: dict[str, str]) -> int | None:
    if key not in written:
        return None
    try:
        return int(written[key])
    except ValueError:
        raise PlannerError(f"The language model wrote {key}: {written[key]!r}, which is no number.") from None
