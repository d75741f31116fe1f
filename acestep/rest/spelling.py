"""What a finished file is called on the wire: its media type, its name, and the whole of it as a link."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

MEDIA_TYPES = {
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
}


def media_type(path: Path) -> str:
    """Return the media type that an extension stands for."""
    return MEDIA_TYPES.get(path.suffix, "application/octet-stream")


def speaking_name(label: str, path: Path) -> str:
    """Return the caption's words and enough of the file's name to tell the songs of a batch apart."""
    return f"{label}-{path.stem[:8]}{path.suffix}" if label else path.name


def data_url(path: Path) -> str:
    """Return a file as a link that holds all of it, in base64. Reads the disk."""
    return f"data:{media_type(path)};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


UNDECIDED = "N/A"  # what our answers say where nobody decided; clients send their metas back

AUDIO_PATH = "/v1/audio"

LABEL_END = "_"  # between the speaking part of an audio link and its token, which has no underscore

MAX_LABEL = 40  # characters


def code_string(codes: Sequence[int]) -> str:
    """Return audio codes as the text of tokens that clients know."""
    return "".join(f"<|audio_code_{code}|>" for code in codes)


def audio_link(caption: str, token: str) -> str:
    """Return the link to a file; in front of the token stands what the file will be called."""
    label = label_of(caption)
    return f"{AUDIO_PATH}?path={quote(f'{label}{LABEL_END}{token}' if label else token, safe='')}"


def label_of(caption: str) -> str:
    """Return the speaking part of a file's name, which is safe in any link or header."""
    return "-".join(re.findall(r"[a-z0-9]+", caption.lower()))[:MAX_LABEL].strip("-")


def split_link(path: str) -> tuple[str, str]:
    """Return the speaking part of what an audio link carries (nothing strange in it), and the token."""
    label, _, token = path.rpartition(LABEL_END)
    return "".join(re.findall(r"[a-z0-9-]+", label))[:MAX_LABEL], token
