from __future__ import annotations

import numpy as np
import pytest
import torch

from acestep.planner.backends.head import Head, LogitsRequest


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(50, 8, generator=torch.Generator().manual_seed(1))


def test_each_request_gets_its_rows_and_states(weight: torch.Tensor) -> None:
    hidden = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    requests = [
        LogitsRequest([0, 1], slice(10, 20)),
        LogitsRequest([2], np.array([3, 40])),
        LogitsRequest([2], slice(10, 20)),
    ]
    everything = hidden @ weight.t()
    expected = [everything[:2, 10:20], everything[2:, [3, 40]], everything[2:, 10:20]]
    for found, right in zip(Head(weight).logits(hidden, requests), expected, strict=True):
        torch.testing.assert_close(found, right)


def test_logits_are_float32(weight: torch.Tensor) -> None:
    head = Head(weight.bfloat16())
    (found,) = head.logits(torch.ones(1, 8, dtype=torch.bfloat16), [LogitsRequest([0], slice(0, 50))])
    assert (found.dtype, found.shape, head.size) == (torch.float32, (1, 50), 50)
