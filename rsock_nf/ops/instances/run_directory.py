"""Where the directories of the instances are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from rsock_nf.link import system

RUN_DIR_VARIABLE = "RSOCK_NF_RUN_DIR"
"""Overrides ``/run/rsock-nf``: for tests, and for instances of one name in several network namespaces."""
_USER: Final = os.geteuid()
"""Who started this process: an instance with the key ``user`` becomes somebody else later."""


def run_dir() -> Path:
    """The parent directory, absolute: on Linux ``/run/rsock-nf``; not root's: see ``_users_directory``."""
    given = os.environ.get(RUN_DIR_VARIABLE)
    if given:
        return Path(given).absolute()
    return (_users_directory(_USER) if _USER else None) or system().run_directory / "rsock-nf"


def _users_directory(user: int) -> Path | None:
    """``rsock-nf`` in the user's directory for such files (XDG_RUNTIME_DIR, which su and cron do not set: then where
    logind makes it).  None = there is none, as for a system user."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    for path in (Path(given), system().run_directory / "user" / str(user)):
        if path.is_absolute() and path.is_dir() and path.stat().st_uid == user:
            return path / "rsock-nf"
    return None
