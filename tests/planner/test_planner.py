from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acestep.domain.draft import DraftRequest, Metadata
from acestep.domain.song import INSTRUMENTAL, LANGUAGES, TIME_SIGNATURES, PlannerOptions, SongRequest
from acestep.errors import PlannerError, PlannerUnavailableError
from acestep.planner import metadata
from acestep.planner.language_model import Generation, TokenSampling
from acestep.planner.lexicon import Lexicon
from acestep.planner.planner import Planner, PlannerCallbacks, token_sampling
from tests.planner.fakes import CODES, WalkingModel, read, write_now

LYRICS = "[Verse]\nla la"
SONG = SongRequest(caption="a pop song", lyrics=LYRICS, language="de", seeds=(7, 8))
DECIDED = replace(SONG, bpm=120, key_scale="F# minor", time_signature="3", duration=30.5)
FACTS = Metadata(120, "a bright pop song", 30, "F# minor", "en", "3")
HEAD = (
    "<|im_start|>system\n# Instruction\nGenerate audio semantic tokens based on the given conditions:\n\n"
    "<|im_end|>\n<|im_start|>user\n"
)
START = "<|im_end|>\n<|im_start|>assistant\n"


def walking(haste: float | None = 0.2, closed_turn: bool = False) -> tuple[Planner, WalkingModel]:
    model = WalkingModel(haste)

    async def generate(
        generation: Generation, on_tokens: Callable[[int], None], cancelled: Callable[[], bool]
    ) -> str:
        assert not cancelled()
        text = write_now(model, generation)
        for step in range(1, len(model.together) + 1):
            on_tokens(step)
        return text

    return Planner(model, generate, closed_turn), model


def saying(text: str) -> Planner:
    async def generate(
        generation: Generation, on_tokens: Callable[[int], None], cancelled: Callable[[], bool]
    ) -> str:
        return text

    return Planner(WalkingModel(), generate)


