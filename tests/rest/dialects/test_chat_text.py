import pytest

from acestep.errors import InvalidFieldError
from acestep.rest.dialects.chat_text import Message, understand


@pytest.mark.parametrize(
    ("text", "caption", "lyrics", "aside"),
    [
        ("<prompt>pop</prompt><lyrics>la\nla</lyrics>", "pop", "la\nla", ""),
        ("<LYRICS>la</LYRICS> <Prompt> pop\n</Prompt>", "pop", "la", ""),
        ("<prompt>pop</prompt>", "pop", None, ""),
        ("<lyrics></lyrics>", None, "", ""),
        ("Please sing:\n<prompt>pop</prompt>\nThanks", "pop", None, "Please sing:\n\nThanks"),
    ],
)
def test_tags(text: str, caption: str | None, lyrics: str | None, aside: str):
    assert understand(text) == Message(caption, lyrics, aside=aside)


@pytest.mark.parametrize("text", ["<prompt>pop", "<prompt>pop</prompt><lyrics>la", "<lyrics>la</prompt>"])
def test_an_open_tag(text: str):
    with pytest.raises(InvalidFieldError, match="after every <"):
        understand(text)


@pytest.mark.parametrize(
    "text",
    [
        "[Verse]\nOne long line that goes on and on and on, far beyond what one breath can hold",
        "[Intro - soft]\n[verse 2]\nla",
        "one\ntwo\n\nthree\nfour",
        "夜明けの空に\n走り出せ\n光の中へ\n遠くまで",
    ],
)
def test_bare_lyrics(text: str):
    assert understand(text) == Message(lyrics=text)
    assert understand(text, may_be_lyrics=False) == Message(sentence=text)


@pytest.mark.parametrize("text", ["[Instrumental]", " [inst] "])
def test_nobody_sings(text: str):
    assert understand(text, may_be_lyrics=False) == Message(lyrics=text.strip())


@pytest.mark.parametrize(
    "text",
    [
        "A calm piano piece",
        "one\ntwo\nthree",
        "short\nshort\nshort\n"
        + "a line that is far too long to be sung, since it describes the music at length",
        "A song with a [weird] word and a [verse] somewhere inside the line",
        "[1, 2, 3]",
    ],
)
def test_a_sentence(text: str):
    assert understand(text) == Message(sentence=text)


@pytest.mark.parametrize("text", ["", " \n "])
def test_nothing(text: str):
    assert understand(text) == Message()


# Each took minutes or seconds where one pattern looked for both tags, or for a section across lines.
@pytest.mark.parametrize("text", ["<prompt>" * 12_500, "<lyrics>" * 12_500, "<prompt></lyrics>" * 6_000])
def test_many_open_tags(text: str):
    with pytest.raises(InvalidFieldError, match="after every <"):
        understand(text)


@pytest.mark.parametrize(
    "text",
    ["\n" * 60_000 + "x", " " * 90_000 + "x", "[verse" * 15_000, "[ " * 45_000, ("[verse" + " " * 900) * 99],
)
def test_long_texts_that_are_almost_sections(text: str):
    assert understand(text) == Message(sentence=text.strip())


def test_tags_inside_and_behind_each_other():
    text = "a<prompt>pop<lyrics>la</lyrics></prompt>b<lyrics>lo</lyrics>c"
    assert understand(text) == Message("pop<lyrics>la</lyrics>", "la", aside="ab<lyrics>lo</lyrics>c")
