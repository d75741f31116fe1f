"""The decoder against transformers, and rows alone against rows in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from acestep.planner.backends.decoder import Decoder
from acestep.planner.loading import load_language_model
from acestep.weights.safetensors import LoadTarget
from tests.planner.toy import Toy, write_toy

ROWS, LENGTH = 12, 700


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough that products of few and of many rows would round differently."""
    sizes = Toy(hidden=96, intermediate=256, heads=6, kv_heads=2, layers=3)
    return write_toy(tmp_path_factory.mktemp("lm") / "wide", sizes)


@pytest.fixture(scope="module")
def decoder(wide: Path) -> Decoder:
    parts = load_language_model(wide, LoadTarget(torch.device("cpu"), torch.float32))
    return Decoder(parts.model, ROWS, LENGTH)


@pytest.fixture(scope="module")
def reference(wide: Path) -> Any:
    model = Qwen3ForCausalLM.from_pretrained(wide).eval().model
    return lambda ids: model(ids).last_hidden_state


def tokens(seed: int, count: int) -> list[int]:
    drawn: list[int] = torch.randint(0, 320, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return drawn


def feed(decoder: Decoder, texts: list[list[int]], last: int) -> list[Tensor]:
    """Prefill all but the `last` tokens of each text, then decode those together; `[last, hidden]` each."""
    for row, text in enumerate(texts):
        decoder.prefill(row, text[:-last])
    steps = [
        decoder.decode([[text[n - last]] for text in texts], [len(text) - last + n for text in texts])
        for n in range(last)
    ]
    return list(torch.stack(steps, dim=1))


def expected(reference: Any, text: list[int], last: int) -> Tensor:
    with torch.inference_mode():
        hidden: Tensor = reference(torch.tensor([text]))[0, -last:]
    return hidden


def test_rows_of_all_lengths_agree_with_transformers(decoder: Decoder, reference: Any) -> None:
    texts = [tokens(n, count) for n, count in enumerate((5, 40, 131, 6, 600, 260, 129))]
    for text, found in zip(texts, feed(decoder, texts, 5), strict=True):
        torch.testing.assert_close(found, expected(reference, text, 5), rtol=1e-4, atol=2e-5)


def test_the_modules_stay_usable(wide: Path, reference: Any) -> None:
    parts = load_language_model(wide, LoadTarget(torch.device("cpu"), torch.float32))
    Decoder(parts.model, 2, 64)
    text = tokens(1, 30)
    torch.testing.assert_close(expected(parts.model, text, 3), expected(reference, text, 3))


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: Any) -> Iterator[int]:
    usual = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(usual)