# Whole requests, at random.
REQUESTS = st.builds(
    SongRequest,
    caption=st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    lyrics=st.sampled_from(["", LYRICS, INSTRUMENTAL]),
    language=st.sampled_from(LANGUAGES),
    language_fixed=st.booleans(),
    bpm=st.none() | st.integers(30, 300),
    key_scale=st.sampled_from([None, "C major", "Bb minor"]),
    time_signature=st.sampled_from([None, *TIME_SIGNATURES]),
    duration=st.none() | st.floats(10, 30),
    seeds=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    planner=st.builds(
        PlannerOptions,
        use_cot_caption=st.booleans(),
        use_cot_language=st.booleans(),
        guidance_scale=st.sampled_from([1.0, 2.5]),
        negative_prompt=st.sampled_from(["NO USER INPUT", "", "noise"]),
    ),
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(REQUESTS, st.floats(10, 40))
async def test_every_plan_keeps_the_users_metadata(request: SongRequest, longest: float) -> None:
    planner, model = walking()
    found = await planner.decide(request, longest)
    assert request.bpm in (None, found.bpm)
    assert request.key_scale in (None, found.key_scale)
    assert request.time_signature in (None, found.time_signature)
    assert found.language == request.language or not request.language_fixed
    assert found.language == request.language or request.planner.use_cot_language
    assert found.duration is not None
    assert found.duration <= longest if request.duration is None else found.duration == int(request.duration)
    assert len(model.generations) <= 1
    seconds = request.duration or float(found.duration)
    sketches = [await planner.sketch(request, found, seconds, seed) for seed in request.seeds]
    assert [len(sketch) for sketch in sketches] == [int(5 * seconds)] * 2
    assert all(0 <= code < CODES for sketch in sketches for code in sketch)


async def test_free_metadata_is_generated_once_with_a_null_prompt_without_caption() -> None:
    planner, model = walking()
    await planner.decide(SONG)
    (generation,) = model.generations
    assert read(generation.prompt) == f"{HEAD}# Caption\na pop song\n\n# Lyric\n{LYRICS}\n{START}"
    assert read(generation.null_prompt) == f"{HEAD}# Lyric\n{LYRICS}\n{START}"
    assert generation.seed == 7


async def test_without_guidance_there_is_no_null_prompt() -> None:
    planner, model = walking()
    request = replace(SONG, planner=PlannerOptions(guidance_scale=1.0))
    await planner.sketch(request, await planner.decide(request), 10.0, 1)
    assert [generation.null_prompt for generation in model.generations] == [None, None]


async def test_nothing_is_generated_if_the_user_gave_all_metadata() -> None:
    planner, model = walking()
    found = await planner.decide(replace(DECIDED, caption=" "))
    assert found == Metadata(120, None, 30, "F# minor", "de", "3")
    assert model.generations == []


@pytest.mark.parametrize("wanted", [True, False])
async def test_caption_and_language_are_generated_only_if_asked(wanted: bool) -> None:
    planner, model = walking()
    options = PlannerOptions(use_cot_caption=wanted, use_cot_language=wanted)
    found = await planner.decide(replace(SONG, seeds=(3,), planner=options))
    assert (found.caption == SONG.caption) is not wanted
    assert (found.language == SONG.language) is not wanted
    assert ("language: " in model.generations[0].grammar) is wanted


@pytest.mark.parametrize("closed", [False, True])
async def test_codes_follow_the_block_and_the_null_prompt_has_an_empty_one(closed: bool) -> None:
    planner, model = walking(closed_turn=closed)
    await planner.sketch(DECIDED, replace(FACTS, duration=99), 30.5, 11)
    (generation,) = model.generations
    after = "\n\n<|im_end|>\n" if closed else "\n\n"
    prompt = f"{HEAD}# Caption\na pop song\n\n# Lyric\n{LYRICS}\n{START}"
    assert read(generation.prompt) == f"{prompt}{metadata.write(FACTS)}{after}"
    assert read(generation.null_prompt) == f"{prompt}<think>\n</think>{after}"
    assert generation.seed == 11
    assert generation.max_tokens == 153


async def test_a_negative_prompt_replaces_the_caption() -> None:
    planner, model = walking()
    request = replace(SONG, planner=PlannerOptions(negative_prompt="harsh noise"))
    await planner.sketch(request, await planner.decide(request), 10.0, 1)
    for generation in model.generations:
        assert f"# Caption\nharsh noise\n\n# Lyric\n{LYRICS}\n" in read(generation.null_prompt)


async def test_progress_rises_to_the_end() -> None:
    planner, _ = walking()
    for call in (
        lambda callbacks: planner.decide(SONG, callbacks=callbacks),
        lambda callbacks: planner.sketch(DECIDED, FACTS, 30.5, 1, callbacks),
        lambda callbacks: planner.draft(DraftRequest("sample", query="la"), callbacks=callbacks),
    ):
        told: list[float] = []
        await call(PlannerCallbacks(told.append))
        assert told == sorted(told)
        assert told[0] > 0.0 and told[-1] == 1.0


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        (PlannerOptions(), TokenSampling(0.85, 0, 0.9, 1.0, 2.5)),
        (PlannerOptions(temperature=0.0, top_k=40, top_p=1.5), TokenSampling(0.0, 40, 1.0, 1.0, 2.5)),
        (PlannerOptions(repetition_penalty=1.2, guidance_scale=1.0), TokenSampling(0.85, 0, 0.9, 1.2, 1.0)),
    ],
)
def test_the_options_become_sampling(options: PlannerOptions, sampling: TokenSampling) -> None:
    assert token_sampling(options) == sampling


@pytest.mark.parametrize(
    ("query", "instrumental", "sung"),
    [
        ("a soft Bengali love song", None, True),
        ("an instrumental for rainy days", None, False),
        ("a slow piano solo", None, False),
        ("a rock song with a guitar solo", None, True),
        ("an instrumental for rainy days", False, True),
        ("a love song", True, False),
    ],
)
async def test_a_sentence_becomes_a_song(query: str, instrumental: bool | None, sung: bool) -> None:
    planner, model = walking()
    fixed = Metadata(bpm=90, key_scale="C minor")
    request = DraftRequest("sample", query=query, instrumental=instrumental, metadata=fixed, seed=5)
    draft = await planner.draft(request, 20.0)
    assert (draft.metadata.bpm, draft.metadata.key_scale) == (90, "C minor")
    assert (draft.metadata.duration or 99) <= 20
    assert (draft.lyrics == INSTRUMENTAL) is not sung
    (generation,) = model.generations
    assert f"{query}\n\ninstrumental: {'false' if sung else 'true'}{START}" in read(generation.prompt)
    assert (generation.seed, generation.null_prompt) == (5, None)


