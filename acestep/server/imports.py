from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TORCH_MODELS = "acestep.engine.torch_models"


@contextmanager
def uncollected(module: str) -> Iterator[None]:
    """Keep what the first import of `module` makes out of all garbage collections, also of later ones.

    For torch and its kin: 400,000 objects that stay. A collection that looks at them holds up every thread
    for 100 ms and more, at some request or other, and nine of them happen while they are imported.
    """
    if module in sys.modules:  # models may be in memory, which must be collected when they leave
        yield
        return
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
