"""How it is told that memory ran out, on whichever device.

Imports none of them, and knows nothing of what the memory was for.
"""

from __future__ import annotations

_CLASS = "OutOfMemoryError"  # of torch, for CUDA and its kin
# What others put into a plain RuntimeError: the CPU's allocator, Metal, CUDA's driver, cuBLAS and cuDNN.
_PHRASES = ("DefaultCPUAllocator", "out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that there was not enough memory, so that less may succeed."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return any(kind.__name__ == _CLASS for kind in type(error).__mro__) or any(
        phrase in str(error) for phrase in _PHRASES
    )
