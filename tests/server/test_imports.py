"""What an import makes is left out of garbage collections; what comes later is not."""

import subprocess
import sys
from pathlib import Path

CODE = """
import gc, sys
sys.path.insert(0, {folder!r})
from acestep.server.imports import uncollected
{more}
with uncollected("heavy"):
    assert not gc.isenabled() or "heavy" in sys.modules and not {first}
    import heavy
print(gc.isenabled(), gc.get_freeze_count() > 100_000, len(gc.get_objects()) > 100_000)
"""


def printed(folder: Path, more: str = "", first: bool = True) -> list[str]:
    (folder / "heavy.py").write_text("kept = [[] for _ in range(100_000)]\n")
    code = CODE.format(folder=str(folder), more=more, first=first)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_first_import(tmp_path: Path):
    assert printed(tmp_path) == ["True", "True", "False"]


def test_a_later_one_freezes_nothing_since_models_may_be_in_memory(tmp_path: Path):
    assert printed(tmp_path, "import heavy", first=False) == ["True", "False", "True"]


def test_an_import_that_fails(tmp_path: Path):
    more = """
try:
    with uncollected("missing"):
        import missing
except ImportError:
    assert gc.isenabled()
"""
    assert printed(tmp_path, more) == ["True", "True", "False"]


def test_collections_that_were_off_stay_off(tmp_path: Path):
    assert printed(tmp_path, "gc.disable()") == ["False", "True", "False"]