@pytest.mark.parametrize(
    ("query", "given_language", "language"),
    [
        ("a soft Bengali love song", None, "bn"),
        ("a soft Bengali love song", "hi", "hi"),
        ("japanese city pop", None, "ja"),
        ("something in norwegian", None, "no"),
    ],
)
async def test_the_language_is_the_users_or_the_one_the_sentence_names(
    query: str, given_language: str | None, language: str
) -> None:
    planner, _ = walking()
    request = DraftRequest("sample", query=query, metadata=Metadata(language=given_language))
    assert (await planner.compose(request)).metadata.language == language


@pytest.mark.parametrize("lyrics", ["", "[inst]", "[instrumental]", LYRICS])
async def test_formatting_keeps_metadata_and_instrumental(lyrics: str) -> None:
    planner, model = walking()
    fixed = Metadata(time_signature="3", language="ja", duration=25)
    draft = await planner.draft(DraftRequest("format", "Latin pop", lyrics, metadata=fixed))
    kept = draft.metadata
    assert (kept.time_signature, kept.language, kept.duration) == ("3", "ja", 25)
    assert kept.caption
    assert (draft.lyrics == INSTRUMENTAL) is (lyrics != LYRICS)
    assert f"# Caption\nLatin pop\n\n# Lyric\n{lyrics or INSTRUMENTAL}{START}" in read(
        model.generations[0].prompt
    )


SMALL = Lexicon(frozenset(["sad", "piano", "bpm"]), longest=40, writes_lyrics=False)


def small() -> tuple[Planner, WalkingModel]:
    _, model = walking()
    model.lexicon = SMALL

    async def generate(
        generation: Generation, on_tokens: Callable[[int], None], cancelled: Callable[[], bool]
    ) -> str:
        return write_now(model, generation)

    return Planner(model, generate), model


def drafted(caption: str, lyrics: str) -> Planner:
    return saying(
        f"<think>\nbpm: 90\ncaption: {caption}\nduration: 20\nkeyscale: C major\n"
        f"language: en\ntimesignature: 4\n</think>\n\n# Lyric\n{lyrics}"
    )


@pytest.mark.parametrize(
    ("lyrics", "written", "kept"),
    [
        (LYRICS, "[Verse 1]\nLa, la\n\n[Outro]\nooh", None),
        (LYRICS, INSTRUMENTAL, "[Verse]\nla la"),
        (LYRICS, "[Verse]\nla", "[Verse]\nla la"),
        ("夜の歌\n夜の歌", "夜の歌", "夜の歌\n夜の歌"),
    ],
)
async def test_formatting_drops_no_sung_word(lyrics: str, written: str, kept: str | None) -> None:
    draft = await drafted("warm pop", written).format(DraftRequest("format", "pop", lyrics))
    assert draft.lyrics == (kept or written)
    assert draft.metadata.caption == "warm pop"
    assert len(draft.warnings) == (kept is not None)
    assert all(text.startswith("lyrics: left as they are; ") for text in draft.warnings)


SUNG = "[Verse]\none two three four five six\n[Chorus]\nseven eight nine ten eleven Twelve"


@pytest.mark.parametrize(
    ("lyrics", "written", "told"),
    [
        (SUNG, SUNG.replace("three", ""), "three"),
        (SUNG, "[Verse]\ntwelve", "one, two, three, four, five, six, seven, eight, nine, ten, …"),
        (SUNG, SUNG.replace("Twelve", "").replace("one", ""), "one, twelve"),
        ("la la la", "la, la", "la"),
        ("夜の歌", "夜の", "歌"),
        ("Café au lait", "cafe au lait", "café"),
    ],
)
async def test_the_words_that_a_draft_drops_are_named(lyrics: str, written: str, told: str) -> None:
    draft = await drafted("warm pop", written).format(DraftRequest("format", "pop", lyrics))
    assert draft.lyrics == lyrics
    assert draft.warnings == (f"lyrics: left as they are; {WalkingModel.name} dropped {told}",)