def rounds_as_four(rows: int) -> bool:
    """Whether this CPU rounds a product of so many rows on one thread as one of four (decision 0010).

    AMD's CPUs and Intel's with AVX-512 do; Intel's others do for some numbers of rows.
    """
    generator = torch.Generator().manual_seed(2)
    for before, after in ((96, 512), (256, 96)):  # as in the wide toy's layers
        shapes = (max(rows, 4), before), (before, after), (max(rows, 4), after)
        x, weight, sums = (torch.randn(shape, generator=generator) for shape in shapes)
        fours = [[n, 0, 1, 2] for n in range(len(x))]
        products = torch.stack([(x[four] @ weight)[0] for four in fours])
        added = torch.stack([torch.addmm(sums[four], x[four], weight)[0] for four in fours])
        if not torch.equal(x @ weight, products) or not torch.equal(torch.addmm(sums, x, weight), added):
            return False
    return True


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7, 11])
def test_a_row_does_not_depend_on_the_batch(decoder: Decoder, batch: int, threads: int) -> None:
    """To the bit on one thread of most CPUs; more threads split work by its size, and round differently."""
    text, last = tokens(50, 150), 8
    alone = feed(decoder, [text], last)[0]
    others = [tokens(60 + n, 20 + 55 * n) for n in range(batch)]
    for place in {0, batch // 2, batch}:
        texts = [*others[:place], text, *others[place:]]
        found = feed(decoder, texts, last)[place]
        if threads == 1 and rounds_as_four(len(texts)):
            assert torch.equal(found, alone)
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_a_copied_row_continues_independently(decoder: Decoder, reference: Any) -> None:
    start, rest = tokens(3, 50), tokens(4, 4)
    decoder.prefill(0, start + tokens(5, 30))
    decoder.copy(0, 1, len(start))
    decoder.prefill(0, tokens(6, 90))
    for n, token in enumerate(rest):
        hidden = decoder.decode([[9], [token]], [90 + n, len(start) + n])
    torch.testing.assert_close(hidden[1], expected(reference, start + rest, 1)[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("many", [2, 3, 5, 40])
def test_tokens_may_be_fed_one_by_one_or_together(decoder: Decoder, many: int, threads: int) -> None:
    """To the bit on one thread of most CPUs; later tokens show that the cache is the same, too."""
    texts = [tokens(80 + n, length) for n, length in enumerate((120, 30, 61 + many))]
    rest = [many + 2, 3, many]  # how many of each are decoded; the first row goes on alone
    for row, (text, count) in enumerate(zip(texts, rest, strict=True)):
        decoder.prefill(row, text[:-count])
    found = []
    for feeds in ([1, 1, 1], [many, 1, many - 1], [1, 1]):
        starts = [len(text) - count for text, count in zip(texts, rest, strict=True)][: len(feeds)]
        fed = [text[start : start + n] for text, start, n in zip(texts, starts, feeds, strict=False)]
        hidden = decoder.decode(fed, starts)
        found.append(hidden)
        rest = [count - n for count, n in zip(rest, feeds, strict=False)] + rest[len(feeds) :]
    singly = [feed(decoder, [text], count)[0] for text, count in zip(texts, (many + 2, 3, many), strict=True)]
    for row, places in enumerate(((0, many, many + 1), (0, 1, 2), (0, many - 1))):
        for step, place in enumerate(places):
            if threads == 1 and rounds_as_four(2 * many):
                assert torch.equal(found[step][row], singly[row][place])
            torch.testing.assert_close(found[step][row], singly[row][place], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", params=["int8", "fp8"])
def packed(request: Any, wide: Path) -> tuple[Decoder, Any]:
    """A quantized decoder, and the module with the same weights."""
    parts = load_language_model(wide, LoadTarget(torch.device("cpu"), torch.float32, request.param))
    return Decoder(parts.model, ROWS, LENGTH), parts.model


def test_quantized_rows_agree_with_the_module(packed: tuple[Decoder, Any], reference: Any) -> None:
    decoder, model = packed
    texts = [tokens(n, count) for n, count in enumerate((5, 40, 131))]
    for text, found in zip(texts, feed(decoder, texts, 5), strict=True):
        torch.testing.assert_close(found, expected(model, text, 5), rtol=1e-4, atol=2e-5)
        plain = expected(reference, text, 5)
        assert 0 < (found - plain).norm() < 0.2 * plain.norm()


@pytest.mark.parametrize("batch", [1, 4, 11])
def test_a_quantized_row_does_not_depend_on_the_batch(packed: tuple[Decoder, Any], batch: int) -> None:
    text, last = tokens(50, 60), 4
    others = [tokens(60 + n, 20 + 15 * n) for n in range(batch)]
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = feed(packed[0], [text], last)[0]
    found = feed(packed[0], [*others, text], last)[batch]
    torch.set_num_threads(usual)
    if rounds_as_four(batch + 1):
        assert torch.equal(found, alone)
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_unused_cache_takes_no_memory(wide: Path, dtype: torch.dtype) -> None:
    parts = load_language_model(wide, LoadTarget(torch.device("cpu"), dtype))
    before = resident()
    decoder = Decoder(parts.model, rows=64, length=30_000)
    assert resident() - before < 2**26  # the cache is 1.4 GB in float32
    decoder.prefill(63, tokens(1, 20))
    assert decoder.decode([[5]] * 64, [20] * 64).isfinite().all()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
