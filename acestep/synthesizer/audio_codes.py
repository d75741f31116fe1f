from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from acestep.synthesizer.loading import SynthesizerModules


class AudioCodes:
    """The audio tokenizer of one checkpoint, five codes a second in the published ones."""

    def __init__(self, modules: SynthesizerModules) -> None:
        self._modules = modules
        self._silence = modules.silence_latent
        self.count = modules.config.code_count

    @torch.inference_mode()
    def tokenize(self, latents: Tensor) -> tuple[int, ...]:
        """The codes of latents `[T, C]`, which are padded with silence to whole codes."""
        self._enter()
        missing = -len(latents) % self._modules.config.frames_per_code
        padded = torch.cat([latents.to(self._silence), self._silence[0, :missing]])
        _, codes = self._modules.audio_tokenizer(padded[None])
        return tuple(codes[0].tolist())  # one copy, since each waits for the GPU

    @torch.inference_mode()
    def hints(self, codes: Sequence[int]) -> Tensor:
        """The latents `[T, C]` that codes stand for, `frames_per_code` frames each."""
        assert all(0 <= code < self.count for code in codes)
        self._enter()
        quantized = self._modules.audio_tokenizer.quantizer.look_up(
            torch.tensor([codes], device=self._silence.device)
        )
        latents: Tensor = self._modules.audio_token_detokenizer(quantized)
        return latents[0]

    def _enter(self) -> None:
        if self._modules.placement is not None:  # before the modules compute
            self._modules.placement.enter("condition encoder")
