"""How one value on the wire is declared and read; forms send numbers and booleans as strings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic.fields import FieldInfo

from acestep.domain.song import MAX_BATCH, MAX_CODES, MAX_SEED, TRACKS
from acestep.rest.request.body import read_json
from acestep.rest.spelling import JsonObject

MAX_LIST = 200  # values in one list: schedules, names

MAX_WORD = 200  # characters of a number, a name, a choice

MAX_LIST_TEXT = 10_000  # characters of such a list, an object or adapters in one text

MAX_IDS, MAX_ID = 1_000, 200  # jobs in one query, characters of an id

MAX_CODE_DIGITS = 6  # no model has a million codes

MAX_CODE_TEXT = 30 * MAX_CODES  # characters: the longest token, and blanks


# Words for "not decided", besides null and "".
UNDECIDED_WORDS = ("", "n/a", "none", "null", "undefined", "auto", "automatic")
UNDECIDED_NUMBERS = (0.0, -1.0)


class Support(StrEnum):
    """What happens to a field whose value is not neutral; a neutral value is always accepted."""

    SERVED = "served"
    INERT = "accepted for compatibility; has no effect"
    IGNORED = "accepted for compatibility; another value than the default is ignored, with a warning"
    OPTIONAL = "skipped where no planner is loaded, with a warning if it was asked for"
    PLANNER = "needs the planner (the 5 Hz language model); refused with 503 where none is loaded"
    UNSUPPORTED = "not supported by this server yet; another value than the default is refused with 422"


class Models(StrEnum):
    """Which models use a field. Turbo models have guidance built in, and were distilled for fewer tasks."""

    ALL = "all"
    GUIDED = "base; turbo models ignore it, with a warning"
    EXTRACTING = "base; turbo models refuse it with 422"


def wire(default: Any, *aliases: str, **options: Any) -> Any:
    """Declare a wire field: its default, its other names in the order in which they are looked up, the rest.

    `options` are pydantic's (`ge`, `le`, `max_length`, …) and besides: `about` (the description), `example`,
    `support`, `models` (that use it), `instead` (why it is not supported, or what to do rather),
    `neutral` (values that mean the same as the default), `allowed` (the range in words, where the schema
    cannot say it) and `free_text` (an empty string is a value, not an omission).
    """
    support: Support = options.pop("support", Support.SERVED)
    models: Models = options.pop("models", Models.ALL)
    about = options.pop("about")
    extra: JsonObject = {
        "x-aliases": list(aliases),
        "x-support": support.value,
        "x-models": models.value,
        "x-neutral": list(options.pop("neutral", ())),
        "x-free-text": options.pop("free_text", False),
        "x-instead": options.pop("instead", ""),
    }
    if "allowed" in options:
        extra["x-allowed"] = options.pop("allowed")
    example = options.pop("example")
    return Field(
        default,
        description=about + _remarks(aliases, support),
        examples=[example],
        json_schema_extra=extra,
        **options,
    )


def _remarks(aliases: Sequence[str], support: Support) -> str:
    remarks = f" Also read as: {', '.join(aliases)}." if aliases else ""
    if support is Support.SERVED:
        return remarks
    return f"{remarks} {support.value[0].upper()}{support.value[1:]}."


def about_of(info: FieldInfo) -> str:
    """Return the description of a field, without what `wire` said after it."""
    notes = notes_of(info)
    return (info.description or "").removesuffix(_remarks(notes["x-aliases"], Support(notes["x-support"])))


def notes_of(info: FieldInfo) -> JsonObject:
    """Return what `wire` noted about a field."""
    assert isinstance(info.json_schema_extra, dict)
    return dict(info.json_schema_extra)


def reader(
    read: Callable[[object], object], max_text: int | None = MAX_WORD, max_list: int = MAX_LIST
) -> BeforeValidator:
    """Wrap `read` so that what it cannot take becomes one plain validation error; long values are refused.

    `max_text` is in characters; None: `read` takes no longer for a long text.
    """

    def validate(value: object) -> object:
        is_long = isinstance(value, str) and max_text is not None and len(value) > max_text
        if is_long or (isinstance(value, list) and len(value) > max_list):
            raise ValueError("too long")
        try:
            return read(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError("unreadable") from error

    return BeforeValidator(validate)


def read_number(value: object) -> float:
    """A finite number; booleans are none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or "_" in str(value):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def read_whole(value: object) -> int:
    """8, "8" or "8.0"; 3.7 is refused, not rounded."""
    number = read_number(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def is_undecided(value: object) -> bool:
    return isinstance(value, str) and len(value) < 20 and value.strip().lower() in UNDECIDED_WORDS


def is_open(value: object) -> bool:
    if is_undecided(value):
        return True
    try:
        return read_number(value) in UNDECIDED_NUMBERS
    except (TypeError, ValueError, OverflowError):
        return False


def read_seconds(value: object) -> float | None:
    return None if is_open(value) else read_number(value)


def read_flag(value: object) -> bool:
    word = str(value).strip().lower() if isinstance(value, bool | int | str) else ""
    if word in ("1", "true", "yes", "y", "on"):
        return True
    if word in ("0", "false", "no", "n", "off"):
        return False
    raise ValueError


def read_text(value: object) -> str:
    """Text, or a bare number; half surrogate pairs are refused, since no file can hold them."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    text = str(value)
    text.encode("utf-8")
    return text


def read_word(value: object) -> str:
    return read_text(value).strip().lower()


def read_seeds(value: object) -> tuple[int, ...]:
    """One seed, a list, or "1,2,3"; -1 and "random" stand for a random one."""
    parts = _parts(-1 if value == "random" else value)
    parts = parts if isinstance(parts, list) else [parts]
    if not 1 <= len(parts) <= MAX_BATCH:
        raise ValueError
    seeds = tuple(read_whole(part) for part in parts)
    if not all(-1 <= seed <= MAX_SEED for seed in seeds):
        raise ValueError
    return seeds


def read_timesteps(value: object) -> tuple[float, ...]:
    """A list, or "0.97,0.76,…"; limits checks how many a model takes."""
    times = tuple(read_number(part) for part in _list(_parts(value)))
    if not all(0.0 <= time <= 1.0 for time in times):
        raise ValueError
    return times


def read_codes(value: object) -> tuple[int, ...]:
    """Tokens or whole numbers in one text, in a list, or in a text that holds a list."""
    found = from_json(value)
    parts = found if isinstance(found, list) else [found]
    # All parts together may be as long as one text; then no part takes long to split.
    if len(parts) > MAX_CODES or sum(len(part) for part in parts if isinstance(part, str)) > MAX_CODE_TEXT:
        raise ValueError
    codes = [code for part in parts for code in _codes_in(part)]
    if len(codes) > MAX_CODES:
        raise ValueError
    return tuple(codes)


def _codes_in(part: object) -> list[int]:
    words = re.sub(r"<\|audio_code_([0-9]+)\|>", r" \1 ", read_text(part)).replace(",", " ").split()
    if not all(re.fullmatch(rf"[0-9]{{1,{MAX_CODE_DIGITS}}}", word) for word in words):
        raise ValueError
    return [int(word) for word in words]


def read_track(value: object) -> str:
    """ "backing_vocals" for "Backing Vocals" or "backing-vocals"."""
    track = read_word(value).replace(" ", "_").replace("-", "_")
    if track not in ("", *TRACKS):
        raise ValueError
    return track


def read_tracks(value: object) -> tuple[str, ...]:
    """From a list, or a text with commas or `|` between the names."""
    tracks = tuple(read_track(name) for name in _list(_parts(value, r"[,|]")))
    return tuple(dict.fromkeys(track for track in tracks if track))


def read_object(value: object) -> JsonObject:
    found = read_json(value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise TypeError
    return found


def read_ids(value: object) -> tuple[str, ...]:
    """A list, a text that holds a JSON list, or one bare id."""
    ids = from_json(value)
    ids = [ids] if isinstance(ids, str) else ids
    if not isinstance(ids, list) or len(ids) > MAX_IDS:
        raise TypeError
    if not all(isinstance(item, str) and len(item) <= MAX_ID for item in ids):
        raise TypeError
    return tuple(read_text(item) for item in ids)


def from_json(value: object, starts: tuple[str, ...] = ("[",)) -> object:
    """Return what a text holds as JSON, as forms send lists and objects; else the value itself."""
    if isinstance(value, str) and value.lstrip().startswith(starts):
        return read_json(value)
    return value


def _parts(value: object, between: str = ",") -> object:
    if not isinstance(value, str):
        return value
    found = from_json(value)
    return re.split(between, value) if found is value else found


def _list(value: object) -> list[object]:
    if not isinstance(value, list) or len(value) > MAX_LIST:
        raise TypeError
    return value


def shown_as(*kinds: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": kind} for kind in kinds]})


Whole = Annotated[int, reader(read_whole)]

OptionalWhole = Annotated[int | None, reader(read_whole)]

Number = Annotated[float, reader(read_number)]

OptionalNumber = Annotated[float | None, reader(read_number)]

Seconds = Annotated[float | None, reader(read_seconds)]

Flag = Annotated[bool, reader(read_flag)]

OptionalFlag = Annotated[bool | None, reader(read_flag)]

Text = Annotated[str, reader(read_text, None)]

OptionalText = Annotated[str | None, reader(read_text, None)]

_SEED = {"type": "integer", "minimum": -1, "maximum": MAX_SEED}

Seeds = Annotated[
    tuple[int, ...],
    reader(read_seeds),
    WithJsonSchema(
        {"anyOf": [_SEED, {"type": "string"}, {"type": "array", "items": _SEED, "maxItems": MAX_BATCH}]}
    ),
]

Timesteps = Annotated[
    tuple[float, ...] | None, reader(read_timesteps, MAX_LIST_TEXT), shown_as("string", "array", "null")
]

Codes = Annotated[
    tuple[int, ...], reader(read_codes, MAX_CODE_TEXT, MAX_CODES), shown_as("string", "array", "integer")
]

Track = Annotated[str, reader(read_track), WithJsonSchema({"type": "string", "enum": [*TRACKS]})]

Tracks = Annotated[tuple[str, ...], reader(read_tracks, MAX_LIST_TEXT), shown_as("string", "array")]

TaskIds = Annotated[
    tuple[str, ...], reader(read_ids, MAX_IDS * (MAX_ID + 4), MAX_IDS), shown_as("array", "string")
]

WORD = reader(read_word)
