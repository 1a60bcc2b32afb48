"""The commands of the documents: blocks of Markdown that are marked as ``sh``.

The first line of a block says where it is typed: ``# on the server``, ``# on the client``, ``# on both hosts``,
``# on one host``.  With
``check`` behind that, it asks for something that may need a moment: a reader looks again, and so does the test.

    ```sh
    # on the client: check
    ping -c 3 10.99.0.1
    ```
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^## +(.*)$", re.MULTILINE)
PLACE = re.compile(r"# on (the server|the client|both hosts|one host)\b(.*)")
PLACES = {
    "the server": ("server",),
    "the client": ("client",),
    "both hosts": ("server", "client"),
    "one host": ("server",),
}


@dataclass(frozen=True, slots=True)
class Block:
    """One block: what to type on which hosts."""

    document: str
    section: str
    """The heading above it, of the second level."""
    line: int
    hosts: tuple[str, ...]
    check: bool
    """What it asks for may come a moment later."""
    script: str

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def fences(text: str) -> Iterator[tuple[int, str, str]]:
    """Each fenced block: the line of its first fence, its language, what is in it without its indentation."""
    for match in FENCE.finditer(text):
        inside = "".join(line.removeprefix(match[1]) for line in match[3].splitlines(keepends=True))
        yield text.count("\n", 0, match.start()) + 1, match[2], inside


def section_of(text: str, line: int) -> str:
    """The heading of the second level above that line."""
    above = [match[1] for match in HEADING.finditer(text) if text.count("\n", 0, match.start()) + 1 < line]
    return above[-1] if above else ""


def blocks(document: str) -> list[Block]:
    """The blocks of commands of a document, in order.  Raises ``ValueError`` for one that does not say its host."""
    text = (ROOT / document).read_text()
    found = []
    for line, language, script in fences(text):
        if language != "sh":
            continue
        place = PLACE.match(script)
        if place is None:
            raise ValueError(f"{document}:{line}: the block does not begin with the host on which it is typed")
        found.append(Block(document, section_of(text, line), line, PLACES[place[1]], "check" in place[2], script))
    return found
