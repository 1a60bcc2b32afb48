"""Text as a man page writes it: man(7)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_CODE: Final = re.compile(r"`` ?(.+?) ?``|`([^`]+)`")
_LINK: Final = re.compile(r"\[([^\]]+)\]\([^)]*\)")


def title(name: str, section: int, date: str, version: str, heading: str) -> str:
    """The first line of a page.  ``date``: as 2026-01-31."""
    return f'.TH {escaped(name.upper())} {section} "{date}" "rsock\\-nf {version}" "{heading}"'


def heading(text: str) -> str:
    """Of a section."""
    return f".SH {escaped(text.upper())}"


def subheading(text: str) -> str:
    """Of a part of a section."""
    return f".SS {escaped(text)}"


def items(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """A list of terms, written as they are typed, each with its text in Markdown."""
    return [f".TP\n.B {escaped(term)}\n{markdown(text)}" for term, text in pairs]


def code(text: str) -> str:
    """Lines that stay as they are."""
    return "\n".join([".RS 4", ".nf", *(_line(line) for line in text.strip().splitlines()), ".fi", ".RE"])


def markdown(text: str) -> str:
    """A few sentences in Markdown, on one line."""
    words = " ".join(_LINK.sub(r"\1", text).split())
    made, at = [], 0
    for match in _CODE.finditer(words):
        made += [escaped(words[at : match.start()]), f"\\fB{escaped(match[1] or match[2])}\\fR"]
        at = match.end()
    return _guarded("".join([*made, escaped(words[at:])]))


def escaped(text: str) -> str:
    """A hyphen that is typed is a minus; a backslash begins what roff expands."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")


def _line(text: str) -> str:
    return _guarded(escaped(text))


def _guarded(line: str) -> str:
    """A dot at its beginning would be a request."""
    return f"\\&{line}" if line.startswith(".") else line
