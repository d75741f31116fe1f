"""The pages about the API, in English and Japanese.

Japanese ones lie in `ja.yaml`, and the prose around the tables in `page.*.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel

from acestep.limits import BASE_TASKS, TURBO_TASKS
from acestep.rest.app import create_app
from acestep.rest.openapi import ERRORS
from acestep.rest.request.schemas import METAS, GenerateTask
from acestep.rest.request.sounds import UPLOAD_NAMES
from acestep.rest.request.task_rules import users
from acestep.rest.request.wire_types import Models, Support, about_of, notes_of

Language = Literal["en", "ja"]

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
PAGES: Mapping[Language, Path] = {"en": DOCS / "api.md", "ja": DOCS / "api.ja.md"}

_SUPPORT = {
    Support.INERT: "no_effect",
    Support.IGNORED: "ignored",
    Support.UNSUPPORTED: "unsupported",
    Support.OPTIONAL: "optional",
    Support.PLANNER: "planner",
}
_MODELS = {Models.GUIDED: "turbo_ignores", Models.EXTRACTING: "turbo_refuses"}
_UNUSED = (Support.INERT, Support.IGNORED, Support.UNSUPPORTED)
_SCHEMAS: Mapping[str, Any] = GenerateTask.model_json_schema()["properties"]


def words_of(language: Language) -> dict[str, Any]:
    """Return the texts of a language by their keys."""
    found: dict[str, Any] = yaml.safe_load((HERE / f"{language}.yaml").read_text(encoding="utf-8"))
    return found


def groups() -> Iterator[type[BaseModel]]:
    """Yield the classes that the fields of a request are declared in, in their order."""
    for kind in reversed(GenerateTask.__mro__):
        if issubclass(kind, BaseModel) and kind not in (BaseModel, GenerateTask):
            yield kind


def operations() -> Iterator[tuple[str, str]]:
    """Yield each route, as "GET /health", and what it does."""
    for path, methods in create_app().openapi()["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", " ".join(operation["description"].split())


def render(language: Language) -> str:
    """Return a whole page as Markdown."""
    page = (HERE / f"page.{language}.md").read_text(encoding="utf-8")
    tables = _Tables(words_of(language))
    parts = {
        "endpoints": tables.endpoints(),
        "errors": tables.errors(),
        "uploads": tables.uploads(),
        "metas": tables.names(METAS),
        "turbo_tasks": tables.names(TURBO_TASKS),
        "base_tasks": tables.names([task for task in BASE_TASKS if task not in TURBO_TASKS]),
        "fields": tables.fields(),
    }
    for name, text in parts.items():
        page = page.replace(f"{{{{ {name} }}}}", text)
    return page


class _Tables:
    """Everything on a page that is not prose, in one language.

    Where `words` hold no text of their own for a field, a route or an error, the program's English is taken.
    """

    def __init__(self, words: Mapping[str, Any]) -> None:
        self._words = words
        self._texts: Mapping[str, Mapping[str, str]] = words.get("fields", {})

    def endpoints(self) -> str:
        texts = self._words.get("endpoints", {})
        rows = [(f"`{route}`", texts.get(route, about)) for route, about in operations()]
        return _table(self._words["endpoint_columns"], rows)

    def errors(self) -> str:
        texts = self._words.get("errors", {})
        rows = [(str(code), texts.get(code, error["description"])) for code, error in ERRORS.items()]
        return _table(self._words["error_columns"], rows)

    def uploads(self) -> str:
        kinds = dict.fromkeys(UPLOAD_NAMES.values())
        others = {
            kind: [name for name, meant in UPLOAD_NAMES.items() if meant == kind != name] for kind in kinds
        }
        rows = [(f"`{kind}`", self.names(names)) for kind, names in others.items()]
        return _table(self._words["upload_columns"], rows)

    def fields(self) -> str:
        parts: list[str] = []
        for group in groups():
            rows = [self._row(name) for name in group.__annotations__]
            title = self._words["groups"][group.__name__]
            parts.append(f"### {title}\n\n{_table(self._words['columns'], rows)}")
        return "\n\n".join(parts)

    def names(self, names: Sequence[str]) -> str:
        """Return names as code, one after the other."""
        return str(self._words["separator"]).join(f"`{name}`" for name in names)

    def _row(self, name: str) -> Sequence[str]:
        info, schema = GenerateTask.model_fields[name], _SCHEMAS[name]
        default = list(info.default) if isinstance(info.default, tuple) else info.default
        return (
            f"`{name}`",
            self.names(notes_of(info)["x-aliases"]),
            self._texts.get(name, {}).get("range") or self._range(schema),
            f"`{json.dumps(default, ensure_ascii=False)}`",
            self._texts[name]["text"] if name in self._texts else about_of(info),
            self._tasks(name),
            self._models(name),
            self._elsewhere(name),
        )

    def _range(self, schema: Mapping[str, Any]) -> str:
        if "x-allowed" in schema:
            return str(schema["x-allowed"])
        main, kinds = schema.get("anyOf", [schema])[0], self._words["kinds"]
        if "enum" in main:
            return self.names(main["enum"])
        parts = [str(kinds[main["type"]])]
        if "maximum" in main:
            wording = kinds["from_to" if "minimum" in main else "above_to"]
            low = main.get("minimum", main.get("exclusiveMinimum"))
            parts.append(wording.format(low=_number(low), high=_number(main["maximum"])))
        if "maxLength" in main:
            parts.append(kinds["length"].format(count=_number(main["maxLength"])))
        return str(self._words["separator"]).join(parts)

    def _tasks(self, name: str) -> str:
        if _support(name) in _UNUSED:
            return str(self._words["nobody"])
        tasks = users(name)
        if not tasks:
            return str(self._words["instead_of_a_song"])
        return str(self._words["all"]) if len(tasks) == len(BASE_TASKS) else self.names(tasks)

    def _models(self, name: str) -> str:
        if _support(name) in _UNUSED:
            return str(self._words["nobody"])
        for_turbo = _models_of(name) is Models.ALL and not set(users(name)).isdisjoint(TURBO_TASKS)
        return str(self._words["all" if for_turbo or not users(name) else "base"])

    def _elsewhere(self, name: str) -> str:
        said: list[str] = []
        support = _support(name)
        if support in _SUPPORT:
            instead = self._instead(name)
            said.append(self._words[_SUPPORT[support]].format(instead=f": {instead}" if instead else ""))
        if support not in _UNUSED and users(name) and len(users(name)) < len(BASE_TASKS):
            said.append(self._words["other_tasks"])
        if _models_of(name) in _MODELS:
            said.append(self._words[_MODELS[_models_of(name)]])
        return str(self._words["join"]).join(said)

    def _instead(self, name: str) -> str:
        english = notes_of(GenerateTask.model_fields[name])["x-instead"]
        return str(self._texts.get(name, {}).get("instead", english))


def _support(name: str) -> Support:
    return Support(notes_of(GenerateTask.model_fields[name])["x-support"])


def _models_of(name: str) -> Models:
    return Models(notes_of(GenerateTask.model_fields[name])["x-models"])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns)]
    cells = [[cell.replace("|", "\\|") or "—" for cell in row] for row in (*lines, *rows)]
    return (
        "\n".join(f"| {' | '.join(row)} |" for row in cells)
        .replace("| --- ", "|---")
        .replace("--- |", "---|")
    )
