"""Lines that fit a terminal: text is folded, tables are cut, and styles have names until they are painted.

Widths are counted in characters.  What is laid out here is printable already: one character is one column.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

WIDTH: Final = 80
"""Columns where there is no terminal to ask."""
NARROWEST: Final = 40
"""Columns below which nothing is cut any further."""
LABEL: Final = 10
"""Columns of a line's label, behind the indent."""
INDENT: Final = 2
ELLIPSIS: Final = "…"

_CODES: Final = {"": "", "bold": "1", "dim": "2", "good": "32", "warn": "33", "bad": "31"}
"""Select Graphic Rendition (ECMA-48 section 8.3.117), by the name of the style."""


class Span(NamedTuple):
    """A part of a line in one style."""

    text: str
    style: str = ""
    """A key of ``_CODES``."""


Line: TypeAlias = tuple[Span, ...]


def line(text: str, style: str = "") -> Line:
    """A line in one style."""
    return (Span(text, style),)


def plain(lines: Iterable[Line]) -> str:
    """Without styles."""
    return "\n".join("".join(span.text for span in spans) for spans in lines)


def painted(lines: Iterable[Line]) -> str:
    """With the escape sequences of a terminal."""
    return "\n".join("".join(map(_painted, spans)) for spans in lines)


def _painted(span: Span) -> str:
    code = _CODES[span.style]
    return f"\x1b[{code}m{span.text}\x1b[0m" if code else span.text


def terminal_width() -> int:
    """Columns of the terminal, or what the environment says (``COLUMNS``); without both, ``WIDTH``."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(1).columns or WIDTH
    except OSError:
        return WIDTH


def wants_colour() -> bool:
    """Whether the environment allows colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR")


def folded(label: str, text: str, width: int, style: str = "", *, indent: int = INDENT) -> Iterator[Line]:
    """``text`` behind ``label``, on as many lines as it takes.  Without a label the text begins at the indent."""
    before = " " * indent + (label.ljust(LABEL) if label else "")
    room = max(width, NARROWEST) - len(before)
    for part in textwrap.wrap(text, room, break_on_hyphens=False) or [""]:
        yield (Span(before), Span(part, style)) if style else line(before + part)
        before = " " * len(before)


def clipped(lines: Iterable[Line], width: int) -> Iterator[Line]:
    """The same lines; of one that is still too long, the end is cut off."""
    for spans in lines:
        room = max(width, NARROWEST)
        fits = sum(len(span.text) for span in spans) <= room
        yield spans if fits else tuple(_fitting(spans, room))


def _fitting(spans: Line, room: int) -> Iterator[Span]:
    for text, style in spans:
        if len(text) > room:
            yield Span(text[: max(room - 1, 0)] + ELLIPSIS, style)
            return
        room -= len(text)
        yield Span(text, style)


def cut_middle(text: str, room: int) -> str:
    """At most ``room`` characters; what is left out is in the middle, so that the port of an address stays."""
    if len(text) <= room:
        return text
    last = min(room // 2, len(text) - text.rfind(":")) if ":" in text else room // 2
    return text[: max(room - last - 1, 0)] + ELLIPSIS + text[len(text) - last :]


class Table:
    """Rows below a head.  ``left``: which columns are text and stand to the left; numbers stand to the right.

    ``gives``: which columns are cut, one after the other, where the table is too wide, and how narrow each may become;
    a column may be there again, narrower.
    """

    def __init__(
        self,
        head: Sequence[str],
        *,
        left: Collection[int],
        gives: Sequence[tuple[int, int]] = (),
        indent: int = INDENT,
    ) -> None:
        self._head = head
        self._left = left
        self._gives = gives
        self._indent = indent

    def lines(self, rows: Sequence[tuple[Sequence[str], str]], width: int) -> Iterator[Line]:
        """The head, and each row, which is cells and a style."""
        widths = [
            max(len(row[at]) for row in [self._head, *(cells for cells, _ in rows)]) for at in range(self._columns)
        ]
        too_much = self._indent + sum(widths) + 2 * (self._columns - 1) - max(width, NARROWEST)
        for at, least in self._gives:
            if too_much > 0:
                cut = min(too_much, max(widths[at] - least, 0))
                widths[at] -= cut
                too_much -= cut
        yield line(self._row(self._head, widths), "dim")
        for cells, style in rows:
            yield line(self._row(cells, widths), style)

    def text(self, rows: Sequence[Sequence[str]]) -> str:
        """The head and the rows as they are, however wide, without styles."""
        return plain(self.lines([(row, "") for row in rows], width=sys.maxsize))

    @property
    def _columns(self) -> int:
        return len(self._head)

    def _row(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        fitted = [cut_middle(cell, room) for cell, room in zip(cells, widths, strict=True)]
        placed = [
            cell.ljust(room) if at in self._left else cell.rjust(room)
            for at, (cell, room) in enumerate(zip(fitted, widths, strict=True))
        ]
        return " " * self._indent + "  ".join(placed).rstrip()
