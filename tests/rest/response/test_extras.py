"""What else may be asked of a song, and how clients read what was found."""

from dataclasses import replace
from typing import Any

import pytest

from acestep.domain.analysis import Analysis, Loudness, LyricTimes, Stem, TimedLine, TimedWord
from acestep.domain.song import AnalysisOptions
from acestep.rest.response.song import lrc
from tests.rest.conftest import BASE, TURBO, Server, assert_error
from tests.rest.test_tasks import only_item

TRACKS = ("drums", "backing_vocals")
KEYS = ("recipe", "lrc", "alignment_score", "lyric_timestamps", "waveform_peaks", "loudness", "stems")
LINES = (
    TimedLine("City lights", 8.0, 9.254, (TimedWord("City", 8.0, 8.5), TimedWord("lights", 8.75, 9.254))),
    TimedLine("calling", 61.0, 62.0, (TimedWord("calling", 61.0, 62.0),)),
)


class TestAsking:
    async def test_nothing_unless_it_is_asked_for(self, server: Server):
        assert (await server.submitted(prompt="pop")).analysis == AnalysisOptions()

    @pytest.mark.parametrize(
        ("sent", "expected"),
        [
            ({"lyric_timestamps": True}, AnalysisOptions(lyric_times=True)),
            ({"lrc": "true"}, AnalysisOptions(lyric_times=True)),
            ({"measureLoudness": "on"}, AnalysisOptions(loudness=True)),
            ({"waveform_peaks": 640}, AnalysisOptions(peaks=640)),
            ({"waveformPeaks": "640"}, AnalysisOptions(peaks=640)),
            ({"peaks": True}, AnalysisOptions(peaks=1000)),
            ({"peaks": "yes"}, AnalysisOptions(peaks=1000)),
            ({"peaks": False}, AnalysisOptions()),
            ({"peaks": "0"}, AnalysisOptions()),
            ({"param_obj": {"peaks": 10.0}}, AnalysisOptions(peaks=10)),
            ({"model": BASE.name, "stems": ["drums"]}, AnalysisOptions(stems=("drums",))),
            ({"model": BASE.name, "stemTracks": "Drums, backing vocals"}, AnalysisOptions(stems=TRACKS)),
        ],
    )
    async def test_one_by_one(self, server: Server, sent: dict[str, Any], expected: AnalysisOptions):
        assert (await server.submitted(**sent)).analysis == expected

    @pytest.mark.parametrize("points", [9, 1, 10_001, -5, 12.5, "many"])
    async def test_points_that_cannot_be_drawn(self, server: Server, points: Any):
        answer = await server.client.post("/release_task", json={"waveform_peaks": points})
        body = assert_error(answer, 422, "waveform_peaks: ", "10 to 10000")
        assert body["extra"]["field"] == "waveform_peaks"

    async def test_stems_that_there_are_not(self, server: Server):
        answer = await server.client.post("/release_task", json={"model": BASE.name, "stems": ["kazoo"]})
        assert_error(answer, 422, "stems: ", "drums", "backing_vocals")

    async def test_stems_of_a_model_that_makes_none(self, server: Server):
        answer = await server.client.post("/release_task", json={"model": TURBO.name, "stems": ["drums"]})
        body = assert_error(answer, 422, "stems: 'drums' cannot be used", TURBO.name, BASE.name)
        assert body["extra"]["field"] == "stems"


class TestAnswers:
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
