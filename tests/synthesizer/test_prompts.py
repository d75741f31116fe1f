import subprocess
import sys

import pytest

from acestep.synthesizer.prompts import TEXT2MUSIC_INSTRUCTION, caption_prompt, instruction, lyric_prompt
from tests.synthesizer.toy import song


def test_caption_branch():
    plan = song(
        caption="A calm waltz",
        instruction=TEXT2MUSIC_INSTRUCTION,
        bpm=84,
        time_signature="3",
        key_scale="F# minor",
        duration=63.9,
    )
    assert caption_prompt(plan) == (
        "# Instruction\nFill the audio semantic mask based on the given conditions:\n\n"
        "# Caption\nA calm waltz\n\n"
        "# Metas\n- bpm: 84\n- timesignature: 3\n- keyscale: F# minor\n- duration: 63 seconds\n"
        "<|endoftext|>\n"
    )


def test_undecided_metadata_is_not_applicable():
    plan = song(bpm=None, time_signature=None, key_scale="", duration=10.0)
    assert (
        "# Metas\n- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n- duration: 10 seconds\n<|endoftext|>\n"
        in caption_prompt(plan)
    )


@pytest.mark.parametrize("sent", ["Play", "Play:"])
def test_an_instruction_ends_with_one_colon(sent):
    assert caption_prompt(song(instruction=sent)).startswith("# Instruction\nPlay:\n\n# Caption\n")


def test_lyric_branch():
    plan = song(language="ja", lyrics="[Chorus]\nla la\n")
    assert lyric_prompt(plan) == "# Languages\nja\n\n# Lyric\n[Chorus]\nla la\n<|endoftext|>"


@pytest.mark.parametrize("lyrics", ["", "  \n"])
def test_no_lyrics_are_instrumental(lyrics):
    assert lyric_prompt(song(lyrics=lyrics)).endswith("# Lyric\n[Instrumental]<|endoftext|>")


def test_prompts_do_not_need_torch():
    code = "import sys, acestep.synthesizer.prompts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
