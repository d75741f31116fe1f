"""Tokens a second of the planner's language model, against transformers' own generation.

    uv run python -m benchmarks.planner [--codes 200] [--threads 1]

Both write the same songs with the same random weights: guidance, nucleus sampling, and a grammar that asks
for a block of text and so many audio codes. The other side is `transformers.generate`, where a logits
processor in Python does what transformers cannot: it pairs the rows, applies the same grammar through
llguidance, and draws.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, Qwen3ForCausalLM, TopPLogitsWarper

from acestep.planner.backends.pt import TorchLanguageModel, load_torch_language_model
from acestep.planner.language_model import Generation, Message, TokenSampling
from tests.planner.toy import Toy, write_toy

# Two and a half million weights, about what the bundled planner has.
_TOY = Toy(codes=512, hidden=192, intermediate=512, layers=6, heads=6, kv_heads=2, head_dim=32)
_SYSTEM = Message(
    "system", "# Instruction\nGenerate audio semantic tokens based on the given conditions:\n\n"
)
_LYRIC = "# Lyric\n[Verse]\n" + "over the hills and far away the river sings\n" * 4
_SAMPLING = TokenSampling(temperature=0.85, top_p=0.9, guidance_scale=2.5)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--codes", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table("songs at once", "pt, tokens/s", "transformers, tokens/s", "ratio")
    with tempfile.TemporaryDirectory() as name:
        folder = write_toy(Path(name) / "toy", _TOY)
        ours = load_torch_language_model(folder, torch.device("cpu"), torch.float32, slots=8)
        theirs = Baseline(folder, ours)
        for batch in (1, 8):
            songs = [song(ours, number, arguments.codes) for number in range(batch)]
            mine = max(rate(partial(write, ours, songs)) for _ in range(2))
            other = max(rate(partial(theirs.write, songs)) for _ in range(2))
            table.add_row(str(batch), f"{mine:.0f}", f"{other:.0f}", f"{mine / other:.2f}")
    Console().print(table)


def song(model: TorchLanguageModel, number: int, codes: int) -> Generation:
    """One request: no two have the same prompt."""
    first = model.vocabulary.first_code_id
    grammar = (
        '%llguidance {}\nstart: "\\nbpm: " /[0-9]{3}/ "\\ncaption: " /[a-z ]{20}/ </think>'
        f" code{{{codes}}} <|im_end|>\ncode: <[{first}-{first + model.vocabulary.code_count - 1}]>"
    )
    caption = Message("user", f"# Caption\nsong number {number} with a catchy chorus\n\n{_LYRIC}")
    return Generation(
        prompt=model.render([_SYSTEM, caption], "<think>"),
        grammar=grammar,
        sampling=_SAMPLING,
        seed=number,
        max_tokens=codes + 100,
        null_prompt=model.render([_SYSTEM, Message("user", _LYRIC)], "<think>"),
    )


def rate(job: Callable[[], int]) -> float:
    """Tokens a second of a job that says how many tokens it wrote."""
    started = time.perf_counter()
    tokens = job()
    return tokens / (time.perf_counter() - started)


def write(model: TorchLanguageModel, songs: list[Generation]) -> int:
    """Write all songs; how many tokens that took."""
    for each in songs:
        model.add(each)
    tokens = 0
    while advances := model.step():
        for advance in advances:
            assert advance.error is None, advance.error
            tokens += advance.tokens if advance.text is not None else 0
    return tokens


class Baseline:
    """`transformers.generate`, prompts and null prompts as one batch, padded on the left."""

    def __init__(self, folder: Path, ours: TorchLanguageModel) -> None:
        self._model = Qwen3ForCausalLM.from_pretrained(folder).eval()
        self._tokenizer = ours._tokenizer
        end = self._tokenizer.convert_tokens_to_ids(ours.vocabulary.end_of_turn)
        self._end = end
        self._grammars = llguidance.hf.from_tokenizer(
            self._tokenizer, n_vocab=self._model.config.vocab_size, eos_token=end
        )

    def write(self, songs: list[Generation]) -> int:
        """Write all songs; how many tokens that took."""
        prompts = [song.prompt for song in songs] + [song.null_prompt or "" for song in songs]
        ids = [self._tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        longest = max(map(len, ids))
        processor = _Paired(self._grammars, songs, self._model.config.vocab_size, self._end)
        self._model.generate(
            torch.tensor([[self._end] * (longest - len(row)) + row for row in ids]),
            attention_mask=torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids]),
            logits_processor=LogitsProcessorList([processor]),
            max_new_tokens=max(song.max_tokens for song in songs),
            do_sample=False,
            eos_token_id=self._end,
            pad_token_id=self._end,
        )
        return processor.tokens


class _Paired(LogitsProcessor):  # type: ignore[misc]
    """Guides, constrains and draws, and leaves one token possible in both rows of a song."""

    def __init__(self, grammars: Any, songs: list[Generation], size: int, end: int) -> None:
        self._songs = songs
        self._matchers = [llguidance.LLMatcher(grammars, song.grammar) for song in songs]
        self._chances = [torch.Generator().manual_seed(song.seed) for song in songs]
        self._bits = llguidance.numpy.allocate_token_bitmask(len(songs), size)
        self._nucleus = TopPLogitsWarper(_SAMPLING.top_p)
        self._size, self._end = size, end
        self.tokens = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        cond, null = scores.float().chunk(2)
        logits = null + _SAMPLING.guidance_scale * (cond - null)
        chosen = torch.full((len(self._songs), 1), self._end)
        for number, matcher in enumerate(self._matchers):
            if matcher.is_stopped():
                continue
            llguidance.numpy.fill_next_token_bitmask(matcher, self._bits, number)
            mask = np.unpackbits(self._bits[number].view(np.uint8), count=self._size, bitorder="little")
            barred = torch.from_numpy(mask) == 0
            row = logits[number : number + 1].masked_fill(barred, -torch.inf)
            shares = (self._nucleus(input_ids, row) / _SAMPLING.temperature).softmax(-1)
            chosen[number] = torch.multinomial(shares[0], 1, generator=self._chances[number])
            matcher.consume_token(int(chosen[number]))
            self.tokens += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen.repeat(2, 1), 0.0)


if __name__ == "__main__":
    main()
