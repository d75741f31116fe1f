"""What a finished file is called on the wire: its media type, its name, and the whole of it as a link.

Knows nothing of jobs, or of where files are kept.
"""

from __future__ import annotations

import base64
from pathlib import Path

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
