"""Texts from files, made safe for terminals and messages."""

import re
import unicodedata

_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Control, format and surrogate characters and line separators (categories of Unicode)."""
_KEPT = "\n\t\u200c\u200d"
"""Lines, columns, and the two joiners that Arabic, Indic scripts and emoji are written with."""
_LONGEST, _LONGEST_LINE = 60, 4_000
_LONG_WORD = re.compile(r"(\S{100})\S{300,}(\S{100})")


def printable(text: str) -> str:
    r"""`text` with control, format and surrogate characters written as escapes such as \x1b or \u202e."""
    if text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _ESCAPED and c not in _KEPT else c for c in text)


def _escape(character: str) -> str:
    return (
        character.encode("ascii", "backslashreplace").decode() if ord(character) > 127 else f"\\x{ord(character):02x}"
    )


def abridged(value: object) -> str:
    """`repr` of a value for a message, cut off where it is long."""
    try:
        shown = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."


def shortened(line: str) -> str:
    """A line of a message without the middle of long words, or of the line: names and lists may have any length."""
    line = _LONG_WORD.sub(r"\1...\2", line)
    half = _LONGEST_LINE // 2
    return line if len(line) <= _LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"
