"""What the language model may write, one grammar a request, as llguidance reads it (Lark).

Whatever these grammars admit, `metadata` and `codes` can read.

Free text is bounded by tokens and hardly restricted otherwise: over a vocabulary of 215,000 the next mask
then takes some 30 µs, where text that has to be flawless YAML takes 5 ms. Reading is tolerant in return.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from acestep.domain.song import (
    LANGUAGES,
    MAX_BPM,
    MAX_DURATION,
    MIN_BPM,
    MIN_DURATION,
    TIME_SIGNATURES,
    Metadata,
)
from acestep.planner.language_model import Vocabulary
from acestep.planner.metadata import BEGIN, END, LANGUAGE_HEADER, LYRIC_HEADER, facts
from acestep.planner.metadata import field as written

# A caption is one long line in languages without spaces, and up to 8 more of 80 columns in others.
_FIRST_LINE, _NEXT_LINE, _NEXT_LINES = 256, 96, 8  # tokens, tokens, lines
_LYRICS = 2048  # tokens; the synthesizer reads no more
_SPANNING = 2  # a token may begin in one piece and end in the next
_BREAK = "\n\n\n  "  # the longest that may stand between two lines of a caption

# Text as the reader takes it: it begins with something to see (a caption with something in its quotes), and
# holds no control characters.
_SEEN = r"[^\s\x00-\x1f\x7f\u{fffd}]"
_FIRST = r"""/['"]*[^'"\s\x00-\x1f\x7f\u{fffd}][^\x00-\x1f\x7f]*/"""
_NEXT = rf"/{_SEEN}[^\x00-\x1f\x7f]*/"
_LINES = rf"/{_SEEN}[^\x00-\x09\x0b-\x1f\x7f]*/"
_KEY_SCALE = "/[A-G](#|b|♯|♭)? (major|minor)/"
_LONGEST_KEY_SCALE = "C♯ major"


@dataclass(frozen=True, slots=True)
class Form:
    """A grammar, and how many tokens its longest text can take, in the worst case one for every byte."""

    grammar: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class BlockRules:
    """What a block is to say: the `fixed` facts word for word, the others freely.

    `shortest` and `longest` bound a free duration, in seconds. `caption` and `language` say whether these are
    there at all if they are free.
    """

    fixed: Metadata = field(default_factory=Metadata)
    shortest: float = MIN_DURATION
    longest: float = MAX_DURATION
    caption: bool = True
    language: bool = True


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a rule, and the tokens that it takes at most."""

    rule: str
    tokens: int


def metadata_grammar(rules: BlockRules) -> Form:
    """The block alone; the text ends with it."""
    return _form(_block(rules))


def draft_grammar(rules: BlockRules, end_of_turn: str, lyrics: str | None = None) -> Form:
    """The block, then lyrics, free or word for word `lyrics`, then the end of the turn."""
    languages = [rules.fixed.language] if rules.fixed.language is not None else list(LANGUAGES)
    header = [_literal(LANGUAGE_HEADER), _choice(languages), _literal("\n\n")]
    headers = _Piece(f"({_sequence(header).rule})?", _sequence(header).tokens)
    text = _Piece("lyrics", _LYRICS + _SPANNING) if lyrics is None else _literal(lyrics)
    return _form(
        [*_block(rules), _literal("\n\n"), headers, _literal(LYRIC_HEADER), text, _special(end_of_turn)]
    )


def codes_grammar(count: int, vocabulary: Vocabulary) -> Form:
    """Exactly `count` audio codes, then the end of the turn. `count` is at least 1."""
    first, last = vocabulary.first_code_id, vocabulary.first_code_id + vocabulary.code_count - 1
    codes = _Piece(f"<[{first}-{last}]>{{{count}}}", count)
    return _form([codes, _special(vocabulary.end_of_turn)])


def _form(pieces: list[_Piece]) -> Form:
    whole = _sequence(pieces)
    rules = (
        f"start: {whole.rule}",
        f"caption: first_line ( /\\n{{1,3}}  / next_line ){{0,{_NEXT_LINES}}}",
        f"first_line[max_tokens={_FIRST_LINE}]: {_FIRST}",
        f"next_line[max_tokens={_NEXT_LINE}]: {_NEXT}",
        f"lyrics[max_tokens={_LYRICS}]: {_LINES}",
    )
    return Form("\n".join(rules), whole.tokens)


def _block(rules: BlockRules) -> list[_Piece]:
    """The fields in the alphabetical order of the training data."""
    free = {
        "bpm": _whole(MIN_BPM, MAX_BPM),
        "caption": _caption() if rules.caption else None,
        "duration": _whole(int(min(rules.shortest, rules.longest)), int(rules.longest)),
        "keyscale": _Piece(_KEY_SCALE, _bytes(_LONGEST_KEY_SCALE)),
        # YAML writes the Norwegian "no" in quotes, lest it be taken for a refusal.
        "language": _choice([*LANGUAGES, "'no'"]) if rules.language else None,
        "timesignature": _choice(TIME_SIGNATURES),
    }
    fixed = facts(rules.fixed)
    pieces = [_special(BEGIN), _literal("\n")]
    for key, value in free.items():
        if key in fixed:
            pieces.append(_literal(written(key, fixed[key])))
        elif value is not None:
            pieces += [_literal(f"{key}: "), value, _literal("\n")]
    return [*pieces, _special(END)]


def _sequence(pieces: list[_Piece]) -> _Piece:
    return _Piece(" ".join(piece.rule for piece in pieces), sum(piece.tokens for piece in pieces))


def _literal(text: str) -> _Piece:
    return _Piece(json.dumps(text), _bytes(text))


def _special(token: str) -> _Piece:
    return _Piece(token, 1)


def _choice(words: list[str] | tuple[str, ...]) -> _Piece:
    return _Piece(f"({' | '.join(map(json.dumps, words))})", max(map(_bytes, words)))


def _whole(low: int, high: int) -> _Piece:
    schema = {"type": "integer", "minimum": low, "maximum": high}
    return _Piece(f"%json {json.dumps(schema)}", _bytes(str(high)))


def _caption() -> _Piece:
    lines = _FIRST_LINE + _NEXT_LINES * (_NEXT_LINE + _bytes(_BREAK)) + (_NEXT_LINES + 1) * _SPANNING
    return _Piece("caption", lines)


def _bytes(text: str) -> int:
    return len(text.encode())
