"""Errors in the words of a command line."""

from __future__ import annotations

import re
from collections.abc import Mapping

from acestep.settings.settings import variable


def named_as_flags(error: str, given: Mapping[str, object], flags: Mapping[str, str]) -> str:
    """The error, with flags for the variables of the fields that were `given` as such (None: not given).

    `flags` are those that are called otherwise than their field. A variable in brackets keeps its name.
    """
    for field, value in given.items():
        if value is not None:
            flag = flags.get(field, f"--{field.replace('_', '-')}")
            error = re.sub(rf"(?<![\w(]){variable(field)}(?!\w)", flag, error)
    return error
