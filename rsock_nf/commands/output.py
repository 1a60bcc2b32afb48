"""What the commands print, made fit for a terminal."""

from __future__ import annotations

import sys
from typing import Final

from rsock_nf.ops.journald import ERROR, WARNING, marked, on_journal
from rsock_nf.printable import printable

PROGRAM: Final = "rsock-nf"


def complain(line: str, *, command: str = PROGRAM) -> None:
    """One line on standard error.  ``command``: who says it, with the program's name."""
    text = f"{command}: {printable(' '.join(line.split()))}"
    if on_journal():
        text = marked(text, WARNING if line.startswith("warning: ") else ERROR)
    print(text, file=sys.stderr)


def say(text: object) -> None:
    """Lines on standard output."""
    print(printable(str(text), keep="\n\t"))
