"""Tells out-of-memory errors of any device from others, without importing torch."""

from __future__ import annotations

_CLASS = "OutOfMemoryError"  # of torch, for CUDA and its kin
# In a plain RuntimeError: the CPU's allocator, Metal, CUDA's driver, cuBLAS and cuDNN.
_PHRASES = ("DefaultCPUAllocator", "out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return any(kind.__name__ == _CLASS for kind in type(error).__mro__) or any(
        phrase in str(error) for phrase in _PHRASES
    )
