from typing import Any

import pytest

from acestep.domain.song import AnalysisOptions
from tests.rest.conftest import BASE, TURBO, Server, assert_error

TRACKS = ("drums", "backing_vocals")


class TestAnalysis:
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