@pytest.mark.parametrize("written", ["170", "120 - 4/4"])
async def test_a_caption_without_words_is_none(written: str) -> None:
    draft = await drafted(written, INSTRUMENTAL).format(DraftRequest("format", "a long story"))
    assert draft.metadata.caption == "a long story"
    assert draft.warnings == (f"prompt: left as it is; {WalkingModel.name} wrote {written!r} instead",)


@pytest.mark.parametrize(
    ("caption", "asked", "why"),
    [
        ("R&B, sad piano, 女性ボーカル", "sad piano", "does not understand r, b, 女性ボーカル"),
        ("sad piano " * 9, "sad piano " * 4, "does not understand texts of over 40 characters"),
        ("sad piano, 70 bpm", "sad piano, 70 bpm", "dropped "),
        ("夜の歌", None, "does not understand 夜の歌"),
    ],
)
async def test_a_small_planner_leaves_what_it_does_not_understand(
    caption: str, asked: str | None, why: str
) -> None:
    planner, model = small()
    draft = await planner.format(DraftRequest("format", caption, LYRICS))
    assert (draft.metadata.caption, draft.lyrics) == (caption, LYRICS)
    assert draft.warnings[0].startswith(f"prompt: left as it is; {model.name} {why}")
    prompts = [read(generation.prompt) for generation in model.generations]
    assert len(prompts) == (asked is not None)
    assert all(f"# Caption\n{asked}\n\n# Lyric\n{INSTRUMENTAL}" in prompt for prompt in prompts)
    sample = await planner.compose(DraftRequest("sample", query=caption))
    assert (sample.metadata.caption, sample.lyrics) == (caption.strip(), INSTRUMENTAL)
    assert sample.warnings[0].startswith(f"sample_query: left as it is; {model.name} {why}")
    assert sample.warnings[-1].startswith("lyrics: ")
    decided = await planner.decide(replace(SONG, caption=caption))
    assert decided.caption == caption.strip()


@pytest.mark.parametrize("lyrics", ["", "[Instrumental]", LYRICS])
async def test_lyrics_are_written_or_improved(lyrics: str) -> None:
    planner, model = walking()
    draft = await planner.draft(DraftRequest("lyrics", query="an instrumental for rainy days", lyrics=lyrics))
    prompt = read(model.generations[0].prompt)
    assert draft.lyrics and draft.lyrics != INSTRUMENTAL
    assert ("instrumental: false" in prompt) is (lyrics != LYRICS)
    assert ("# Caption\nan instrumental for rainy days" in prompt) is (lyrics == LYRICS)


async def test_a_planner_without_lyrics_says_so() -> None:
    planner, model = small()
    with pytest.raises(PlannerUnavailableError, match="ACESTEP_LM_MODEL_PATH"):
        await planner.draft(DraftRequest("lyrics", query="sad piano"))
    assert model.generations == []


async def test_the_number_of_codes_gives_the_duration() -> None:
    planner, model = walking()
    draft = await planner.draft(DraftRequest("understand", audio_codes=(1, 2) * 60))
    assert draft.metadata.duration == 24
    assert draft.metadata.caption and draft.lyrics
    assert "<|audio_code_1|><|audio_code_2|>" in read(model.generations[0].prompt)


async def test_text_against_the_grammar_is_an_error() -> None:
    with pytest.raises(PlannerError, match="2 audio codes, not 50"):
        await saying("<|audio_code_1|><|audio_code_2|>").sketch(SONG, FACTS, 10.0, 1)
    with pytest.raises(PlannerError, match="something else"):
        await saying("la <|audio_code_2|>").sketch(SONG, FACTS, 10.0, 1)
    with pytest.raises(PlannerError, match="no readable metadata"):
        await saying("la").decide(SONG)


def test_its_name_is_the_models() -> None:
    assert walking()[0].name == WalkingModel.name
