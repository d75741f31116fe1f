"""Plans songs with the 5 Hz language model: metadata, lyrics and audio codes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from acestep.domain.draft import Draft, DraftRequest, Metadata
from acestep.domain.song import (
    CODES_A_SECOND,
    INSTRUMENTAL,
    MAX_DURATION,
    PlannerOptions,
    SongRequest,
    is_instrumental,
)
from acestep.errors import PlannerError, PlannerUnavailableError
from acestep.planner import codes, metadata, prompts, sentence
from acestep.planner.grammar import BlockRules, codes_grammar, draft_grammar, metadata_grammar
from acestep.planner.language_model import Generation, LanguageModel, Text, TokenSampling
from acestep.planner.lexicon import lost_words, unknown_words, without
from acestep.planner.loop import Cancelled, OnTokens

Generate = Callable[[Generation, OnTokens, Cancelled], Awaitable[str]]

# Tokens that blocks and drafts usually have, for the progress: their length is not known beforehand.
_USUAL_BLOCK, _USUAL_DRAFT = 120, 500
_NO_GUIDANCE = 1.0
_MOST_NAMED = 10
_ARTICLES = ("a", "an", "the")


@dataclass(frozen=True, slots=True)
class PlannerCallbacks:
    """Called on the thread of the language model. `on_progress` gets a fraction, 0..1."""

    on_progress: Callable[[float], None] = lambda fraction: None
    cancelled: Cancelled = lambda: False


_NO_CALLBACKS = PlannerCallbacks()


class Planner:
    """`longest` bounds the duration, in seconds. All methods raise JobCancelledError and PlannerError."""

    def __init__(self, model: LanguageModel, generate: Generate, closed_turn: bool = False) -> None:
        """`closed_turn`: audio codes follow a finished turn, as in the original."""
        self._model = model
        self._generate = generate
        self._closed_turn = closed_turn

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def code_count(self) -> int:
        return self._model.vocabulary.code_count

    async def decide(
        self, request: SongRequest, longest: float = MAX_DURATION, callbacks: PlannerCallbacks = _NO_CALLBACKS
    ) -> Metadata:
        """The metadata that all songs of `request` share; the user's own is kept."""
        fixed = fixed_facts(request)
        if None in (fixed.bpm, fixed.key_scale, fixed.time_signature, fixed.duration):
            options = request.planner
            known, unknown = self._understood(request.caption)
            rules = BlockRules(
                fixed,
                longest=longest,
                caption=options.use_cot_caption and not unknown,
                language=options.use_cot_language,
            )
            form = metadata_grammar(rules)
            null = prompts.plan_null(request.lyrics, options.negative_prompt)
            generation = Generation(
                prompt=self._model.render(prompts.plan(known, request.lyrics)),
                grammar=form.grammar,
                sampling=token_sampling(options),
                seed=request.seeds[0],
                max_tokens=form.max_tokens,
                null_prompt=self._model.render(null) if _is_guided(options) else None,
            )
            fixed = metadata.read(await self._generate_text(generation, callbacks, _USUAL_BLOCK))
        given = request.caption.strip() or None
        caption = None if self._lost(request.caption, fixed.caption) else _caption(fixed.caption)
        return replace(fixed, caption=caption or given, language=fixed.language or request.language)

    async def sketch(
        self,
        request: SongRequest,
        decided: Metadata,
        seconds: float,
        seed: int,
        callbacks: PlannerCallbacks = _NO_CALLBACKS,
    ) -> tuple[int, ...]:
        """`int(5 * seconds)` audio codes for the song with this seed; `decided` is the result of `decide`."""
        options = request.planner
        count = int(CODES_A_SECOND * seconds)
        form = codes_grammar(count, self._model.vocabulary)
        caption, _ = self._understood(request.caption)
        prompt = prompts.plan(caption, request.lyrics)
        null = prompts.codes_null(caption, request.lyrics, options.negative_prompt)
        generation = Generation(
            prompt=self._model.render(prompt, self._turn(replace(decided, duration=int(seconds)))),
            grammar=form.grammar,
            sampling=token_sampling(options),
            seed=seed,
            max_tokens=form.max_tokens,
            null_prompt=self._model.render(null, self._turn(Metadata())) if _is_guided(options) else None,
        )
        text = await self._generate(
            generation, lambda tokens: callbacks.on_progress(min(1.0, tokens / count)), callbacks.cancelled
        )
        written = codes.read(text)
        if len(written) != count:
            raise PlannerError(f"The language model wrote {len(written)} audio codes, not {count}.")
        return written

    async def draft(
        self,
        request: DraftRequest,
        longest: float = MAX_DURATION,
        callbacks: PlannerCallbacks = _NO_CALLBACKS,
    ) -> Draft:
        kinds = {
            "sample": self.compose,
            "lyrics": self.write_lyrics,
            "format": self.format,
            "understand": self.understand,
        }
        return await kinds[request.kind](request, longest, callbacks)

    async def write_lyrics(
        self,
        request: DraftRequest,
        longest: float = MAX_DURATION,
        callbacks: PlannerCallbacks = _NO_CALLBACKS,
    ) -> Draft:
        """As `compose`, but always with lyrics: better ones, if the request has some.

        Raises PlannerUnavailableError for a planner that writes none.
        """
        if not self._writes_lyrics:
            raise PlannerUnavailableError(
                f"{self.name} writes no lyrics. Set ACESTEP_LM_MODEL_PATH to a published planner, such as "
                "acestep-5Hz-lm-0.6B."
            )
        if is_instrumental(request.lyrics):
            return await self.compose(replace(request, instrumental=False), longest, callbacks)
        asked = replace(request, caption=request.query or request.metadata.caption or "")
        return await self.format(asked, longest, callbacks)

    async def compose(
        self,
        request: DraftRequest,
        longest: float = MAX_DURATION,
        callbacks: PlannerCallbacks = _NO_CALLBACKS,
    ) -> Draft:
        """A song for `request.query`, which may itself say instrumental or name a language."""
        instrumental = request.instrumental
        if instrumental is None:
            instrumental = sentence.is_instrumental(request.query)
        language = request.metadata.language or sentence.named_language(request.query)
        asked = replace(request, metadata=replace(request.metadata, language=language))
        known, unknown = self._understood(request.query)
        kept = replace(asked.metadata, caption=asked.metadata.caption or request.query.strip() or None)
        warnings: tuple[str, ...] = ()
        if not instrumental and not self._writes_lyrics and not request.lyrics.strip():
            warnings = (f"lyrics: {self.name} writes none, so the song is instrumental",)
        if unknown and not known:
            return Draft(kept, INSTRUMENTAL, (*self._unlearned("sample_query", unknown), *warnings))
        prompt = self._model.render(prompts.sample(known, instrumental))
        lyrics = INSTRUMENTAL if instrumental or not self._writes_lyrics else None
        draft = await self._draft(asked, prompt, lyrics, longest, callbacks)
        if asked.metadata.caption is None and kept.caption:
            draft = self._with_caption(draft, "sample_query", kept.caption, unknown)
        return replace(draft, warnings=(*draft.warnings, *warnings))

    async def format(
        self,
        request: DraftRequest,
        longest: float = MAX_DURATION,
        callbacks: PlannerCallbacks = _NO_CALLBACKS,
    ) -> Draft:
        """A better caption, and better lyrics with all sung words; instrumental songs stay instrumental."""
        known, unknown = self._understood(request.caption)
        is_sung = not is_instrumental(request.lyrics)
        if not known.strip() and (unknown or not self._writes_lyrics):
            why = self._unlearned("prompt", unknown or ("the lyrics",))
            kept = replace(request.metadata, caption=request.caption or None)
            return Draft(kept, request.lyrics if is_sung else INSTRUMENTAL, why)
        is_written = is_sung and self._writes_lyrics
        prompt = self._model.render(
            prompts.format(known, "" if is_sung and not is_written else request.lyrics)
        )
        draft = await self._draft(request, prompt, None if is_written else INSTRUMENTAL, longest, callbacks)
        if request.caption.strip():
            draft = self._with_caption(draft, "prompt", request.caption, unknown)
        return self._with_lyrics(draft, request.lyrics) if is_sung else draft

    async def understand(
        self,
        request: DraftRequest,
        longest: float = MAX_DURATION,
        callbacks: PlannerCallbacks = _NO_CALLBACKS,
    ) -> Draft:
        """Metadata and lyrics of `request.audio_codes`, whose number gives the duration."""
        seconds = max(1, round(len(request.audio_codes) / CODES_A_SECOND))
        asked = replace(request, metadata=replace(request.metadata, duration=seconds))
        prompt = self._model.render(prompts.understand(request.audio_codes))
        return await self._draft(asked, prompt, None, longest, callbacks)

    async def _draft(
        self,
        request: DraftRequest,
        prompt: tuple[int, ...],
        lyrics: str | None,
        longest: float,
        callbacks: PlannerCallbacks,
    ) -> Draft:
        rules = BlockRules(request.metadata, longest=longest)
        form = draft_grammar(rules, self._model.vocabulary.end_of_turn, lyrics)
        sampling = token_sampling(request.options)
        generation = Generation(prompt, form.grammar, sampling, request.seed, form.max_tokens)
        return metadata.read_draft(await self._generate_text(generation, callbacks, _USUAL_DRAFT))

    async def _generate_text(self, generation: Generation, callbacks: PlannerCallbacks, usual: int) -> str:
        # Generate a text of unknown length; after `usual` tokens the progress is one half.
        text = await self._generate(
            generation, lambda tokens: callbacks.on_progress(tokens / (tokens + usual)), callbacks.cancelled
        )
        callbacks.on_progress(1.0)
        return text

    @property
    def _writes_lyrics(self) -> bool:
        return self._model.vocabulary.lexicon.writes_lyrics

    def _understood(self, caption: str) -> tuple[str, tuple[str, ...]]:
        # What the planner understands of a caption, and what it does not.
        lexicon = self._model.vocabulary.lexicon
        start = caption.strip()[: lexicon.longest] if lexicon.longest else caption
        unknown = unknown_words(start, lexicon, self._model.spells)
        known = without(start, unknown)
        if lexicon.longest and len(caption.strip()) > lexicon.longest:
            unknown = (f"texts of over {lexicon.longest} characters", *unknown)
        return known, unknown

    def doubts(self, caption: str) -> tuple[str, ...]:
        """A warning for a caption that this planner does not understand, and so leaves as it is."""
        _, unknown = self._understood(caption)
        return self._unlearned("prompt", unknown) if unknown else ()

    def _unlearned(self, field: str, unknown: tuple[str, ...]) -> tuple[str, ...]:
        return (f"{field}: left as it is; {self.name} does not understand {_some(unknown)}",)

    def _with_caption(self, draft: Draft, field: str, caption: str, unknown: tuple[str, ...]) -> Draft:
        written = draft.metadata.caption
        why = self._unlearned(field, unknown) if unknown else ()
        if not why and not _caption(written):
            why = (f"{field}: left as it is; {self.name} wrote {written!r} instead",)
        lost = self._lost(caption, written)
        if not why and lost:
            why = (f"{field}: left as it is; {self.name} dropped {_some(lost)}",)
        kept = replace(draft, metadata=replace(draft.metadata, caption=caption), warnings=why)
        return kept if why else draft

    def _lost(self, caption: str, written: str | None) -> tuple[str, ...]:
        # A planner of all words may say it in other words, or in another language.
        if not self._model.vocabulary.lexicon.words:
            return ()
        return tuple(word for word in lost_words(caption, written or "") if word not in _ARTICLES)

    def _with_lyrics(self, draft: Draft, lyrics: str) -> Draft:
        # A song is sung as its words were written: a draft that loses some is not used.
        lost = lost_words(lyrics, draft.lyrics)
        if not lost:
            return draft
        why = f"{self.name} dropped {_some(lost)}"
        if not self._writes_lyrics:
            why = f"{self.name} writes none"
        warnings = (*draft.warnings, f"lyrics: left as they are; {why}")
        return replace(draft, lyrics=lyrics, warnings=warnings)

    def _turn(self, decided: Metadata) -> Text:
        if self._closed_turn:
            return prompts.closed_turn(decided, self._model.vocabulary.end_of_turn)
        return prompts.open_turn(decided)


def token_sampling(options: PlannerOptions) -> TokenSampling:
    return TokenSampling(
        temperature=options.temperature,
        top_k=options.top_k or 0,
        top_p=min(options.top_p, 1.0),
        repetition_penalty=options.repetition_penalty,
        guidance_scale=options.guidance_scale,
    )


def _some(words: tuple[str, ...]) -> str:
    return ", ".join((*words[:_MOST_NAMED], *("…" for _ in words[_MOST_NAMED : _MOST_NAMED + 1])))


def _caption(written: str | None) -> str | None:
    # Small planners write "170" at times.
    return written if written and any(map(str.isalpha, written)) else None


def _is_guided(options: PlannerOptions) -> bool:
    return options.guidance_scale != _NO_GUIDANCE


def fixed_facts(request: SongRequest) -> Metadata:
    """The user's metadata, without the caption."""
    return Metadata(
        bpm=request.bpm,
        duration=None if request.duration is None else int(request.duration),
        key_scale=request.key_scale,
        language=request.language if request.language_fixed else None,
        time_signature=request.time_signature,
    )
