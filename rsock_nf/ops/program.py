"""How this very program is called again."""

from __future__ import annotations

import sys
from pathlib import Path


def program() -> list[str]:
    """The first words of a command line.  Its process can be started from any directory."""
    # -P: nothing is imported from the directory of the script or from the current directory.
    return [sys.executable, "-P", str(Path(__file__).resolve().parent.parent / "__main__.py")]
