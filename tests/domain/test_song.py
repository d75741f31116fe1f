import pytest

from acestep.domain.song import instruction


@pytest.mark.parametrize(
    ("task", "tracks", "expected"),
    [
        ("text2music", (), "Fill the audio semantic mask based on the given conditions:"),
        ("cover", (), "Generate audio semantic tokens based on the given conditions:"),
        ("repaint", (), "Repaint the mask area based on the given conditions:"),
        ("extract", (), "Extract the track from the audio:"),
        ("extract", ("vocals",), "Extract the VOCALS track from the audio:"),
        ("lego", (), "Generate the track based on the audio context:"),
        ("lego", ("backing_vocals",), "Generate the BACKING_VOCALS track based on the audio context:"),
        ("complete", (), "Complete the input track:"),
        ("complete", ("drums", "bass"), "Complete the input track with DRUMS | BASS:"),
    ],
)
def test_each_task_has_its_instruction(task, tracks, expected):
    assert instruction(task, tracks) == expected


def test_text2music_with_codes_has_the_instruction_of_a_cover():
    assert instruction("text2music", hinted=True) == instruction("cover")
