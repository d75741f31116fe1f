"""Rendered pieces to weights: latents, examples of each task, the network and its optimisation."""

import os

# Threads that wait spin otherwise. Beside other programs that made a step ten times slower. It counts only
# before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
