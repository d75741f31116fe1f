"""What becomes of a request for songs where there is a planner, or where audio codes come along."""

from dataclasses import replace
from typing import Any, get_args

import pytest

from acestep.domain.models import ModelState, PlannerInfo
from acestep.domain.song import PlannerOptions, SongRequest
from acestep.errors import InvalidFieldError, PlannerUnavailableError
from acestep.rest.errors import StrictError
from acestep.rest.request.schemas import GenerateTask, read_task
from acestep.rest.request.wire_types import Support, notes_of
from acestep.rest.spelling import code_string
from tests.rest.conftest import BASE, NO_PLANNER, PLANNER, TURBO, FakeWorker, Serve, assert_error
from tests.rest.request.accepting import accept
from tests.rest.test_tasks import only_item
from tests.rest.values import FIELDS, example

USES = {"thinking": True, "sample_mode": True, "sample_query": "a song about rain", "use_format": True}
CODES = tuple(range(50, 110))  # twelve seconds


def planned(planner: PlannerInfo = PLANNER, /, **fields: Any) -> SongRequest:
    return accept(fields, (TURBO, BASE), planner)


class TestUses:
    def test_the_planner_fields_are_these(self):
        needing = {
            name
            for name in FIELDS
            if notes_of(GenerateTask.model_fields[name])["x-support"] == Support.PLANNER.value
        }
        assert needing == {*USES, "analysis_only", "full_analysis_only"}

    @pytest.mark.parametrize("state", ["ready", "loading", "downloading"])
    def test_everything_is_passed_on(self, state: ModelState):
        request = planned(
            replace(PLANNER, state=state),
            **USES,
            use_cot_caption=True,
            use_cot_language=False,
            lm_temperature=0.5,
            lm_cfg_scale=1.5,
            lm_top_k=40,
            lm_top_p=0.8,
            lm_repetition_penalty=1.1,
            lm_negative_prompt="noise",
        )
        options = (0.5, 1.5, 40, 0.8, 1.1, "noise")
        assert request.planner == PlannerOptions(True, True, "a song about rain", True, True, False, *options)
        assert request.warnings == ()

    @pytest.mark.parametrize("name", USES)
    @pytest.mark.parametrize("state", ["absent", "failed"])
    def test_without_one_they_are_refused_and_it_is_said_why(self, name: str, state: ModelState):
        planner = PlannerInfo("lm", state, "Its folder is empty. Set ACESTEP_LM_MODEL_PATH.")
        with pytest.raises(PlannerUnavailableError) as caught:
            planned(planner, **{name: USES[name]})
        assert str(caught.value).startswith(f"{name}: needs the planner (the 5 Hz language model).")
        assert "Its folder is empty. Set ACESTEP_LM_MODEL_PATH. Or leave it out" in str(caught.value)

    def test_all_that_are_refused_are_named(self):
        with pytest.raises(PlannerUnavailableError, match=r"thinking, use_format|use_format, thinking"):
            planned(NO_PLANNER, thinking=True, use_format=True)

    def test_every_state_is_usable_or_not(self):
        usable = {state for state in get_args(ModelState) if replace(PLANNER, state=state).is_usable}
        assert usable == {"ready", "loading", "downloading", "on_disk"}


class TestOneThatOnlyDoesWhatNeedsIt:
    PLANNER = replace(PLANNER, state="on_disk", only_if_needed=True)

    def test_whoever_wants_more_of_it_is_told(self):
        assert planned(self.PLANNER).warnings == ()
        (warning,) = planned(self.PLANNER, use_cot_caption=True).warnings
        assert warning.startswith(f"use_cot_caption: skipped, since {PLANNER.name} only does what cannot")
        assert "ACESTEP_INIT_LLM=true" in warning

    @pytest.mark.parametrize("name", USES)
    def test_what_needs_it_gets_all_of_it(self, name: str):
        request = planned(self.PLANNER, **{name: USES[name]}, use_cot_caption=True, lm_temperature=0.5)
        assert (request.warnings, request.planner.temperature) == ((), 0.5)


class TestWhichPlanner:
    @pytest.mark.parametrize(
        "path", [PLANNER.name, f"checkpoints/{PLANNER.name}", f"/models/{PLANNER.name}/"]
    )
    def test_the_one_that_is_there(self, path: str):
        assert planned(lm_model_path=path).warnings == ()

    def test_another_one(self):
        (warning,) = planned(lm_model_path="acestep-5Hz-lm-4B").warnings
        assert warning == (
            "lm_model_path: 'acestep-5Hz-lm-4B' is not loaded here; acestep-5Hz-lm-1.7B is used instead"
        )

    def test_the_job_asks_for_the_one_that_was_there_to_be_had(self):
        assert planned(lm_model_path=f"/models/{PLANNER.name}").planner.model == PLANNER.name
        assert planned(lm_model_path="acestep-5Hz-lm-4B").planner.model == ""
        assert planned().planner.model == ""

    def test_none_at_all(self):
        (warning,) = planned(NO_PLANNER, lm_model_path="acestep-5Hz-lm-4B").warnings
        assert warning.endswith("no planner is loaded on this server")

    def test_a_strict_server_refuses_another_one(self):
        with pytest.raises(StrictError) as caught:
            accept({"lm_model_path": "x"}, (TURBO,), PLANNER, strict=True)
        assert caught.value.field == "lm_model_path"

    def test_how_it_runs_is_the_servers_choice(self):
        assert planned(lm_backend="pt").warnings == ()
        (warning,) = planned(lm_backend="mlx").warnings
        assert warning.startswith("lm_backend: the server decides this")


