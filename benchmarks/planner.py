"""Tokens a second of the planner's language model, against transformers' own generation.

    uv run python -m benchmarks.planner [--codes 200] [--rounds 3] [--threads 1]

All write the same songs with the same random weights: guidance, nucleus sampling, and a grammar that asks
for a block of text and so many audio codes. The other side is `transformers.generate` with the grammar,
through llguidance, in a logits processor: once with the guidance that transformers brings, which runs the
model a second time for each token, and once with the two rows of a song paired by hand. What the matrix
products of our side take alone is the floor.

On one thread, seconds are the processor's, of the whole process: neighbours on the same core count less.
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
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    Qwen3ForCausalLM,
    TopPLogitsWarper,
)

from acestep.planner.backends.pt import TorchLanguageModel, load_torch_language_model
from acestep.planner.language_model import Generation, Message, SpecialToken, TokenSampling
from acestep.weights.safetensors import LoadTarget
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
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    columns = ("pt", "generate", "generate, paired by hand", "pt / generate", "pt / paired", "products alone")
    table = Table("songs at once", *columns, title="tokens a second")
    with tempfile.TemporaryDirectory() as name:
        folder = write_toy(Path(name) / "toy", _TOY)
        ours = load_torch_language_model(folder, LoadTarget(torch.device("cpu"), torch.float32), sequences=8)
        theirs = Baseline(folder, ours)
        for batch in (1, 8):
            songs = [song(ours, number, arguments.codes) for number in range(batch)]
            jobs = (partial(write, ours), theirs.write_plainly, theirs.write_paired, products)
            # Round about, so that whatever else the machine does meets all of them.
            rounds = [[rate(partial(job, songs), clock) for job in jobs] for _ in range(arguments.rounds)]
            pt, plain, paired, alone = (max(rates) for rates in zip(*rounds, strict=True))
            ratios = (f"{pt / plain:.2f}", f"{pt / paired:.2f}", f"{pt / alone:.0%} of pt's time")
            table.add_row(str(batch), f"{pt:.0f}", f"{plain:.0f}", f"{paired:.0f}", *ratios)
    Console().print(table)


def song(model: TorchLanguageModel, number: int, codes: int) -> Generation:
    """One request: no two have the same prompt."""
    think = SpecialToken("<think>")
    first = model.vocabulary.first_code_id
    grammar = (
        '%llguidance {}\nstart: "\\nbpm: " /[0-9]{3}/ "\\ncaption: " /[a-z ]{20}/ </think>'
        f" code{{{codes}}} <|im_end|>\ncode: <[{first}-{first + model.vocabulary.code_count - 1}]>"
    )
    caption = Message("user", f"# Caption\nsong number {number} with a catchy chorus\n\n{_LYRIC}")
    return Generation(
        prompt=model.render([_SYSTEM, caption], (think,)),
        grammar=grammar,
        sampling=_SAMPLING,
        seed=number,
        max_tokens=codes + 100,
        null_prompt=model.render([_SYSTEM, Message("user", _LYRIC)], (think,)),
    )


def rate(job: Callable[[], int], clock: Callable[[], float]) -> float:
    """Tokens a second of a job that says how many tokens it wrote."""
    started = clock()
    tokens = job()
    return tokens / (clock() - started)


def products(songs: list[Generation], steps: int = 200) -> int:
    """Nothing but the matrix products of the layers and of the codes' logits; two rows a song, at least 4."""
    heads, width = _TOY.heads + 2 * _TOY.kv_heads, _TOY.head_dim
    sizes = [(_TOY.hidden, heads * width), (_TOY.heads * width, _TOY.hidden)]
    sizes += [(_TOY.hidden, 2 * _TOY.intermediate), (_TOY.intermediate, _TOY.hidden)]
    weights = [torch.randn(size) for _ in range(_TOY.layers) for size in sizes]
    weights.append(torch.randn(_TOY.hidden, _TOY.codes))
    rows = {size: torch.randn(max(4, 2 * len(songs)), size) for size in {len(weight) for weight in weights}}
    with torch.inference_mode():
        for _ in range(steps):
            for weight in weights:
                torch.mm(rows[len(weight)], weight)
    return steps * len(songs)


def write(model: TorchLanguageModel, songs: list[Generation]) -> int:
    """Write all songs; how many tokens that took."""
    for each in songs:
        model.add(each)
    tokens = 0
    while outputs := model.step():
        for output in outputs:
            assert output.error is None, output.error
            tokens += output.tokens if output.text is not None else 0
    return tokens


