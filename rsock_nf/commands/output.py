"""What the commands print, made fit for a terminal."""

from __future__ import annotations

import sys
from typing import Final

from rsock_nf.printable import printable

PROGRAM: Final = "rsock-nf"


def complain(line: str) -> None:
    """One line on standard error."""
    print(f"{PROGRAM}: {printable(' '.join(line.split()))}", file=sys.stderr)


def say(text: object) -> None:
    """Lines on standard output."""
    print(printable(str(text), keep="\n\t"))
