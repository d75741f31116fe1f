"""Audio codes, five a second: latents to codes, and codes back to the hints that a song is built on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from acestep.errors import InvalidFieldError
from acestep.synthesizer.loading import SynthesizerModules


class AudioCodes:
    """The 5 Hz codes of one checkpoint."""

    def __init__(self, modules: SynthesizerModules) -> None:
        self._tokenizer = modules.audio_tokenizer
        self._detokenizer = modules.audio_token_detokenizer
        self._silence = modules.silence_latent
        self._count = modules.facts.code_count
        self._placement = modules.placement

    @property
    def count(self) -> int:
        """How many different codes there are."""
        return self._count

    @torch.inference_mode()
    def tokenize(self, latents: Tensor) -> tuple[int, ...]:
        """The codes of latents `[T, C]`; silence fills the last one up."""
        if self._placement:
            self._placement.enter("condition encoder")
        at_home = latents[None].to(self._silence)
        _, indices = self._tokenizer.tokenize(at_home, self._silence)
        return tuple(indices.flatten().tolist())  # at once: a GPU is waited for each time

    @torch.inference_mode()
    def hints(self, codes: Sequence[int]) -> Tensor:
        """The latents `[T, C]` that codes stand for, as many frames for each as the model pools into one.

        Raises InvalidFieldError for a code that this model does not have.
        """
        strange = next((code for code in codes if not 0 <= code < self._count), None)
        if strange is not None:
            raise InvalidFieldError("audio_code_string", strange, f"codes from 0 to {self._count - 1}")
        if self._placement:
            self._placement.enter("condition encoder")
        indices = torch.tensor(codes, device=self._silence.device).view(1, -1, 1)
        source_latents: Tensor = self._detokenizer(self._tokenizer.quantizer.get_output_from_indices(indices))
        return source_latents[0]
