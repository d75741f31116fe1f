import pytest

from acestep.domain.song import TEXT2MUSIC_INSTRUCTION
from acestep.synthesizer.conditioning import caption_prompt, lyric_prompt
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