class TestLanguage:
    @pytest.mark.parametrize("name", ["vocal_language", "language", "vocalLanguage"])
    @pytest.mark.parametrize("code", ["en", "ja"])
    def test_a_language_that_was_sent_is_fixed(self, name: str, code: str):
        request = planned(PLANNER, **{name: code})
        assert (request.language, request.language_fixed) == (code, True)

    def test_in_metas_too(self):
        assert planned(metas={"language": "fr"}).language_fixed is True

    @pytest.mark.parametrize("fields", [{}, {"vocal_language": ""}, {"vocal_language": None}])
    def test_the_default_is_not(self, fields: dict[str, Any]):
        request = planned(**fields)
        assert (request.language, request.language_fixed) == ("en", False)

    def test_unknown_leaves_it_open(self):
        request = planned(vocal_language="unknown")
        assert (request.language, request.language_fixed) == ("unknown", False)


class TestReadingCodes:
    @pytest.mark.parametrize(
        "value",
        [
            "<|audio_code_12|><|audio_code_7|><|audio_code_63999|>",
            " <|audio_code_12|> <|audio_code_7|>,\n<|audio_code_63999|> ",
            "12,7,63999",
            "12 7 63999",
            "12, 7\t63999,",
            [12, 7, 63999],
            ["12", "7", "63999"],
            ["<|audio_code_12|><|audio_code_7|>", "<|audio_code_63999|>"],
            ["12, 7", 63999],
            "[12, 7, 63999]",
            '["<|audio_code_12|>", "7 63999"]',
        ],
    )
    @pytest.mark.parametrize("name", ["audio_code_string", "audioCodeString", "audio_codes"])
    def test_spellings(self, name: str, value: Any):
        task, _ = read_task({name: value})
        assert task.audio_code_string == (12, 7, 63999)

    @pytest.mark.parametrize("value", ["", " ", [], [""], None, "[]"])
    def test_none(self, value: Any):
        assert planned(audio_code_string=value).audio_codes == ()

    @pytest.mark.parametrize(
        "value",
        [
            "hello",
            "<|audio_code_|>",
            "<|audio_code_-1|>",
            "<|audio_code_1|",
            "<|audio_code_1.5|>",
            "<|audio_code_<|audio_code_1|>|>",
            "<|image_code_1|>",
            "1;2",
            "-5",
            "1.5",
            [1.5],
            [-1],
            [True],
            [None],
            [[1]],
            {"a": 1},
            True,
            "1234567",
            "9" * 5_000,
            "١٢",
            "[1",
            [1] * 3_001,
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_what_are_none(self, value: Any):
        with pytest.raises(
            InvalidFieldError, match=r"^audio_code_string: .*allowed: audio codes like"
        ) as caught:
            planned(audio_code_string=value)
        assert caught.value.field == "audio_code_string"
        assert len(str(caught.value)) < 500

    def test_what_results_carry_can_be_sent_back(self):
        assert planned(audio_codes=code_string(CODES)).audio_codes == CODES


class TestCodes:
    @pytest.mark.parametrize("planner", [PLANNER, NO_PLANNER])
    def test_they_give_the_duration(self, planner: PlannerInfo):
        request = planned(planner, audio_code_string=list(CODES))
        assert (request.audio_codes, request.duration, request.warnings) == (CODES, 12.0, ())

    @pytest.mark.parametrize("duration", [11.8, 12, 12.2])
    def test_a_duration_that_fits_to_one_code_counts(self, duration: float):
        request = planned(audio_code_string=list(CODES), audio_duration=duration)
        assert request.duration == duration

    @pytest.mark.parametrize("duration", [11.7, 12.3, 10, 200])
    def test_of_a_duration_that_does_not_the_codes_win(self, duration: float):
        request = planned(audio_code_string=list(CODES), audio_duration=duration)
        assert request.duration == 12.0
        assert request.warnings == (
            f"audio_duration: the 60 codes in audio_code_string last 12 s; {duration:g} is not used",
        )

    def test_an_automatic_duration_is_none_that_was_sent(self):
        assert planned(audio_code_string=list(CODES), audio_duration=-1).duration == 12.0

    def test_fewer_than_the_shortest_song_has(self):
        with pytest.raises(
            InvalidFieldError, match=r"'49 codes' .* allowed: 50 to 3000 codes, 5 a second"
        ) as caught:
            planned(audio_code_string=[1] * 49)
        assert caught.value.field == "audio_code_string"
        assert planned(audio_code_string=[1] * 50).duration == 10.0

    def test_longer_than_this_machine_can(self):
        request = planned(audio_code_string=list(range(1_500)))
        assert (request.duration, request.audio_codes) == (240.0, tuple(range(1_200)))
        (warning,) = request.warnings
        assert "300 became 240" in warning

    def test_codes_that_the_model_does_not_have(self):
        small = replace(TURBO, code_count=512)
        assert accept({"audio_codes": [511] * 50}, (small,), NO_PLANNER).audio_codes == (511,) * 50
        with pytest.raises(InvalidFieldError, match=r"512 .*allowed: codes from 0 to 511") as caught:
            accept({"audio_codes": [1] * 49 + [512]}, (small,), NO_PLANNER)
        assert caught.value.field == "audio_code_string"

    @pytest.mark.parametrize("planner", [PLANNER, NO_PLANNER])
    def test_there_is_nothing_left_to_think(self, planner: PlannerInfo):
        request = planned(planner, audio_code_string=list(CODES), thinking=True)
        assert (request.planner.thinking, request.audio_codes) == (False, CODES)
        (warning,) = request.warnings
        assert warning.startswith("thinking: audio_code_string brings the audio codes along")

    def test_other_uses_still_need_the_planner(self):
        with pytest.raises(PlannerUnavailableError, match=r"^use_format: "):
            planned(NO_PLANNER, audio_code_string=list(CODES), thinking=True, use_format=True)


class TestOverHttp:
    async def test_a_request_with_everything_is_queued(self, serve: Serve):
        async with serve(worker=FakeWorker(planner_info=PLANNER)) as server:
            sent = {name: example(name) for name in USES}
            request = await server.submitted(**sent, audio_duration=60)
            assert (request.planner.thinking, request.planner.use_format) == (True, True)
            assert request.planner.sample_query == example("sample_query")

    async def test_it_is_refused_where_there_is_none(self, serve: Serve):
        async with serve() as server:
            answer = await server.client.post("/release_task", json={"thinking": True, "sample_mode": True})
            assert_error(answer, 503, "thinking", "sample_mode", "Set ACESTEP_INIT_LLM=true")
            assert (await server.queue.stats()).total == 0

    @pytest.mark.parametrize("form", ["json", "data"])
    async def test_codes_survive_the_queue_and_come_back(self, serve: Serve, form: str):
        async with serve() as server:
            sent: Any = {form: {"audio_code_string": code_string(CODES), "batch_size": "1"}}
            answer = await server.client.post("/release_task", **sent)
            job = await server.finish_next()
            assert job.request.audio_codes == CODES
            (entry,) = await server.query(answer.json()["data"]["task_id"])
            item = only_item(entry)
            assert item["audio_codes"] == code_string(CODES)
            assert item["audio_codes"].startswith("<|audio_code_50|><|audio_code_51|>")
            assert "audio codes: 60" in item["generation_info"]

    async def test_without_codes_the_key_is_there_and_empty(self, serve: Serve):
        async with serve() as server:
            task_id = await server.release(batch_size=1)
            assert only_item((await server.query(task_id))[0])["audio_codes"] == ""
            await server.finish_next()
            assert only_item((await server.query(task_id))[0])["audio_codes"] == ""

    async def test_what_the_planner_decided_is_in_the_result(self, serve: Serve):
        async with serve(worker=FakeWorker(planner_info=PLANNER)) as server:
            task_id = await server.release(prompt="pop", lyrics="la", thinking=True, batch_size=1)
            decided = {
                "caption": "Bright pop with brass",
                "lyrics": "[Verse]\nLa la",
                "language": "fr",
                "bpm": 117,
                "key_scale": "Eb major",
                "time_signature": "3",
                "duration": 41.0,
                "audio_codes": CODES,
            }
            await server.finish_next(lm_model=PLANNER.name, decided=decided)
            item = only_item((await server.query(task_id))[0])
            assert (item["prompt"], item["lyrics"]) == ("Bright pop with brass", "[Verse]\nLa la")
            assert item["metas"] == {
                "bpm": 117,
                "duration": 41.0,
                "genres": "N/A",
                "keyscale": "Eb major",
                "timesignature": "3",
                "prompt": "pop",
                "lyrics": "la",
            }
            assert item["lm_model"] == PLANNER.name
            lines = item["generation_info"].splitlines()
            assert f"- planner: {PLANNER.name}" in lines
            assert (
                "- metadata: bpm: 117, key: Eb major, time signature: 3, duration: 41 s, language: fr"
                in lines
            )
            assert "- render: 1.50 s" in lines
