import pytest

from acestep.synthesizer.alignment_text import sung_lines


def texts(lyrics: str) -> list[list[str]]:
    return [[word.text for word in line.words] for line in sung_lines(lyrics)]


def test_lines_of_words():
    lyrics = "[Verse 1]\nCity lights  are calling,\n\n[Chorus] (Oh) don't go —\nHey!"
    assert [line.text for line in sung_lines(lyrics)] == [
        "City lights are calling,",
        "(Oh) don't go —",
        "Hey!",
    ]
    assert texts(lyrics) == [["City", "lights", "are", "calling,"], ["(Oh)", "don't", "go"], ["Hey!"]]


@pytest.mark.parametrize(
    ("lyrics", "words"),
    [
        ("夜の街、きゃっと", ["夜", "の", "街、", "きゃっ", "と"]),
        ("カーテン", ["カー", "テ", "ン"]),
        ("我愛你 baby!", ["我", "愛", "你", "baby!"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("사랑해 너를", ["사랑해", "너를"]),
    ],
)
def test_scripts_without_spaces_are_sung_by_the_character(lyrics, words):
    assert texts(lyrics) == [words]


@pytest.mark.parametrize("lyrics", ["", "[Verse]\n[Chorus]\n", "[inst]", " \n...\n♪"])
def test_nothing_to_sing(lyrics):
    assert sung_lines(lyrics) == ()


def test_a_bracket_that_stays_open_is_text():
    assert texts("[Verse\nla la]") == [["[Verse"], ["la", "la]"]]


def test_every_word_is_where_it_says():
    lyrics = "[Verse]\r\nsky [softly] 空を\r\n\u2028see  it"
    for line in sung_lines(lyrics):
        for word in line.words:
            assert lyrics[word.start : word.end] == word.text
    assert texts(lyrics) == [["sky", "空", "を"], ["see", "it"]]
