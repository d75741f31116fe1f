"""Headers of WAV and Wave64 that FFmpeg takes at their word, and signs in others that a file was cut off."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

# Programs that write to a pipe do not know the length: they put in 0, 2^31 - 1, 2 000 000 000 or the like.
# No upload is that large.
UNKNOWN_SIZE = 1_000_000_000
_EXTENSIBLE, _PCM, _FLOAT = 0xFFFE, 1, 3
_WIDTHS = {_PCM: (1, 2, 3, 4), _FLOAT: (4, 8)}  # bytes a sample
_MOST_CHUNKS = 1000
_MAY_MISS = 0.05  # seconds of sound
_OGG_PAGE = 65_307  # bytes of the largest
_LAST_PAGE = 4  # a bit of its flags
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the object that states the size of the file
_SEGMENT = bytes.fromhex("18538067")  # Matroska's element that holds the rest of the file
_HEADER = 10_000  # bytes that are searched for either
MATROSKA = "matroska,webm"  # as FFmpeg calls it


@dataclass(frozen=True, slots=True)
class WaveHeader:
    """`patches` are bytes by their position, for a header that is not true.

    `missing` counts the bytes that the file should have and does not.
    """

    patches: Mapping[int, bytes] = field(default_factory=dict)
    missing: int = 0


@dataclass(frozen=True, slots=True)
class _Chunk:
    name: bytes
    size_at: int  # where its size stands
    start: int
    size: int
    is_wide: bool  # Wave64: eight bytes of size, which count the chunk's own 24 bytes of header

    def sized(self, size: int) -> bytes:
        return struct.pack("<Q", size + 24) if self.is_wide else struct.pack("<I", size)


def read_wave_header(path: Path) -> WaveHeader:
    """What to correct in a WAV or Wave64 file; nothing in other files."""
    size = path.stat().st_size
    with path.open("rb") as file:
        form = data = None
        for chunk in _chunks(file, size):
            if chunk.name == b"fmt ":
                file.seek(chunk.start)
                form = chunk, file.read(min(chunk.size, 40))
            elif chunk.name == b"data":
                data = chunk
                break
        if form is None or data is None or len(form[1]) < 16:
            return WaveHeader()
        file.seek(0)
        has_plain_sizes = file.read(4) in (b"RIFF", b"riff")  # RF64 has the true ones in a chunk of their own
    patches, frame, rate = _true_format(*form)
    available = size - data.start
    if not has_plain_sizes:
        return WaveHeader(patches)
    missing = 0 if data.size <= 0 or data.size >= UNKNOWN_SIZE else data.size - available
    if missing > _MAY_MISS * rate * frame:
        return WaveHeader(patches, missing)
    # FFmpeg loses a whole packet to half a frame; its own Wave64 files count their padding.
    size = available if data.size <= 0 else min(data.size, available)
    if size // frame * frame != data.size:
        patches[data.size_at] = data.sized(size // frame * frame)
    return WaveHeader(patches)


def _chunks(file: BinaryIO, size: int) -> Iterator[_Chunk]:
    kind = file.read(40)
    is_wide = kind[:4] == b"riff" and kind[24:28] == b"wave"
    if not is_wide and not (kind[:4] in (b"RIFF", b"RF64", b"BW64") and kind[8:12] == b"WAVE"):
        return
    at, head = (40, 24) if is_wide else (12, 8)
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        header = file.read(head)
        if len(header) < head:
            return
        if is_wide:
            length = int.from_bytes(header[16:], "little") - head
            chunk = _Chunk(header[:4], at + 16, at + head, length, is_wide)
        else:
            length = int.from_bytes(header[4:], "little")
            chunk = _Chunk(header[:4], at + 4, at + head, length, is_wide)
        yield chunk
        step = 8 if is_wide else 2
        at = chunk.start + -(-max(length, 0) // step) * step
        if at >= size:
            return


def _true_format(chunk: _Chunk, form: bytes) -> tuple[dict[int, bytes], int, int]:
    # What to correct in the `fmt ` chunk, the bytes of a frame, and the frames a second.
    tag, channels, rate, byte_rate, align, bits = struct.unpack("<HHIIHH", form[:16])
    is_extensible = tag == _EXTENSIBLE and len(form) >= 26
    kind = int.from_bytes(form[24:26], "little") if is_extensible else tag
    if kind not in _WIDTHS or not channels or not rate:
        return {}, max(1, align), max(1, rate)
    # FFmpeg goes by the bits that count; but samples are as wide as their container, with zeros below.
    width, by_align = -(-bits // 8), align // channels
    if by_align in _WIDTHS[kind] and byte_rate == rate * align and by_align * channels == align:
        width = by_align
    if width not in _WIDTHS[kind]:
        return {}, max(1, align), rate
    true = struct.pack(
        "<HHIIHH", tag, channels, rate, rate * channels * width % 2**32, channels * width, 8 * width
    )
    patches = {} if true == form[:16] else {chunk.start: true}
    if is_extensible and int.from_bytes(form[18:20], "little") not in (0, 8 * width):
        patches[chunk.start + 18] = struct.pack("<H", 8 * width)
    return patches, channels * width, rate


class PatchedFile:
    """A file to read, with other bytes in some places."""

    def __init__(self, file: BinaryIO, patches: Mapping[int, bytes]) -> None:
        self._file = file
        self._patches = patches

    def read(self, size: int = -1) -> bytes:
        start = self._file.tell()
        content = bytearray(self._file.read(size))
        for at, new in self._patches.items():
            for index, byte in enumerate(new, at - start):
                if 0 <= index < len(content):
                    content[index] = byte
        return bytes(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def is_cut_off(path: Path, kind: str) -> bool:
    """Whether an Ogg file lacks the page that ends it, or an ASF or Matroska file is smaller than it says."""
    if kind == "ogg":
        page = _last_page(path)
        return len(page) < 14 or not page[5] & _LAST_PAGE
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER)
    if kind == MATROSKA:
        return _segment_end(head) > size
    stated = head.find(_ASF_FILE) + 40
    return kind == "asf" and stated >= 40 and int.from_bytes(head[stated : stated + 8], "little") > size


def ogg_samples(path: Path) -> int:
    """The count in the last page of an Ogg file, which FFmpeg leaves out if the page is damaged; or 0."""
    count = int.from_bytes(_last_page(path)[6:14], "little", signed=True)
    return max(0, count)


def _last_page(path: Path) -> bytes:
    # From its beginning on; empty if there is none.
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * _OGG_PAGE))
        end = file.read()
    start = end.rfind(b"OggS")
    return end[start:] if start >= 0 else b""


def _segment_end(head: bytes) -> int:
    # Of Matroska, whose numbers have as many bytes as their first one has zero bits in front, and one. All
    # ones: not known, as in a recording that goes on.
    at = head.find(_SEGMENT) + len(_SEGMENT)
    if at < len(_SEGMENT) or at >= len(head):
        return 0
    count = 9 - head[at].bit_length()
    number = int.from_bytes(head[at : at + count], "big") & (1 << 7 * count) - 1
    return 0 if number == (1 << 7 * count) - 1 else at + count + number


def id3_size(path: Path) -> int:
    """Bytes of the tag that a file of raw frames begins with."""
    with path.open("rb") as file:
        head = file.read(10)
    if len(head) < 10 or head[:3] != b"ID3":
        return 0
    # Seven bits in each byte, so that it never looks like the start of a frame.
    return 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
