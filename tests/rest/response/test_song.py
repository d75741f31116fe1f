"""A recipe says all that was decided: to plan it again gives the same plan, and no warning."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from acestep.domain.analysis import Analysis, Loudness, LyricTimes, Stem, TimedLine, TimedWord
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import (
    AdapterUse,
    Retake,
    Sampling,
    Song,
    SongPlan,
    SongRequest,
    Tuning,
    WaveletCorrection,
)
from acestep.engine.planning import plan_songs, with_source
from acestep.errors import InvalidFieldError
from acestep.limits import BASE_TASKS, uses_planner
from acestep.rest.request.sounds import PATHS, Sound
from acestep.rest.request.task_rules import users
from acestep.rest.response.song import lrc, recipe
from tests.rest.conftest import BASE, NO_PLANNER, PLANNER, TURBO, FakeWorker, Serve, Server
from tests.rest.request.accepting import COMBINATIONS, SONG_FIELDS, accept, ask, song_for, value_of
from tests.rest.test_tasks import only_item

MODELS = (TURBO, BASE)
# Everything is another value than the one that is taken where a request says nothing.
PLAN = SongPlan(
    caption="A quiet\nsong, 静か",
    lyrics="[Verse]\nla  la\n\n",
    language="ja",
    duration=32.4,
    seed=2**32 - 1,
    instruction="Compose a song about the sea:",
    sampling=Sampling(
        steps=31,
        guidance_scale=3.7,
        shift=2.5,
        cfg_interval=(0.15, 0.85),
        infer_method="ode",
    ),
    bpm=97,
    key_scale="F# minor",
    time_signature="6",
    adapters=(),
)
TIMES = (1.0, 0.7, 0.30000000000000004, 0.1)


def turbo(**changes: Any) -> Sampling:
    return replace(Sampling(steps=8, guidance_scale=1.0, shift=3.0), **changes)


VARIANTS = {
    "plain": (PLAN, BASE),
    "timesteps": (replace(PLAN, sampling=replace(PLAN.sampling, steps=50, shift=1.0, timesteps=TIMES)), BASE),
    "stochastic": (replace(PLAN, sampling=replace(PLAN.sampling, shift=1.0, infer_method="sde")), BASE),
    "tuned": (
        replace(
            PLAN,
            sampling=replace(
                PLAN.sampling,
                tuning=Tuning(
                    "heun",
                    momentum=-0.5,
                    eta=0.25,
                    norm_limit=4.0,
                    velocity_limit=2.5,
                    smoothing=0.125,
                    latent_scale=0.9,
                    latent_shift=-0.125,
                ),
            ),
        ),
        BASE,
    ),
    "angular": (
        replace(
            PLAN,
            sampling=replace(
                PLAN.sampling,
                tuning=Tuning(
                    guidance="adg_w_norm", angle_limit=0.25, correction=WaveletCorrection("low", 0.125)
                ),
            ),
        ),
        BASE,
    ),
    "retake": (replace(PLAN, retake=Retake(8, 0.375)), BASE),
    "codes": (replace(PLAN, duration=10.1, audio_codes=tuple(range(50, 0, -1))), BASE),
    "nothing decided": (
        replace(PLAN, caption="", lyrics="[Instrumental]", bpm=None, key_scale=None, time_signature=None),
        BASE,
    ),
    "default instruction": (
        replace(PLAN, instruction="Fill the audio semantic mask based on the given conditions:"),
        BASE,
    ),
    "unknown language": (replace(PLAN, language="unknown"), BASE),
    "turbo": (replace(PLAN, sampling=turbo()), TURBO),
    "turbo, fewer steps": (replace(PLAN, sampling=turbo(steps=5, shift=2.0, infer_method="sde")), TURBO),
    "turbo, timesteps": (replace(PLAN, sampling=turbo(timesteps=TIMES)), TURBO),
}


def again(plan: SongPlan, model: ModelInfo, planner: PlannerInfo = NO_PLANNER) -> SongRequest:
    """What the recipe of a song asks for, by way of JSON."""
    song = Song("0.flac", plan, "flac", model.name)
    return accept(json.loads(json.dumps(recipe(song, SongRequest()))), MODELS, planner, strict=True)


@pytest.mark.parametrize(("plan", "model"), VARIANTS.values(), ids=VARIANTS)
def test_the_plan_again(plan: SongPlan, model: ModelInfo):
    request = again(plan, model)
    assert request.warnings == ()
    assert (request.model, request.audio_format) == (model.name, "flac")
    assert plan_songs(request, model) == (plan,)


def test_a_planner_has_nothing_to_add():
    plan, _ = VARIANTS["nothing decided"]
    assert not uses_planner(again(plan, BASE, PLANNER))


@pytest.mark.parametrize(
    ("uses", "named"), [((AdapterUse("city-pop", 0.75),), [{"name": "city-pop", "scale": 0.75}]), ((), [])]
)
def test_adapters(uses: tuple[AdapterUse, ...], named: list[dict[str, Any]]):
    body = recipe(Song("0.flac", replace(PLAN, adapters=uses), "flac", BASE.name), SongRequest())
    assert body is not None
    assert body["lora"] == named


def test_every_field_of_a_plan_is_in_a_test_above():
    """So that a field which is added to plans is added to recipes as well."""
    of_audio = {"task_type", "window", "follows_latents"}
    elsewhere = {"adapters", "audio_codes", "retake", "peak_db", "source_caption", "source_lyrics"}
    bare = SongPlan("", "", "en", 0.0, 0, "", Sampling(0, 0.0, 0.0))
    same = {
        field.name for field in fields(SongPlan) if getattr(PLAN, field.name) == getattr(bare, field.name)
    }
    assert same == of_audio | elsewhere
    strengths = {"cover_strength", "noise_strength", "injection", "morph"}
    same = {
        field.name
        for field in fields(Sampling)
        if getattr(PLAN.sampling, field.name) == getattr(bare.sampling, field.name)
    }
    assert same == {"timesteps", "infer_method", "tuning"} | strengths


SOURCE = Sound(Path("/uploads/song.wav"), "song.wav", 20.25)
REFERENCE = Sound(Path("/uploads/voice.wav"), "voice.wav", 5.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"task_type": "text2music", "audio_duration": 12.5},
        {"task_type": "cover", "audio_cover_strength": 0.25, "cover_noise_strength": 0.5},
        {"task_type": "cover", "audio_duration": 15.5, "allow_length_change": True},
        {"task_type": "cover", "no_fsq": True},
        {
            "task_type": "cover",
            "flow_edit_morph": True,
            "flow_edit_source_caption": "rock",
            "flow_edit_n_max": 0.75,
        },
        {"task_type": "repaint", "repainting_start": 2.5, "repainting_end": 8.25},
        {"task_type": "repaint", "repainting_start": -3.0, "repaint_wav_crossfade_sec": 0.5},
        {"task_type": "repaint", "repainting_start": 0, "repaint_mode": "conservative"},
        {"task_type": "repaint", "repainting_start": 0, "repaint_strength": 0.3},
        {"task_type": "lego", "track_name": "drums", "repaint_latent_crossfade_frames": 3},
        {"task_type": "extract", "track_name": "vocals", "lyrics": "la la"},
        {"task_type": "complete", "track_classes": ["drums", "bass"], "bpm": 90},
        {"task_type": "complete", "track_name": "drums"},
    ],
    ids=lambda fields: fields["task_type"],
)
def test_songs_from_audio_need_it_again(fields: dict[str, Any]):
    """With the same audio beside it, a recipe gives the same plan and the same task."""
    model = replace(BASE, tasks=BASE_TASKS)
    sounds = {"reference_audio": REFERENCE}
    if fields["task_type"] != "text2music":
        sounds["src_audio"] = SOURCE

    def planned(body: dict[str, Any]) -> tuple[SongRequest, SongPlan]:
        request = accept(body, (model,), NO_PLANNER, strict=True, sounds=sounds)
        seconds = SOURCE.seconds if request.task.source else 0.0
        (plan,) = plan_songs(with_source(request, seconds, model), model)
        return request, plan

    request, plan = planned({"model": model.name, "batch_size": 1, **fields})
    assert request.task.reference
    body = recipe(Song("0.flac", plan, request.audio_format, model.name), request)
    request_again, plan_again = planned(json.loads(json.dumps(body)))
    assert plan_again == plan
    assert request_again.task == request.task


@pytest.mark.parametrize("name", SONG_FIELDS)
def test_each_field_that_decides_a_song_is_in_its_recipe(name: str):
    for task, model in COMBINATIONS:
        if task not in users(name):
            continue
        sent = song_for(name, task) | {name: value_of(name)}
        audio = {path: sent[path] for path in PATHS.values() if path in sent}
        try:
            request, _ = ask(sent, model)
        except InvalidFieldError:  # not for this model
            continue
        plans = plan_songs(with_source(request, 20.0, model), model)
        songs = [Song("0.flac", plan, request.audio_format, model.name) for plan in plans]
        for song in songs:
            again, _ = ask(json.loads(json.dumps(recipe(song, request))) | audio, model)
            assert plan_songs(with_source(again, 20.0, model), model) == (song.plan,)
            assert (again.task, again.audio_format) == (request.task, request.audio_format)


def test_a_plan_without_a_song_has_none():
    assert recipe(Song("", PLAN, "flac", BASE.name), SongRequest()) is None


async def test_it_is_in_every_result(server: Server):
    task_id = await server.release(prompt="pop", seed="7,9", audio_duration=20)
    await server.finish_next()
    (entry,) = await server.query(task_id)
    recipes = [item["recipe"] for item in json.loads(entry["result"])]
    assert [body["seed"] for body in recipes] == [7, 9]
    assert all((body["prompt"], body["batch_size"]) == ("pop", 1) for body in recipes)


async def test_codes_are_short(server: Server):
    codes = list(range(100, 150))
    task_id = await server.release(audio_code_string=codes, batch_size=1)
    await server.finish_next()
    (entry,) = await server.query(task_id)
    assert only_item(entry)["recipe"]["audio_code_string"] == ",".join(map(str, codes))


KEYS = ("recipe", "lrc", "alignment_score", "lyric_timestamps", "waveform_peaks", "loudness", "stems")
LINES = (
    TimedLine("City lights", 8.0, 9.254, (TimedWord("City", 8.0, 8.5), TimedWord("lights", 8.75, 9.254))),
    TimedLine("calling", 61.0, 62.0, (TimedWord("calling", 61.0, 62.0),)),
)


class TestAnalysis:
    async def item(self, server: Server, analysis: Analysis) -> dict[str, Any]:
        task_id = await server.release(batch_size=1)
        job = await server.queue.take()
        song = server._song(job.request, 0, "mp3", b"")
        await server.queue.finish(job.id, (replace(song, analysis=analysis),))
        (entry,) = await server.query(task_id)
        return only_item(entry)

    async def test_when_words_are_sung(self, server: Server):
        item = await self.item(server, Analysis(lyric_times=LyricTimes(LINES, 0.8125)))
        assert item["lrc"] == "[00:08.00]City lights\n[01:01.00]calling\n"
        assert item["alignment_score"] == 0.8125
        assert item["lyric_timestamps"][0] == {
            "text": "City lights",
            "start": 8.0,
            "end": 9.254,
            "words": [
                {"text": "City", "start": 8.0, "end": 8.5},
                {"text": "lights", "start": 8.75, "end": 9.254},
            ],
        }
        assert len(item["lyric_timestamps"]) == 2

    async def test_an_outline(self, server: Server):
        item = await self.item(server, Analysis(peaks=((-0.5, 0.25), (0.0, 0.891))))
        assert item["waveform_peaks"] == [[-0.5, 0.25], [0.0, 0.891]]

    async def test_loudness(self, server: Server):
        item = await self.item(server, Analysis(loudness=Loudness(-14.2, -0.85)))
        assert item["loudness"] == {"integrated_lufs": -14.2, "true_peak_dbtp": -0.85}
        item = await self.item(server, Analysis(loudness=Loudness(None, None)))
        assert item["loudness"] == {"integrated_lufs": None, "true_peak_dbtp": None}

    async def test_stems(self, server: Server):
        with server.audio.new_file("mp3") as new:
            new.path.write_bytes(b"boom")
        item = await self.item(server, Analysis(stems=(Stem("drums", new.name),)))
        (stem,) = item["stems"]
        assert stem["track"] == "drums"
        answer = await server.client.get(stem["file"])
        assert answer.content == b"boom"
        assert 'filename="drums' in answer.headers["content-disposition"]

    async def test_nothing(self, server: Server):
        item = await self.item(server, Analysis())
        assert [item[key] for key in KEYS[1:]] == ["", None, [], [], None, []]

    async def test_songs_that_are_not_there_yet_have_the_same_keys(self, server: Server):
        (entry,) = await server.query(await server.release())
        assert [only_item(entry)[key] for key in KEYS] == [None, "", None, [], [], None, []]


@pytest.mark.parametrize(
    ("seconds", "stamp"),
    [
        (0.0, "00:00.00"),
        (59.994, "00:59.99"),
        (59.996, "01:00.00"),
        (600.0, "10:00.00"),
        (83.456, "01:23.46"),
    ],
)
def test_lrc_counts_minutes_seconds_and_hundredths(seconds: float, stamp: str):
    assert lrc([TimedLine("la", seconds, seconds + 1, ())]) == f"[{stamp}]la\n"


RIFF: Any = {"src_audio": ("song.wav", b"RIFF")}
CODES = "<|audio_code_5|><|audio_code_7|>"


async def result(server: Server, **fields: Any) -> dict[str, Any]:
    """What a job answers whose plan has two codes, a tempo and a caption."""
    answer = await server.client.post("/release_task", files=RIFF, data=fields)
    assert answer.status_code == 200, answer.text
    job = await server.queue.take()
    assert job.request.goal != "song"
    plan = SongPlan(
        "a tune", "la la", "en", 12.0, 3, "Do:", Sampling(8, 1.0, 3.0), bpm=90, audio_codes=(5, 7)
    )
    await server.queue.finish(job.id, (Song("", plan, "mp3", "acestep-v15-turbo", "lm"),))
    (entry,) = await server.query(job.id)
    assert entry["status"] == 1
    (item,) = json.loads(entry["result"])
    return dict(item)


@pytest.fixture
async def planning(serve: Serve) -> Any:
    async with serve(worker=FakeWorker(planner_info=PLANNER)) as server:
        yield server


async def test_codes(server: Server):
    assert await result(server, extract_codes_only="true") == {
        "status_message": "Audio Codes Extraction Success",
        "audio_codes": CODES,
        "audio_paths": [],
        "raw_audio_paths": [],
        "first_audio_path": None,
        "metas": {},
    }


async def test_a_description(planning: Server):
    item = await result(planning, full_analysis_only="true")
    metas = item.pop("metas")
    assert item == {
        "status_message": "Full Hardware Analysis Success",
        "bpm": 90,
        "keyscale": "N/A",
        "timesignature": "N/A",
        "duration": 12.0,
        "genre": "N/A",
        "prompt": "a tune",
        "lyrics": "la la",
        "language": "en",
        "audio_paths": [],
        "audio_codes": CODES,
    }
    assert (metas["bpm"], metas["caption"]) == (90, "a tune")


async def test_metadata(planning: Server):
    item = await result(planning, analysis_only="true", prompt="pop")
    assert (item["file"], item["status"]) == ("", 1)
    assert (item["generation_info"], item["dit_model"], item["lm_model"]) == (
        "Analysis Only Mode Complete",
        "None (Analysis Only)",
        "lm",
    )
    assert item["metas"]["bpm"] == 90
    assert any(warning.startswith("src_audio: analysis_only") for warning in item["warnings"])
