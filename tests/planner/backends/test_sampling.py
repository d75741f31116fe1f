from __future__ import annotations

from collections import Counter

import pytest
import torch

from acestep.planner.backends.sampling import draw, guided, penalised
from acestep.planner.language_model import TokenSampling

LOGITS = torch.tensor([0.1, 0.5, 0.2, 0.15, 0.05]).log()
PLAIN = TokenSampling(temperature=1, top_p=1)


def shares(logits: torch.Tensor, sampling: TokenSampling, count: int = 1000) -> list[float]:
    """The share of each index, over evenly spread numbers."""
    drawn = Counter(int(draw(logits, sampling, (n + 0.5) / count)) for n in range(count))
    return [drawn[index] / count for index in range(len(logits))]


def test_shares_are_the_probabilities() -> None:
    assert shares(LOGITS, PLAIN) == pytest.approx([0.1, 0.5, 0.2, 0.15, 0.05], abs=0.002)


def test_top_p_keeps_the_likeliest_that_together_reach_it() -> None:
    kept = shares(LOGITS, TokenSampling(temperature=1, top_p=0.8))
    assert kept == pytest.approx([0, 0.5 / 0.85, 0.2 / 0.85, 0.15 / 0.85, 0], abs=0.002)


def test_top_k_keeps_k_tokens() -> None:
    kept = shares(LOGITS, TokenSampling(temperature=1, top_k=2, top_p=1))
    assert kept == pytest.approx([0, 0.5 / 0.7, 0.2 / 0.7, 0, 0], abs=0.002)


def test_top_p_comes_after_top_k_and_before_the_temperature() -> None:
    # Of the two left, the likelier has 0.71 of the share, but 0.55 at a temperature of 5.
    assert shares(LOGITS, TokenSampling(temperature=5, top_k=2, top_p=0.7))[1] == 1
    assert shares(LOGITS, TokenSampling(temperature=5, top_k=2, top_p=0.8))[2] > 0.4


@pytest.mark.parametrize(
    "sampling", [TokenSampling(temperature=0), TokenSampling(top_k=1), TokenSampling(top_p=0)]
)
def test_narrow_sampling_takes_the_likeliest(sampling: TokenSampling) -> None:
    assert shares(LOGITS, sampling, 50)[1] == 1


@pytest.mark.parametrize("chance", [2**-24, 0.5, 1.0])
@pytest.mark.parametrize(
    "sampling", [PLAIN, TokenSampling(), TokenSampling(top_k=3), TokenSampling(temperature=9)]
)
def test_a_masked_token_is_never_drawn(sampling: TokenSampling, chance: float) -> None:
    barred = torch.full((9,), -torch.inf)
    barred[[3, 5]] = torch.tensor([-2.0, 1.0])
    assert int(draw(barred, sampling, chance)) in (3, 5)


def test_guidance_extrapolates_from_null_to_cond() -> None:
    cond, null = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])
    assert guided(cond, null, 2.5).tolist() == [-2.0, 3.5]
    assert torch.equal(guided(cond, null, 1), cond)


def test_the_penalty_makes_seen_tokens_less_likely() -> None:
    seen = torch.tensor([True, True, False])
    assert penalised(torch.tensor([2.0, -2.0, 2.0]), seen, 2).tolist() == [1.0, -4.0, 2.0]
