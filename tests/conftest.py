"""What holds for all tests: they run side by side, so each process computes on one thread.

Sums in another order are other floats: with one thread, what is compared bit by bit is the same everywhere.
"""

import os

# Read when torch is imported, here and in the servers that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
