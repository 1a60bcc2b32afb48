"""What the commands print, made fit for a terminal."""

from __future__ import annotations

import sys
from typing import Final, TextIO

from rsock_nf.ops.journald import ERROR, WARNING, marked, on_journal
from rsock_nf.printable import printable

PROGRAM: Final = "rsock-nf"
_NARROWEST: Final = 40
_INDENT: Final = " " * 6
"""Before each line but the first."""


def complain(line: str, *, command: str = PROGRAM) -> None:
    """One line on standard error; on a terminal as many as its width takes.  ``command``: who says it, with the
    program's name."""
    text = f"{command}: {printable(' '.join(line.split()))}"
    if on_journal():
        text = marked(text, WARNING if line.startswith("warning: ") else ERROR)
    print(fit_to_terminal(text, sys.stderr), file=sys.stderr)


def fit_to_terminal(line: str, stream: TextIO) -> str:
    """For a terminal ``line`` as lines that fit its width, broken between words; for anything else as it is."""
    if not stream.isatty():
        return line
    import os
    import textwrap

    told = os.environ.get("COLUMNS", "")
    columns = int(told) if told.isdecimal() else 0
    width = max(columns or os.get_terminal_size(stream.fileno()).columns, _NARROWEST)
    return textwrap.fill(line, width, subsequent_indent=_INDENT, break_on_hyphens=False, break_long_words=False)


def say(text: object) -> None:
    """Lines on standard output."""
    print(printable(str(text), keep="\n\t"))