class Baseline:
    """`transformers.generate`, in one batch padded on the left."""

    def __init__(self, folder: Path, ours: TorchLanguageModel) -> None:
        self._model = Qwen3ForCausalLM.from_pretrained(folder).eval()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self._size = self._model.config.vocab_size
        self._end = tokenizer.convert_tokens_to_ids(ours.vocabulary.end_of_turn)
        self._grammars = llguidance.hf.from_tokenizer(tokenizer, n_vocab=self._size, eos_token=self._end)

    def write_plainly(self, songs: list[Generation]) -> int:
        """As transformers offers it: its own guidance and sampling, and a processor for the grammar."""
        null, null_mask = self._padded([song.null_prompt or () for song in songs])
        held = Held(self._grammars, songs, self._size, self._end)
        self._generate(
            [song.prompt for song in songs],
            held.processor(held.barred),
            guidance_scale=_SAMPLING.guidance_scale,
            negative_prompt_ids=null,
            negative_prompt_attention_mask=null_mask,
            do_sample=True,
            top_k=0,
            top_p=_SAMPLING.top_p,
            temperature=_SAMPLING.temperature,
        )
        return held.tokens

    def write_paired(self, songs: list[Generation]) -> int:
        """By hand: prompts and null prompts in one batch, and a processor that guides and draws as well."""
        held = Held(self._grammars, songs, self._size, self._end)
        prompts = [song.prompt for song in songs] + [song.null_prompt or () for song in songs]
        self._generate(prompts, held.processor(held.drawn), do_sample=False)
        return held.tokens

    def _generate(self, rows: list[tuple[int, ...]], processor: LogitsProcessor, **options: Any) -> None:
        ids, mask = self._padded(rows)
        self._model.generate(
            ids,
            attention_mask=mask,
            logits_processor=LogitsProcessorList([processor]),
            max_new_tokens=1000,
            eos_token_id=self._end,
            pad_token_id=self._end,
            **options,
        )

    def _padded(self, rows: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, rows))
        ids = torch.tensor([[self._end] * (longest - len(row)) + [*row] for row in rows])
        return ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])


class Held:
    """Songs held to their grammars, step by step."""

    def __init__(self, grammars: Any, songs: list[Generation], size: int, end: int) -> None:
        self._matchers = [llguidance.LLMatcher(grammars, song.grammar) for song in songs]
        self._chances = [torch.Generator().manual_seed(song.seed) for song in songs]
        self._bits = llguidance.numpy.allocate_token_bitmask(len(songs), size)
        self._nucleus = TopPLogitsWarper(_SAMPLING.top_p)
        self._size, self._end = size, end
        self._started = False
        self.tokens = 0

    def processor(self, apply: Callable[[Tensor, Tensor], Tensor]) -> LogitsProcessor:
        """One of the methods below, as transformers calls it."""

        class Processor(LogitsProcessor):  # type: ignore[misc]
            def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
                return apply(input_ids, scores)

        return Processor()

    def barred(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Bar what the grammars do not allow after the last tokens."""
        if self._started:
            for matcher, token in zip(self._matchers, input_ids[:, -1].tolist(), strict=True):
                self._take(matcher, token)
        self._started = True
        for number in range(len(self._matchers)):
            scores[number] = self._masked(number, scores[number])
        return scores

    def drawn(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Guide, bar and draw, and leave one token possible in both rows of a song."""
        cond, null = scores.float().chunk(2)
        logits = null + _SAMPLING.guidance_scale * (cond - null)
        chosen = torch.full((len(self._matchers), 1), self._end)
        for number, matcher in enumerate(self._matchers):
            if matcher.is_stopped():
                continue
            row = self._nucleus(input_ids, self._masked(number, logits[number])[None])[0]
            shares = (row / _SAMPLING.temperature).softmax(-1)
            chosen[number] = torch.multinomial(shares, 1, generator=self._chances[number])
            self._take(matcher, int(chosen[number]))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen.repeat(2, 1), 0.0)

    def _take(self, matcher: llguidance.LLMatcher, token: int) -> None:
        if not matcher.is_stopped():
            matcher.consume_token(token)
            self.tokens += 1

    def _masked(self, number: int, logits: Tensor) -> Tensor:
        if self._matchers[number].is_stopped():
            return logits
        llguidance.numpy.fill_next_token_bitmask(self._matchers[number], self._bits, number)
        mask = np.unpackbits(self._bits[number].view(np.uint8), count=self._size, bitorder="little")
        return logits.masked_fill(torch.from_numpy(mask) == 0, -torch.inf)


if __name__ == "__main__":
    main()
