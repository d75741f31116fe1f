"""What the diffusion transformer is told about each song: words, sound to resemble, sound to start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from acestep.domain.latents import SourceLatents
from acestep.domain.song import SongPlan
from acestep.synthesizer.codes import AudioCodes
from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.prompts import TEXT2MUSIC_INSTRUCTION, caption_prompt, lyric_prompt
from acestep.synthesizer.windows import Span

# What the published models were trained with, in tokens.
MAX_CAPTION_TOKENS = 256
MAX_LYRIC_TOKENS = 2048


NO_SOURCES = SourceLatents()


@dataclass(frozen=True, slots=True, eq=False)
class SongMaterial:
    """The latents that one song starts from.

    `source` `[T, C]` is what the song is built on, `chunk_mask` `[T]` is 1 where the model writes and 0
    where the source stays, `reference` `[F, C]` is the sound to resemble.
    """

    source: Tensor
    chunk_mask: Tensor
    reference: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """What the transformer is told about B songs.

    `states` `[B, L, D]` are the encoded words and reference, `mask` `[B, L]` is true where a state is one
    of the song's own and not padding, `context` `[B, T, C + M]` is source latents beside chunk mask.
    """

    states: Tensor
    mask: Tensor
    context: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Tokens:
    ids: Tensor  # [B, L], padded with 0
    mask: Tensor  # [B, L], 1 for a token
    lengths: tuple[int, ...]  # tokens of each text before it was cut


class Conditioner:
    """Encodes plans with the loaded text and condition encoders."""

    def __init__(self, modules: SynthesizerModules) -> None:
        self._modules = modules
        self._facts = modules.facts
        self._codes = AudioCodes(modules)
        self._device = modules.silence_latent.device

    def material(
        self, plan: SongPlan, frames: int, sources: SourceLatents = NO_SOURCES, span: Span | None = None
    ) -> SongMaterial:
        """What a song starts from. `span` is what is written anew (None: all of it)."""
        mask = torch.ones(frames, dtype=torch.float32) if span is None else span.mask(frames)
        mask = mask.to(self._device)
        reference = self._facts.reference_frames
        return SongMaterial(
            source=self._source(plan, frames, sources, mask),
            chunk_mask=mask,
            reference=self.fitted(sources.reference, reference),
        )

    def _source(self, plan: SongPlan, frames: int, sources: SourceLatents, mask: Tensor) -> Tensor:
        """What the model is shown: hints of codes, the source (its window silenced), or silence, `[T, C]`."""
        if plan.audio_codes:
            return self.fitted(self._codes.hints(plan.audio_codes), frames)
        if sources.source is None or plan.task_type == "text2music":
            return self.silence(frames)
        if plan.task_type == "cover":
            source = sources.source[:frames]
            hints = self._codes.hints(self._codes.tokenize(source))
            return self.fitted(hints[: len(source)], frames)
        source = self.fitted(sources.source, frames)
        # Lego hears its source in the window too: the new track goes along with it.
        return torch.where(mask[:, None] == 1, self.silence(frames), source) if _is_blind(plan) else source

    def fitted(self, latents: Tensor | None, frames: int) -> Tensor:
        """Latents cut to `frames`, or filled up with silence (None is silence throughout), `[frames, C]`."""
        if latents is None:
            return self.silence(frames)
        kept = latents[:frames].to(self._modules.silence_latent)
        return torch.cat([kept, self.silence(frames - len(kept))])

    def silence(self, frames: int) -> Tensor:
        """Latents of silence `[frames, C]`; repeated where the checkpoint holds less."""
        stored = self._modules.silence_latent[0]
        repeats = -(-frames // stored.shape[0])
        return stored.repeat(repeats, 1)[:frames] if repeats > 1 else stored[:frames]

    def encode(self, plans: Sequence[SongPlan], materials: Sequence[SongMaterial]) -> Condition:
        """One `Condition` for all songs; `materials` has one entry a plan, all of the same length."""
        captions, lyrics = self._caption_tokens(plans), self._lyric_tokens(plans)
        text_encoder = self._modules.text_encoder
        self._enter("text encoder")
        read = text_encoder(captions.ids, attention_mask=captions.mask).last_hidden_state
        spelled = text_encoder.embed_tokens(lyrics.ids)
        self._enter("condition encoder")
        states, mask = self._modules.condition_encoder(
            text_hidden_states=read,
            text_attention_mask=captions.mask,
            lyric_hidden_states=spelled,
            lyric_attention_mask=lyrics.mask,
            refer_audio_acoustic_hidden_states_packed=torch.stack([m.reference for m in materials]),
            refer_audio_order_mask=torch.arange(len(materials), device=self._device),
        )
        longest = int(mask.sum(dim=1).max())  # each song's own states come first
        return Condition(states[:, :longest], mask[:, :longest], self._context(materials))

    def encode_plainly(self, plans: Sequence[SongPlan], materials: Sequence[SongMaterial]) -> Condition:
        """As `encode`, but without what the songs follow: text2music's instruction, silence for a source."""
        return self.encode(
            [replace(plan, instruction=TEXT2MUSIC_INSTRUCTION) for plan in plans],
            [replace(material, source=self.silence(len(material.source))) for material in materials],
        )

    def with_null(self, condition: Condition) -> Condition:
        """The same songs, then once more with the model's learned null condition instead of words."""
        self._enter("condition encoder")
        null = self._modules.condition_encoder.null_condition_emb.expand_as(condition.states)
        return Condition(
            states=torch.cat([condition.states, null]),
            mask=torch.cat([condition.mask, condition.mask]),
            context=torch.cat([condition.context, condition.context]),
        )

    def _enter(self, group: str) -> None:
        if self._modules.placement:
            self._modules.placement.enter(group)

    def warnings(self, plan: SongPlan) -> tuple[str, ...]:
        """Sentences for the client about text that is longer than what the model reads."""
        checked = (
            ("caption", "with its metadata", self._caption_tokens([plan]), MAX_CAPTION_TOKENS),
            ("lyrics", "with their header", self._lyric_tokens([plan]), MAX_LYRIC_TOKENS),
        )
        return tuple(
            f"{field}: {tokens.lengths[0]} tokens {extra}, but the model reads {limit}; the end was left out"
            for field, extra, tokens, limit in checked
            if tokens.lengths[0] > limit
        )

    def _caption_tokens(self, plans: Sequence[SongPlan]) -> _Tokens:
        return self._tokenize([caption_prompt(plan) for plan in plans], MAX_CAPTION_TOKENS)

    def _lyric_tokens(self, plans: Sequence[SongPlan]) -> _Tokens:
        return self._tokenize([lyric_prompt(plan) for plan in plans], MAX_LYRIC_TOKENS)

    def _tokenize(self, texts: Sequence[str], limit: int) -> _Tokens:
        tokenizer = self._modules.tokenizer
        rows = [tokenizer(text).input_ids for text in texts]
        lengths = tuple(len(row) for row in rows)
        # Cut by the tokenizer, so that a closing token of its own survives the cut.
        rows = [
            tokenizer(text, truncation=True, max_length=limit).input_ids if len(row) > limit else row
            for text, row in zip(texts, rows, strict=True)
        ]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for song, row in enumerate(rows):
            ids[song, : len(row)] = torch.tensor(row)
            mask[song, : len(row)] = 1
        return _Tokens(ids.to(self._device), mask.to(self._device), lengths)

    def _context(self, materials: Sequence[SongMaterial]) -> Tensor:
        source = torch.stack([material.source for material in materials])
        mask = torch.stack([material.chunk_mask for material in materials]).to(source.dtype)
        return torch.cat([source, mask[..., None].expand(-1, -1, self._facts.mask_channels)], dim=-1)


def _is_blind(plan: SongPlan) -> bool:
    """Whether the model must not see what it writes over."""
    return plan.task_type == "repaint"
