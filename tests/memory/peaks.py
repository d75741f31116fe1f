"""The bytes that lie in memory while modules of any size run on the meta device."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that are made while it is active, as long as anything holds them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@contextmanager
def fused_attention(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Attention that keeps no scores, as the kernels of a GPU do; the meta device has none."""

    def attend(query: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.empty_like(query)

    with monkeypatch.context() as patched:
        patched.setattr(functional, "scaled_dot_product_attention", attend)
        yield
