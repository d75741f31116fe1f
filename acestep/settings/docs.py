"""Writes `docs/configuration.md` from the settings: `python -m acestep.settings.docs`."""

from __future__ import annotations

from acestep.settings.settings import Settings, documented, project_folder, variable

_INTRO = """\
# Configuration

<!-- Written by `python -m acestep.settings.docs` from acestep/settings; change it there. -->

日本語: [configuration.ja.md](configuration.ja.md)

Every setting is an environment variable. Export it, or put it into a file `.env` in the project folder (the
one with `pyproject.toml`; if the package is installed elsewhere, the current folder). A flag of the command
line overrides an exported variable, which overrides `.env`, which overrides the default.

- A variable that is set to an empty text counts as not set, and still overrides `.env`.
- Relative folders count from the project folder, `~` is the home folder.
- With an invalid value the server does not start: one line names the variable, the value and what is allowed.
- A variable that begins with `ACESTEP_` but is not listed here is reported in the log.
- Variables of libraries work too, exported or in `.env`: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`,
  `HTTPS_PROXY`, `CUDA_VISIBLE_DEVICES` and so on.
"""

# The heading before a field.
HEADINGS = {
    "api_host": "Server",
    "queue_maxsize": "Jobs and songs",
    "config_path": "Models and memory",
    "init_llm": "Planner (5 Hz language model)",
    "disable_tqdm": "Other",
}


def render() -> str:
    lines = [_INTRO.rstrip()]
    for field in Settings.model_fields:
        if field in HEADINGS:
            lines += [
                "",
                f"## {HEADINGS[field]}",
                "",
                "| Variable | Default | Allowed | Meaning |",
                "|---|---|---|---|",
            ]
        lines.append(_row(field))
    return "\n".join(lines) + "\n"


def _row(field: str) -> str:
    texts = documented(field)
    pending = f" *{texts['pending']}*" if texts["pending"] else ""
    return f"| `{variable(field)}` | {texts['shown']} | {texts['allowed']} | {texts['meaning']}{pending} |"


if __name__ == "__main__":
    (project_folder() / "docs" / "configuration.md").write_text(render(), encoding="utf-8")
