from __future__ import annotations

import re
from collections.abc import Sequence

from acestep.errors import PlannerError
from acestep.planner.language_model import SpecialToken, spelled

_CODE = re.compile(r"<\|audio_code_(\d+)\|>")


def tokens(codes: Sequence[int]) -> tuple[SpecialToken, ...]:
    return tuple(SpecialToken(f"<|audio_code_{code}|>") for code in codes)


def write(codes: Sequence[int]) -> str:
    return spelled(tokens(codes))


def read(text: str) -> tuple[int, ...]:
    """Raises PlannerError if the text is anything but audio codes."""
    if rest := _CODE.sub("", text).strip():
        raise PlannerError(f"The language model wrote something else than audio codes: {rest[:80]!r}.")
    return tuple(int(code) for code in _CODE.findall(text))
