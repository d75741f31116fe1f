"""When the words of a finished song are sung: one more look of the transformer at what it made.

Owns which attention heads know it, which states are lyrics, and the way from tokens to words and lines. The
arithmetic is in `alignment_maths`, the reading of lyrics in `alignment_text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acestep.domain import SongPlan, is_instrumental
from acestep.errors import UntimedLyricsError
from acestep.findings import LyricTimes, TimedLine, TimedWord
from acestep.synthesizer.alignment_maths import Matrix, consensus, energy_of, score, warp
from acestep.synthesizer.alignment_text import Line, Word, sung_lines
from acestep.synthesizer.conditioning import MAX_LYRIC_TOKENS, Condition
from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.prompts import lyric_header, lyric_prompt
from acestep.synthesizer.sampler import Noise
from acestep.synthesizer.transformer import Heads, Transformer

# The heads whose attention follows the singing, as the authors of the published 2 B models found them, ...
PUBLISHED_HEADS: Heads = {2: (6,), 3: (10, 11), 4: (3,), 5: (8, 9), 6: (8,)}
# ... which all have this shape. A model of another shape has other heads, and nobody has looked for them.
_PUBLISHED_SHAPE = {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16}

_DECIMALS = 3  # milliseconds; a patch lasts 80 of them


@dataclass(frozen=True, slots=True, eq=False)
class LyricAttention:
    """How a song attends to its lyrics: what `time_lyrics` reads, away from the model and its device.

    `logits` has a matrix `[N, S]` for each head: what of the attention is left when the rest of what the
    model is told (caption, reference) is out of the picture; times are read off these. `weights` is the mean
    of the heads' attention, of which all that takes its share: the score. `spans` `[N, 2]` is where in the
    lyrics each token stands, `patch_seconds` how long a patch lasts.
    """

    plan: SongPlan
    logits: Sequence[Matrix]
    weights: Matrix
    spans: NDArray[np.int64]
    patch_seconds: float


def known_heads(config: Any) -> Heads | None:
    """The alignment heads of a transformer with this config; None where nobody knows them."""
    fits = all(getattr(config, name) == size for name, size in _PUBLISHED_SHAPE.items())
    return PUBLISHED_HEADS if fits else None


class LyricListener:
    """Reads off a finished song how it attends to its lyrics."""

    def __init__(self, modules: SynthesizerModules, transformer: Transformer, heads: Heads | None) -> None:
        """`heads` None: this model's are not known, and every song is refused."""
        self._tokenizer = modules.tokenizer
        self._transformer = transformer
        self._heads = heads

    def check(self, plan: SongPlan) -> None:
        """Raise UntimedLyricsError where a plan's lyrics cannot be timed."""
        if is_instrumental(plan.lyrics) or not sung_lines(plan.lyrics):
            raise UntimedLyricsError("the song has no lyrics that are sung")
        if self._heads is None:
            raise UntimedLyricsError("only the published 2 B models are known to show when words are sung")

    @torch.inference_mode()
    def listen(
        self, plan: SongPlan, latents: Tensor, condition: Condition, patch_seconds: float
    ) -> LyricAttention:
        """Look at finished latents `[1, T, C]` of a plan under the `condition` that they were made with.

        Raises UntimedLyricsError as `check` does.
        """
        self.check(plan)
        assert self._heads is not None
        columns, spans = self._lyric_tokens(plan)
        t = 1.0 / (len(plan.sampling.timesteps) if plan.sampling.timesteps else plan.sampling.steps)
        noise = Noise([plan.seed], latents.shape[1], latents.shape[2], latents.device).draw()
        nearly = t * noise + (1.0 - t) * latents
        attended = self._transformer.attend(condition)
        logits, total = [], torch.zeros((), device=latents.device)
        for head in self._transformer.cross_logits(nearly, t, attended, self._heads):
            logits.append(_as_matrix(head[0, :, columns]))
            total = total + head[0].softmax(dim=-1)[:, columns]
        return LyricAttention(plan, logits, _as_matrix(total / len(logits)), spans, patch_seconds)

    def _lyric_tokens(self, plan: SongPlan) -> tuple[slice, NDArray[np.int64]]:
        """Which encoder states are tokens of the lyrics, and where in the lyrics each stands."""
        read = self._tokenizer(
            lyric_prompt(plan), truncation=True, max_length=MAX_LYRIC_TOKENS, return_offsets_mapping=True
        )
        start = len(lyric_header(plan))
        spans = np.array(read.offset_mapping, dtype=np.int64).reshape(-1, 2) - start
        # A token may join the header's last letter and the first of the lyrics.
        inside = np.flatnonzero((spans[:, 1] > 0) & (spans[:, 0] < len(plan.lyrics)))
        if not len(inside):
            raise UntimedLyricsError("none of the lyrics is within what the model reads")
        return slice(inside[0], inside[-1] + 1), spans[inside[0] : inside[-1] + 1]


def time_lyrics(attention: LyricAttention) -> LyricTimes:
    """When each line and word is sung. On the processor, from any thread; seconds of work for long songs."""
    path = warp(-consensus(attention.logits))
    # The last patch may reach past the end of the song.
    seconds = np.minimum(path.spans() * attention.patch_seconds, attention.plan.duration)
    sung = np.zeros(len(attention.spans), dtype=np.bool_)
    timed = []
    for line in sung_lines(attention.plan.lyrics):
        words = []
        for word in line.words:
            tokens = _tokens_of(word, attention.spans)
            if len(tokens):  # the model did not read the end of long lyrics
                sung[tokens] = True
                words.append(_timed(word, seconds[tokens]))
        if words:
            timed.append(_timed_line(line, words))
    return LyricTimes(tuple(timed), round(score(energy_of(attention.weights), path, sung), 4))


def _as_matrix(patches: Tensor) -> Matrix:
    """`[S, N]` as `[N, S]` in memory that NumPy reads."""
    matrix: Matrix = patches.T.contiguous().cpu().numpy()
    return matrix


def _tokens_of(word: Word, spans: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.flatnonzero((spans[:, 0] < word.end) & (spans[:, 1] > word.start))


def _timed(word: Word, seconds: NDArray[np.float64]) -> TimedWord:
    start, end = float(seconds[:, 0].min()), float(seconds[:, 1].max())
    return TimedWord(word.text, round(start, _DECIMALS), round(end, _DECIMALS))


def _timed_line(line: Line, words: Sequence[TimedWord]) -> TimedLine:
    return TimedLine(line.text, words[0].start, words[-1].end, tuple(words))
