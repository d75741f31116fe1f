"""Songs on paper: better captions and lyrics, and what a song is."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acestep.domain.draft import Draft, DraftRequest, Metadata
from acestep.domain.models import ModelState
from acestep.domain.song import MAX_SEED, PlannerOptions
from acestep.errors import JobCancelledError, PlannerError, PlannerUnavailableError, UnusableAudioError
from acestep.jobs.worker import Cancelled
from acestep.rest.deps import provide
from acestep.rest.envelope import Envelope
from acestep.rest.response.schemas import DraftAnswer
from tests.rest.conftest import (
    CONFIG,
    PLANNER,
    Facts,
    FakeWorker,
    Serve,
    assert_error,
)

DECIDED = Metadata(120, "Bright city pop with brass", 95, "F# minor", "ja", "4")
BOTH = pytest.mark.parametrize("path", ["/format_input", "/v1/understand", "/v1/create_sample", "/v1/lyrics"])


async def ideas(request: DraftRequest, cancelled: Cancelled) -> Draft:
    """A planner that decides everything, whatever it is told to keep."""
    return Draft(DECIDED, "[Verse]\nCity lights")


def planner(**changes: Any) -> FakeWorker:
    return FakeWorker(**{"planner_info": PLANNER, "drafter": ideas, **changes})


def body_for(path: str) -> dict[str, Any]:
    return {"audio_code_string": "1 2 3"} if path == "/v1/understand" else {"prompt": "pop"}


class TestFormatting:
    async def test_the_answer(self, serve: Serve):
        async with serve(worker=planner()) as server:
            answer = await server.client.post("/format_input", json={"prompt": "pop", "lyrics": "la"})
            assert answer.status_code == 200, answer.text
            body = answer.json()
            Envelope[DraftAnswer].model_validate(body, strict=True)
            assert (body["code"], body["extra"]) == (200, None)
            assert body["data"] == {
                "caption": "Bright city pop with brass",
                "lyrics": "[Verse]\nCity lights",
                "bpm": 120,
                "key_scale": "F# minor",
                "time_signature": "4",
                "duration": 95,
                "vocal_language": "ja",
            }

    async def test_what_the_planner_is_asked(self, serve: Serve):
        worker = planner()
        async with serve(worker=worker) as server:
            sent = {
                "prompt": "pop",
                "lyrics": "la",
                "temperature": 0.6,
                "seed": 7,
                "lm_top_k": 0,
                "lm_top_p": 0.8,
                "lm_cfg_scale": 1.0,
                "lm_negative_prompt": "noise",
                "param_obj": {
                    "bpm": 90,
                    "key": "c minor",
                    "time_signature": "3/4",
                    "duration": 44.6,
                    "language": "fr",
                },
            }
            assert (await server.client.post("/format_input", json=sent)).status_code == 200
        assert worker.asked == [
            DraftRequest(
                kind="format",
                caption="pop",
                lyrics="la",
                metadata=Metadata(90, None, 45, "C minor", "fr", "3"),
                options=PlannerOptions(
                    temperature=0.6, guidance_scale=1.0, top_p=0.8, negative_prompt="noise"
                ),
                seed=7,
            )
        ]

    async def test_nothing_is_fixed_that_was_not_sent(self, serve: Serve):
        worker = planner()
        async with serve(worker=worker) as server:
            await server.client.post("/format_input", json={"prompt": "pop"})
            await server.client.post(
                "/format_input", json={"prompt": "pop", "vocal_language": "unknown", "bpm": "N/A"}
            )
        assert [asked.metadata for asked in worker.asked] == [Metadata(), Metadata()]
        assert worker.asked[0].options == PlannerOptions()
        assert all(0 <= asked.seed <= MAX_SEED for asked in worker.asked)
        assert worker.asked[0].seed != worker.asked[1].seed

    @pytest.mark.parametrize(
        "place", ["top", "param_obj", "param_obj as text", "metas", "aliases", "form", "multipart"]
    )
    async def test_values_of_the_client_win(self, serve: Serve, place: str):
        values = {
            "bpm": 90,
            "key_scale": "C minor",
            "time_signature": "3",
            "duration": 44.5,
            "vocal_language": "fr",
        }
        spelled = {
            "bpm": 90,
            "keyscale": "C minor",
            "timesignature": 3,
            "audioDuration": 44.5,
            "language": "fr",
        }
        requests: dict[str, dict[str, Any]] = {
            "top": {"json": {"prompt": "pop", **values}},
            "param_obj": {"json": {"prompt": "pop", "param_obj": values}},
            "param_obj as text": {"json": {"prompt": "pop", "param_obj": json.dumps(values)}},
            "metas": {"json": {"prompt": "pop", "metas": values}},
            "aliases": {"json": {"caption": "pop", **spelled}},
            "form": {"data": {"prompt": "pop", "param_obj": json.dumps(values)}},
            "multipart": {"files": {"prompt": (None, "pop"), "param_obj": (None, json.dumps(values))}},
        }
        async with serve(worker=planner()) as server:
            answer = await server.client.post("/format_input", **requests[place])
            data = answer.json()["data"]
            assert {name: data[name] for name in values} == values
            assert data["caption"] == DECIDED.caption

    async def test_what_neither_decided(self, serve: Serve):
        async def nothing(request: DraftRequest, cancelled: Cancelled) -> Draft:
            return Draft(Metadata(), "")

        async with serve(worker=planner(drafter=nothing)) as server:
            answer = await server.client.post("/format_input", json={"prompt": "pop", "lyrics": "la"})
            assert answer.json()["data"] == {
                "caption": "pop",
                "lyrics": "la",
                "bpm": None,
                "key_scale": "",
                "time_signature": "",
                "duration": None,
                "vocal_language": "unknown",
            }

    @pytest.mark.parametrize("fields", [{"prompt": "pop"}, {"lyrics": "la"}])
    async def test_one_of_the_two_is_enough(self, serve: Serve, fields: dict[str, str]):
        async with serve(worker=planner()) as server:
            assert (await server.client.post("/format_input", json=fields)).status_code == 200

    @pytest.mark.parametrize("fields", [{}, {"prompt": " ", "lyrics": ""}, {"bpm": 90}])
    async def test_nothing_to_format(self, serve: Serve, fields: dict[str, Any]):
        worker = planner()
        async with serve(worker=worker) as server:
            answer = await server.client.post("/format_input", json=fields)
            body = assert_error(answer, 422, "prompt: ", "allowed: a caption, or else lyrics")
            assert body["extra"]["field"] == "prompt"
        assert worker.asked == []

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"temperature": 3}, "temperature"),
            ({"lm_temperature": "hot"}, "temperature"),
            ({"param_obj": {"bpm": 1}}, "bpm"),
            ({"param_obj": "[1]"}, "param_obj"),
            ({"param_obj": {"key": "H major"}}, "key_scale"),
            ({"vocal_language": "klingon"}, "vocal_language"),
            ({"lyrics": ["la"]}, "lyrics"),
            ({"prompt": "x" * 10_001}, "prompt"),
            ({"seed": -2}, "seed"),
            ({"lm_top_p": -2}, "lm_top_p"),
        ],
    )
    async def test_bad_values(self, serve: Serve, fields: dict[str, Any], name: str):
        async with serve(worker=planner()) as server:
            answer = await server.client.post("/format_input", json={"prompt": "pop", **fields})
            assert assert_error(answer, 422, f"{name}: ", "allowed: ")["extra"]["field"] == name

    async def test_a_file(self, serve: Serve):
        async with serve(worker=planner()) as server:
            files: Any = {"src_audio": ("a.wav", b"RIFF")}
            answer = await server.client.post("/format_input", data={"prompt": "pop"}, files=files)
            assert_error(answer, 422, "src_audio: 'a.wav'", "Only text can be sent here")


class TestUnderstanding:
    @pytest.mark.parametrize(
        "name", ["src_audio", "ctx_audio", "audio", "file", "reference_audio", "ref_audio"]
    )
    async def test_audio(self, serve: Serve, name: str):
        heard: list[tuple[str, bytes]] = []

        async def listen(request: DraftRequest, cancelled: Cancelled) -> Draft:
            path = Path(request.audio_path)
            heard.append((path.suffix, await asyncio.to_thread(path.read_bytes)))
            return await ideas(request, cancelled)

        worker = planner(drafter=listen)
        async with serve(worker=worker) as server:
            files: Any = {name: ("My song.WAV", b"RIFFsound")}
            answer = await server.client.post("/v1/understand", files=files, data={"temperature": "0.3"})
            assert answer.status_code == 200, answer.text
            Envelope[DraftAnswer].model_validate(answer.json(), strict=True)
            assert answer.json()["data"]["caption"] == DECIDED.caption
            assert set(answer.json()["data"]) == set(DraftAnswer.model_fields)
            assert list(server.uploads.iterdir()) == []
        assert heard == [(".wav", b"RIFFsound")]
        (asked,) = worker.asked
        assert (asked.kind, asked.audio_codes, asked.options.temperature) == ("understand", (), 0.3)

    async def test_what_a_file_lacks_is_said(self, serve: Serve):
        said = "{} is damaged: 5.00 of 6.00 s can be read"
        async with serve(worker=planner()) as server:
            services = server.app.state.services
            provide(
                server.app, replace(services, probe=lambda path: Facts(warnings=(said.format(path.name),)))
            )
            answer = await server.client.post("/v1/understand", files={"src_audio": ("My song.wav", b"RIFF")})
            assert f"src_audio: {said.format('My song.wav')}" in answer.json()["extra"]["warnings"]

    @pytest.mark.parametrize("form", ["json", "data"])
    async def test_codes(self, serve: Serve, form: str):
        worker = planner()
        async with serve(worker=worker) as server:
            sent: Any = {form: {"audio_codes": "<|audio_code_5|><|audio_code_6|>", "seed": 3}}
            answer = await server.client.post("/v1/understand", **sent)
            assert answer.json()["data"]["lyrics"] == "[Verse]\nCity lights"
        assert worker.asked == [DraftRequest(kind="understand", audio_codes=(5, 6), seed=3)]

    @pytest.mark.parametrize("fields", [{}, {"audio_code_string": ""}])
    async def test_nothing_to_understand(self, serve: Serve, fields: dict[str, Any]):
        async with serve(worker=planner()) as server:
            answer = await server.client.post("/v1/understand", json=fields)
            body = assert_error(answer, 422, "src_audio: ", "an audio file, or else audio_code_string")
            assert body["extra"]["field"] == "src_audio"

    async def test_audio_and_codes(self, serve: Serve):
        async with serve(worker=planner()) as server:
            files: Any = {"audio": ("a.wav", b"RIFF")}
            answer = await server.client.post("/v1/understand", files=files, data={"audio_codes": "1,2"})
            assert_error(answer, 422, "audio_code_string: '2 codes'", "Send one of the two")
            assert list(server.uploads.iterdir()) == []

    async def test_two_files(self, serve: Serve):
        async with serve(worker=planner()) as server:
            files: Any = {"src_audio": ("a.wav", b"RIFF"), "reference_audio": ("b.wav", b"RIFF")}
            answer = await server.client.post("/v1/understand", files=files)
            assert_error(answer, 422, "allowed: one audio file")
            assert list(server.uploads.iterdir()) == []

    async def test_what_is_no_audio(self, serve: Serve):
        worker = planner()
        async with serve(worker=worker) as server:
            files: Any = {"file": ("a.mp3", b"text")}
            assert_error(
                await server.client.post("/v1/understand", files=files),
                415,
                "src_audio: the file is not audio",
            )
            assert list(server.uploads.iterdir()) == []
        assert worker.asked == []

    async def test_what_turns_out_to_be_no_audio(self, serve: Serve):
        async def choke(request: DraftRequest, cancelled: Cancelled) -> Draft:
            raise UnusableAudioError("The file breaks off after 3 s.")

        async with serve(worker=planner(drafter=choke)) as server:
            files: Any = {"file": ("a.wav", b"RIFF")}
            assert_error(await server.client.post("/v1/understand", files=files), 415, "breaks off after 3 s")
            assert list(server.uploads.iterdir()) == []

    @pytest.mark.parametrize("path", ["/etc/passwd", "song.wav"])
    async def test_a_path_of_this_machine(self, serve: Serve, path: str):
        async with serve(worker=planner()) as server:
            answer = await server.client.post("/v1/understand", json={"src_audio_path": path})
            assert_error(answer, 422, "src_audio_path: ", "Upload the file as src_audio")

    async def test_a_file_in_a_folder_that_may_be_named(self, serve: Serve, tmp_path: Path):
        (tmp_path / "song.wav").write_bytes(b"RIFF")
        worker = planner()
        async with serve(replace(CONFIG, audio_roots=(tmp_path,)), worker=worker) as server:
            answer = await server.client.post("/v1/understand", json={"src_audio_path": "song.wav"})
            assert answer.status_code == 200, answer.text
            assert worker.asked[0].audio_path == str(tmp_path / "song.wav")
            files: Any = {"src_audio": ("a.wav", b"RIFF")}
            both = await server.client.post(
                "/v1/understand", files=files, data={"src_audio_path": "song.wav"}
            )
            assert_error(both, 422, "src_audio_path: ", "Send one of the two")
        assert (tmp_path / "song.wav").exists()

    async def test_bad_codes(self, serve: Serve):
        async with serve(worker=planner()) as server:
            answer = await server.client.post("/v1/understand", json={"audio_codes": "do re mi"})
            body = assert_error(answer, 422, "audio_code_string: 'do re mi'", "<|audio_code_12|>")
            assert body["extra"]["field"] == "audio_code_string"


@BOTH
class TestBoth:
    @pytest.mark.parametrize("state", ["absent", "failed"])
    async def test_no_planner(self, serve: Serve, path: str, state: ModelState):
        info = replace(PLANNER, state=state, detail="Its folder is empty. Set ACESTEP_LM_MODEL_PATH.")
        worker = planner(planner_info=info)
        async with serve(worker=worker) as server:
            for fields in (body_for(path), {}):
                answer = await server.client.post(path, json=fields)
                assert_error(answer, 503, "needs the planner", "Set ACESTEP_LM_MODEL_PATH.")
        assert worker.asked == []

    async def test_a_planner_that_is_still_loaded_is_waited_for(self, serve: Serve, path: str):
        async with serve(worker=planner(planner_info=replace(PLANNER, state="loading"))) as server:
            assert (await server.client.post(path, json=body_for(path))).status_code == 200

    @pytest.mark.parametrize(
        ("error", "status", "words"),
        [
            (
                PlannerUnavailableError("No memory for it. Set ACESTEP_LM_MODEL_PATH."),
                503,
                "No memory for it.",
            ),
            (PlannerError("The lyrics are longer than the planner can read."), 500, "longer than"),
            (JobCancelledError("The server stops."), 503, "The server stops."),
            (ValueError("/secret/path"), 500, "Internal server error"),
        ],
    )
    async def test_errors_of_the_planner(
        self, serve: Serve, path: str, error: Exception, status: int, words: str
    ):
        async def fail(request: DraftRequest, cancelled: Cancelled) -> Draft:
            raise error

        async with serve(worker=planner(drafter=fail)) as server:
            answer = await server.client.post(path, json=body_for(path))
            assert_error(answer, status, words)
            assert "secret" not in answer.text

    async def test_warnings_stand_beside_the_answer(self, serve: Serve, path: str):
        async with serve(worker=planner()) as server:
            sent = {**body_for(path), "thinking": True, "lm_model_path": "x", "constrained_decoding": False}
            body = (await server.client.post(path, json=sent)).json()
            first, second, third = sorted(body["extra"]["warnings"])
            assert first.startswith("'thinking': there is no such field")
            assert second.startswith("constrained_decoding: the server decides this")
            assert third.startswith("lm_model_path: 'x' is not loaded here")

    async def test_strict(self, serve: Serve, path: str):
        worker = planner()
        async with serve(replace(CONFIG, strict=True), worker=worker) as server:
            assert_error(await server.client.post(path, json={**body_for(path), "promt": "x"}), 422, "promt")
            assert worker.asked == []
            assert (await server.client.post(path, json=body_for(path))).status_code == 200

    async def test_key(self, serve: Serve, path: str):
        async with serve(replace(CONFIG, api_key="k"), worker=planner()) as server:
            assert_error(await server.client.post(path, json=body_for(path)), 401)
            sent = {**body_for(path), "ai_token": "k"}
            answer = await server.client.post(path, json=sent)
            assert (answer.status_code, answer.json()["extra"]) == (200, None)

    @pytest.mark.parametrize("body", ["{", "[1]", b"\xff"])
    async def test_broken_bodies(self, serve: Serve, path: str, body: Any):
        async with serve(worker=planner()) as server:
            headers = {"Content-Type": "application/json"}
            assert_error(await server.client.post(path, content=body, headers=headers), 400)


pytestmark = pytest.mark.asyncio(loop_scope="module")
