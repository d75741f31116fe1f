"""What the log says of variables with the prefix that are no settings."""

from __future__ import annotations

import difflib
from collections.abc import Set

PREFIX = "ACESTEP_"
LAUNCHED_BY = "ACESTEP_LAUNCHED_BY"

# Variables with the prefix that are no settings of this server, and what the log says of them ("": nothing).
_NOT_SETTINGS = {
    LAUNCHED_BY: "",
    "ACESTEP_START_SECONDS": "",  # how long run_api_server.sh waits
    "ACESTEP_PARITY_DIR": "",  # names a fixture for the tests
    "ACESTEP_CONDA_ENV": "the launch scripts need no conda environment",
}


def unknown_names(names: Set[str], known: Set[str]) -> tuple[str, ...]:
    """A sentence for each of `names` that has the prefix and is not `known`."""
    strange = sorted(name for name in names - known if name.startswith(PREFIX))
    return tuple(
        f"{name} is not a setting of this server{_hint(name, known)}"
        for name in strange
        if _NOT_SETTINGS.get(name, name)
    )


def _hint(name: str, known: Set[str]) -> str:
    if name in _NOT_SETTINGS:
        return f": {_NOT_SETTINGS[name]}"
    endings = [other.removeprefix(PREFIX) for other in sorted(known)]
    close = difflib.get_close_matches(name.removeprefix(PREFIX), endings, n=1, cutoff=0.7)
    return f"; did you mean {PREFIX}{close[0]}?" if close else ""
