"""The direction of the imports, read from the source."""

import ast
import functools
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "acestep"
MODULES = sorted(PACKAGE.rglob("*.py"))

ROOT = PACKAGE.parent
WRITTEN = sorted(
    [path for path in MODULES if path.name != "migrations.py"]  # whose old scripts keep their words
    + [*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
)
PRIVATE_WORDS = re.compile(
    r"(?<![a-z])(?:desks?|shelf|shelves|thrift\w*|lodger?s?|lodging|guests?|upkeep|tenants?|residency|scarcity"
    r"|onlookers?|refusals|extras|findings|surroundings|by_itself|whoever|nobody|somebody|makes? way"
    r"|(?:sent|goes|go) home|lets? go of|hears? of|comes? when (?:it is )?(?:needed|wanted)|what is there)"
    r"(?![a-z])",
    re.IGNORECASE,
)

# room -> rooms of this package that it may import besides itself; what stands above is imported below
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "device": ("domain",),
    "nano": (),
    "examples": (),
    "domain": ("errors",),
    "settings": ("errors",),
    "files": ("errors",),
    "data_folder": ("errors", "files"),
    "background": ("errors",),
    "catalog": ("device", "domain", "errors", "settings"),
    "limits": ("catalog", "domain", "errors"),
    "memory": ("catalog", "device", "domain", "errors", "settings"),
    "networks": ("catalog", "errors"),
    "weights": ("catalog", "errors", "memory", "settings"),
    "audio": ("domain", "errors", "files"),
    "codec": ("catalog", "errors", "networks", "weights"),
    "synthesizer": ("catalog", "domain", "errors", "limits", "networks", "weights"),
    "planner": ("catalog", "device", "domain", "errors", "networks", "weights"),
    "jobs": ("background", "domain", "errors", "files"),
    "logs": (),
    "webhooks": ("background", "errors", "jobs"),
    "checks": ("data_folder", "errors", "files", "jobs"),
    "rest": (
        *("background", "catalog", "domain", "errors", "examples", "files", "jobs", "limits", "memory"),
        "webhooks",
    ),
    "engine": (
        *("audio", "background", "catalog", "codec", "device", "domain", "errors", "files", "limits"),
        *("memory", "planner", "settings", "synthesizer", "weights", "jobs.worker"),
    ),
    "server": (
        *("audio", "background", "catalog", "data_folder", "device", "domain", "engine", "errors", "files"),
        *("limits", "memory", "settings", "weights", "jobs.worker"),
    ),
    "api_server": (
        *("audio", "background", "catalog", "checks", "data_folder", "engine", "errors", "files", "jobs"),
        *("logs", "memory", "rest", "server", "settings", "webhooks"),
    ),
    "__main__": ("api_server", "settings"),
}
SQL = tuple(
    f"jobs.{name}" for name in ("store", "history", "expiry", "outbox", "counters", "database", "migrations")
)
SQL = tuple(
    f"jobs.{name}" for name in ("store", "history", "expiry", "outbox", "counters", "database", "migrations")
)
# Only these may import torch and its kin, at all.
HEAVY = ("torch", "torchao", "diffusers", "transformers", "peft")
MAY_BE_HEAVY = (
    "networks",
    "synthesizer",
    "codec",
    "weights",
    "engine.torch_models",
    "engine.torch_renderer",
    "planner.loading",
    "planner.backends",
)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions; `from a import b` gives a.b."""
    yield from imported(nodes_of(path))


def imports_at_run_time(path: Path) -> Iterator[str]:
    """As `imports`, without those for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    yield from imported(ast.walk(tree))


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{node.module}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def test_imports_follow_the_direction() -> None:
    for path in MODULES:
        name = name_of(path)
        room = name.partition(".")[0]
        if room == "__init__" or not name:
            continue
        own = [module.removeprefix("acestep.") for module in imports(path) if module.startswith("acestep.")]
        allowed = (room, *MAY_IMPORT[room], "__version__")
        assert [module for module in own if not within(module, allowed)] == [], name


def test_torch_stays_behind_its_doors() -> None:
    light = [path for path in MODULES if not within(name_of(path), MAY_BE_HEAVY)]
    for path in light:
        heavy = [module for module in imports_at_run_time(path) if within(module, HEAVY)]
        assert heavy == [], name_of(path)


def test_only_tests_and_benchmarks_need_other_peoples_networks() -> None:
    for path in MODULES:
        foreign = [module for module in imports(path) if within(module, ("diffusers", "transformers"))]
        assert foreign == [], name_of(path)


def test_one_room_each_for_environment_sql_and_printing() -> None:
    for path in MODULES:
        name, source = name_of(path), path.read_text(encoding="utf-8")
        calls = [node.func for node in nodes_of(path) if isinstance(node, ast.Call)]
        assert "print" not in [called.id for called in calls if isinstance(called, ast.Name)], name
        if name not in (
            "settings.settings",
            "planner.backends.vllm",
        ):  # some of vLLM is set by its environment alone
            assert "os.environ" not in source and "getenv" not in source, name
        if not within(name, SQL):
            assert "sqlite3" not in imports(path), name


def test_files_and_functions_stay_readable() -> None:
    for path in MODULES:
        assert len(path.read_text(encoding="utf-8").splitlines()) < 400, path
        for node in nodes_of(path):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 60, (path, node.name)
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                count = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
                assert count <= 6 or "aenter" in node.name, (path, node.name)


def test_docstrings_are_few() -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    lines = docstrings = 0
    for path in MODULES:
        lines += len(path.read_text(encoding="utf-8").splitlines())
        for node in nodes_of(path):
            if isinstance(node, documented) and ast.get_docstring(node) is not None:
                first = node.body[0]
                assert first.end_lineno is not None
                docstrings += first.end_lineno - first.lineno + 1
    assert docstrings / lines <= 0.06


def test_private_words_stay_away() -> None:
    # docs/glossary.md has the field's words for these.
    for path in WRITTEN:
        assert PRIVATE_WORDS.findall(path.read_text(encoding="utf-8")) == [], path


def test_hardly_anything_is_of_any_type() -> None:
    names = (node for path in MODULES for node in nodes_of(path))
    assert sum(isinstance(node, ast.Name) and node.id == "Any" for node in names) <= 60


def test_no_module_shadows_the_standard_library() -> None:
    # `python acestep/api_server.py` puts this folder first on the path.
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert names & sys.stdlib_module_names == set()


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = {f"acestep.{name_of(path)}": path for path in MODULES}
    graph = {
        name: {each if each in known else each.rpartition(".")[0] for each in imports(path)} & known.keys()
        for name, path in known.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError with the modules in it


def test_the_server_can_be_imported_without_torch() -> None:
    code = f"import sys, acestep.api_server; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


@pytest.mark.parametrize(("flag", "code"), [("--help", 0), ("--prot=8002", 2)])
def test_flags_are_read_before_anything_large_is_imported(flag: str, code: int) -> None:
    program = (
        f"import sys, acestep.__main__ as command; sys.argv = ['acestep-api', {flag!r}]\n"
        "try: command.run()\n"
        "except SystemExit as end: print(end.code, {'pydantic', 'fastapi'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == f"{code} set()"
    assert "--port" in ended.stdout + ended.stderr


def test_the_commands_that_are_installed_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["scripts"]) == {"acestep-api", "acestep-download"}
    for place in project["scripts"].values():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
