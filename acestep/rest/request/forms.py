"""Forms, and the character sets of bodies."""

from __future__ import annotations

import codecs
import re
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from acestep.errors import InvalidFieldError
from acestep.rest.spelling import JsonObject

MAX_FORM_FIELDS = 1_000
BLOCK = 64 * 1024  # characters that are looked at at once
_CHARSET_FIELD = "_charset_"  # HTML's name for the character set of a form
# What a name means in practice: Windows and browsers say shift_jis for its superset.
_SUPERSETS = {
    "shift_jis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc_kr": "cp949",
    "ascii": "utf-8",
}
_ALIASES = {"windows-31j": "cp932", "x-sjis": "cp932"}
_CHARSETS = re.compile(
    r"utf-8(-sig)?|utf-16(-[lb]e)?|utf-32(-[lb]e)?|cp(932|949|950|125\d|874)|iso8859-\d+|iso2022_(jp|kr)"
    r"|euc_jp|big5(hkscs)?|gb18030|koi8-[ru]"
)


@dataclass(frozen=True, slots=True)
class Part:
    """A text in a form."""

    name: str
    value: bytes
    charset: str = ""  # its own; "": that of the form


def form_fields(raw: bytes, charset: str = "") -> JsonObject:
    """The fields of a urlencoded body. Raises 400."""
    if raw.count(b"&") >= MAX_FORM_FIELDS:
        raise HTTPException(400, f"Malformed form: at most {MAX_FORM_FIELDS} fields are accepted")
    pairs = [piece.replace(b"+", b" ").partition(b"=") for piece in raw.split(b"&") if piece]
    return fields_of(
        [Part(unquoted(name).decode("utf-8", "replace"), unquoted(value)) for name, _, value in pairs],
        charset,
    )


def fields_of(parts: Sequence[Part], charset: str) -> JsonObject:
    """Decode by the charset of the part, of a `_charset_` part or of the form; else it must be UTF-8.

    A name that is sent several times becomes a list; `name[]` and `name[0]` are `name`. Raises 400.
    """
    named = next((part.value for part in parts if part.name == _CHARSET_FIELD), b"").decode("latin-1")
    common = known_charset(named) or charset or "utf-8"
    fields: JsonObject = {}
    for part in parts:
        if part.name == _CHARSET_FIELD:
            continue
        name = re.sub(r"\[\d{0,4}\]$", "", part.name)
        try:
            value = part.value.decode(part.charset or common)
        except UnicodeDecodeError as error:
            raise undecodable("Malformed form", name, error) from None
        if name not in fields:
            fields[name] = value
        elif isinstance(fields[name], list):
            fields[name].append(value)
        else:
            fields[name] = [fields[name], value]
    return fields


def unquoted(text: bytes) -> bytes:
    """Read `%41` as "A", a block at a time, so that other threads get their turn."""
    pieces, start = [], 0
    while start < len(text):
        end = start + BLOCK
        escape = text.rfind(b"%", end - 2, end)  # it goes on in the next block
        end = escape if escape > start else end
        pieces.append(unquote_to_bytes(text[start:end]))
        start = end
    return b"".join(pieces)


def charset_of(content_type: str) -> str:
    """The character set that a Content-Type names, "": none. Raises 400 for one that is not known."""
    # The parser, too, takes header bytes as latin-1.
    _, options = parse_options_header(content_type.encode("latin-1", "replace"))
    return known_charset(options.get(b"charset", b"").decode("latin-1"))


def known_charset(name: str) -> str:
    asked = name.strip().lower()
    if not asked:
        return ""
    try:
        found = codecs.lookup(_ALIASES.get(asked, asked)).name
    except (LookupError, ValueError):  # ValueError: a zero byte in it
        found = ""
    found = _SUPERSETS.get(found, found)
    if not _CHARSETS.fullmatch(found):  # "hex" and "zlib" are codecs, too
        raise HTTPException(400, f"Malformed form: the charset {name[:60]!r} is not known; send UTF-8")
    return found


class FormParser(MultiPartParser):
    """Keeps texts as bytes, in `parts`: a part further on may say how they are decoded.

    `text_limit` bytes are accepted in all texts together. Raises 413, and `InvalidFieldError` for
    a text as one of `file_names`.
    """

    def __init__(
        self,
        headers: Headers,
        stream: AsyncGenerator[bytes, None],
        file_names: Collection[str],
        text_limit: int,
    ) -> None:
        super().__init__(
            headers,
            stream,
            max_files=len(file_names),
            max_fields=MAX_FORM_FIELDS,
            max_part_size=text_limit,
        )
        self.parts: list[Part] = []
        self._file_names = file_names
        self._text_length = 0
        self._has_ended = False

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._current_part
        if part.file is None:
            self._text_length += end - start
            if self._text_length > self.max_part_size and part.field_name in self._file_names:
                raise no_file(part.field_name, f"{self._text_length} bytes or more without a file name")
            if self._text_length > self.max_part_size:
                raise too_large(self.max_part_size)
        super().on_part_data(data, start, end)

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is not None:
            super().on_part_end()
            return
        value = bytes(part.data)
        if part.field_name in self._file_names and value.strip():
            raise no_file(part.field_name, _text_or_size(value))
        headers = {name: content.decode("latin-1") for name, content in part.item_headers}
        self.parts.append(Part(part.field_name, value, charset_of(headers.get(b"content-type", ""))))

    def on_end(self) -> None:
        self._has_ended = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if not self._has_ended:
            await form.close()
            raise MultiPartException("it ends before its last boundary; send it again as a whole")
        return form


def too_large(limit: int, what: str = "") -> HTTPException:
    return HTTPException(413, f"{what}The request is too large: at most {limit} bytes are accepted")


def no_file(name: str, sent: str) -> InvalidFieldError:
    """The error for text where a file belongs; `sent` is the text, or its size in words."""
    return InvalidFieldError(
        name,
        sent,
        "a file",
        f"With curl: -F {name}=@song.wav, with the @; in a form of another client the part needs a filename. "
        "A file of the server is named by src_audio_path or reference_audio_path",
    )


def _text_or_size(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return f"{len(value)} bytes without a file name"
    return text if text.isprintable() else f"{len(value)} bytes without a file name"


def undecodable(complaint: str, name: str, error: UnicodeDecodeError) -> HTTPException:
    wanted = "UTF-8" if error.encoding.startswith("utf-8") else error.encoding
    what = f"not {wanted} (byte 0x{error.object[error.start]:02x} at position {error.start})"
    remedy = "Send UTF-8, or name the character set: charset=… in the Content-Type, or _charset_ in a form"
    return HTTPException(400, f"{complaint}: {name[:60] + ': ' if name else ''}{what}. {remedy}")
