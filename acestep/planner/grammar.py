"""The grammars of the texts (Lark, for llguidance). `metadata` and `codes` can read all that they allow."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from acestep.domain.draft import Metadata
from acestep.domain.song import LANGUAGES, MAX_BPM, MAX_DURATION, MIN_BPM, MIN_DURATION, TIME_SIGNATURES
from acestep.planner.language_model import Vocabulary
from acestep.planner.metadata import BEGIN, END, LANGUAGE_HEADER, LYRIC_HEADER, facts
from acestep.planner.metadata import field as written

# Free text is bounded in tokens, and hardly restricted: over a vocabulary of 215,000 a mask takes some 30 µs
# then, and 5 ms for text that has to be flawless YAML. `metadata` reads tolerantly in return.
# A caption is one long line in languages without spaces, and up to 8 more of 80 columns in others.
_FIRST_LINE, _NEXT_LINE, _NEXT_LINES = 256, 96, 8  # tokens, tokens, lines
_LYRICS = 2048  # tokens; the synthesizer reads no more
_SPANNING = 2  # tokens that begin in one piece and end in the next
_BREAK = "\n\n\n  "  # the longest between two lines of a caption

# Text as `metadata` reads it: it begins with a visible character (a caption with one inside its quotes), and
# has no control characters.
_SEEN = r"[^\s\x00-\x1f\x7f\u{fffd}]"
_FIRST = r"""/['"]*[^'"\s\x00-\x1f\x7f\u{fffd}][^\x00-\x1f\x7f]*/"""
_NEXT = rf"/{_SEEN}[^\x00-\x1f\x7f]*/"
_LINES = rf"/{_SEEN}[^\x00-\x09\x0b-\x1f\x7f]*/"
_KEY_SCALE = "/[A-G](#|b|♯|♭)? (major|minor)/"
_LONGEST_KEY_SCALE = "C♯ major"


@dataclass(frozen=True, slots=True)
class BoundedGrammar:
    """A grammar, and the tokens of its longest text, at worst one a byte."""

    grammar: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class BlockRules:
    fixed: Metadata = field(default_factory=Metadata)  # its fields stand in the block word for word
    shortest: float = MIN_DURATION  # seconds, if the duration is free
    longest: float = MAX_DURATION
    caption: bool = True  # whether there is one, if it is not fixed
    language: bool = True


@dataclass(frozen=True, slots=True)
class _Piece:
    rule: str
    tokens: int  # at most


def metadata_grammar(rules: BlockRules) -> BoundedGrammar:
    return _form(_block(rules))


def draft_grammar(rules: BlockRules, end_of_turn: str, lyrics: str | None = None) -> BoundedGrammar:
    """The block, lyrics (`lyrics` word for word if given), and the end of the turn."""
    languages = [rules.fixed.language] if rules.fixed.language is not None else list(LANGUAGES)
    header = [_literal(LANGUAGE_HEADER), _choice(languages), _literal("\n\n")]
    headers = _Piece(f"({_sequence(header).rule})?", _sequence(header).tokens)
    text = _Piece("lyrics", _LYRICS + _SPANNING) if lyrics is None else _literal(lyrics)
    return _form(
        [*_block(rules), _literal("\n\n"), headers, _literal(LYRIC_HEADER), text, _special(end_of_turn)]
    )


def codes_grammar(count: int, vocabulary: Vocabulary) -> BoundedGrammar:
    """Exactly `count` audio codes, and the end of the turn."""
    first, last = vocabulary.first_code_id, vocabulary.first_code_id + vocabulary.code_count - 1
    codes = _Piece(f"<[{first}-{last}]>{{{count}}}", count)
    return _form([codes, _special(vocabulary.end_of_turn)])


def _form(pieces: list[_Piece]) -> BoundedGrammar:
    whole = _sequence(pieces)
    rules = (
        f"start: {whole.rule}",
        f"caption: first_line ( /\\n{{1,3}}  / next_line ){{0,{_NEXT_LINES}}}",
        f"first_line[max_tokens={_FIRST_LINE}]: {_FIRST}",
        f"next_line[max_tokens={_NEXT_LINE}]: {_NEXT}",
        f"lyrics[max_tokens={_LYRICS}]: {_LINES}",
    )
    return BoundedGrammar("\n".join(rules), whole.tokens)


def _block(rules: BlockRules) -> list[_Piece]:
    # In alphabetical order, as in the training data.
    free = {
        "bpm": _integer(MIN_BPM, MAX_BPM),
        "caption": _caption() if rules.caption else None,
        "duration": _integer(int(min(rules.shortest, rules.longest)), int(rules.longest)),
        "keyscale": _Piece(_KEY_SCALE, _bytes(_LONGEST_KEY_SCALE)),
        # YAML quotes the code of Norwegian: without quotes it is a boolean.
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


def _integer(low: int, high: int) -> _Piece:
    schema = {"type": "integer", "minimum": low, "maximum": high}
    return _Piece(f"%json {json.dumps(schema)}", _bytes(str(high)))


def _caption() -> _Piece:
    lines = _FIRST_LINE + _NEXT_LINES * (_NEXT_LINE + _bytes(_BREAK)) + (_NEXT_LINES + 1) * _SPANNING
    return _Piece("caption", lines)


def _bytes(text: str) -> int:
    return len(text.encode())
