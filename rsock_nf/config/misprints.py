"""Which sign is missing in a text that is not JSON, and in which line: a reader notices it only at what comes next."""

from __future__ import annotations

import re
from typing import Final

_TOKENS: Final = re.compile(
    r"""(?P<kept>"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)|//[^\n]*|/\*.*?(?:\*/|\Z)""", re.DOTALL
)
"""Texts, and comments.  One without an end is taken all the same, so that nothing is looked at twice."""
_AFTER_OPENING: Final = re.compile(r"""([{,])\s*(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[\w$]+)$""")
"""What may be a key."""
_BEGINS: Final = re.compile(r"""["'\w$\[{]""")
"""The first character of a key or a value."""
_ENDS: Final = re.compile(r"""["'\w$\]}]""")
"""The last one of a key or a value."""


def missing_sign(text: str, at: int) -> str | None:
    """``line 3, column 18: a comma is missing``, if something of that kind explains why a reader stops at ``at``.

    ``at``: counted from 0, in characters.  None = it is something else.
    """
    bare = _TOKENS.sub(lambda found: found["kept"] or re.sub(r"[^\n]", " ", found[0]), text)
    if not bare.strip():
        return None
    if not bare[at:].strip():
        return f"{_place(text, len(text.rstrip()))}: the file ends here: a bracket or a quote is missing"
    before = bare[:at].rstrip()
    if text[at] == "\n":
        return f"{_place(text, at)}: a quote is missing, in this line or before it"
    if len(before) == at or not before or not _BEGINS.match(bare[at]) or not _ENDS.match(before[-1]):
        return None
    key = _AFTER_OPENING.search(before)
    what = {"{": "a colon", ",": "a colon or a comma", "": "a comma"}[key[1] if key else ""]
    return f"{_place(text, len(before))}: {what} is missing"


def _place(text: str, at: int) -> str:
    """For people: lines and columns are counted from 1."""
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"


def position(text: str, line: int, column: int) -> int:
    """Of a line and a column, both counted from 1: how many characters are before it."""
    return sum(len(one) for one in text.split("\n")[: line - 1]) + line - 1 + column - 1
