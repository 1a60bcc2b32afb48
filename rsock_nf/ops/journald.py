"""Lines on standard error as systemd's journal wants them: a priority before each, and no time (sd-daemon(3)).

The journal writes down the time itself; by the priority ``journalctl -p warning`` finds them.
"""

from __future__ import annotations

import os
from typing import Final

ERROR: Final = 3
WARNING: Final = 4
INFO: Final = 6
DEBUG: Final = 7
"""Priorities of syslog(3)."""


def on_journal() -> bool:
    """Whether standard error goes to the journal: ``JOURNAL_STREAM`` names its device and inode (systemd.exec(5))."""
    named = os.environ.get("JOURNAL_STREAM")
    if not named:
        return False
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def marked(text: str, priority: int) -> str:
    """Each of its lines with that priority."""
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))
