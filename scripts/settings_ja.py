"""Writes `docs/configuration.ja.md` from settings and `settings_ja.yaml`: `python -m scripts.settings_ja`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from acestep.settings.docs import HEADINGS
from acestep.settings.settings import Settings, documented, variable

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "configuration.ja.md"

_RANGE = re.compile(r"(?P<low>[\d.]+) (?:or more|to (?P<high>[\d.]+))(?: (?P<unit>.+))?")
_LIST = re.compile(r"[\w.*:/-]+(?:(?:, | or )[\w.*:/-]+)*")


def words() -> dict[str, Any]:
    """Return the Japanese texts by their keys."""
    found: dict[str, Any] = yaml.safe_load((HERE / "settings_ja.yaml").read_text(encoding="utf-8"))
    return found


def render() -> str:
    """Return the page. Raises KeyError for a setting or a word that has no text."""
    texts = words()
    lines = [texts["intro"].rstrip()]
    for field in Settings.model_fields:
        if field in HEADINGS:
            columns = " | ".join(texts["columns"])
            lines += ["", f"## {texts['headings'][field]}", "", f"| {columns} |", "|---|---|---|---|"]
        lines.append(_row(field, texts))
    return "\n".join(lines) + "\n"


def _row(field: str, texts: Mapping[str, Any]) -> str:
    english = documented(field)
    default, allowed = (translated(english[key], texts) for key in ("shown", "allowed"))
    about = texts["settings"][variable(field)]
    if english["pending"]:
        about += f" *{texts['words'][english['pending']]}*"
    return f"| `{variable(field)}` | {default} | {allowed} | {about} |"


def translated(text: str, texts: Mapping[str, Any]) -> str:
    """Return a range, a list of values or a phrase in Japanese; values themselves stay as they are."""
    if text in texts["words"]:
        return str(texts["words"][text])
    if found := _RANGE.fullmatch(text):
        unit = texts["units"][found["unit"]] if found["unit"] else ""
        end = f" {unit}" if unit else ""
        between = " " if end.isascii() else ""  # as in "1 MiB 以上" and "1 秒以上"
        return (
            f"{found['low']} ～ {found['high']}{end}"
            if found["high"]
            else f"{found['low']}{end}{between}以上"
        )
    if _LIST.fullmatch(text):
        return "、".join(re.split(", | or ", text))
    raise KeyError(f"settings_ja.yaml has no words for {text!r}")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
