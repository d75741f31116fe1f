"""What holds for all tests: they run side by side, so each process computes on one thread.

Sums in another order are other floats: with one thread, what is compared bit by bit is the same everywhere.
"""

import gc
import os
from pathlib import Path

import pytest

# Read when torch is imported, here and in the servers that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where a test takes more, they do not wait in a loop
# librosa compiles functions and caches them. Processes that write one cache at once spoil it: the next one
# crashes.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
os.environ["NUMBA_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "numba" / _WORKER)

_SERVERS = {"LiveServer", "WarmServer"}  # by whose names such files are known


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores, since servers and browsers are waited for."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files that start servers, which take long: at the end no process waits for another."""
    items.sort(
        key=lambda item: not (isinstance(item, pytest.Function) and _SERVERS & vars(item.module).keys())
    )


def pytest_collection_finish() -> None:
    """Count what was imported as alive for ever: to look for garbage in all of PyTorch takes a second."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> None:
    """Do so again for what the modules before have left: models are unloaded with a search for garbage.

    Without it the tests that load many took 20 times as long at the end of a run as at its beginning.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nobody had set anything."""
    for name in [name for name in os.environ if name.startswith("ACESTEP_") or name == "MAX_CUDA_VRAM"]:
        monkeypatch.delenv(name)
