"""Where the directories of the instances are."""

from __future__ import annotations

import os
from pathlib import Path

from rsock_nf.link import system

RUN_DIR_VARIABLE = "RSOCK_NF_RUN_DIR"
"""Overrides ``/run/rsock-nf``: for tests, and for instances of one name in several network namespaces."""


def run_dir() -> Path:
    """The parent directory, absolute: on Linux ``/run/rsock-nf``."""
    given = os.environ.get(RUN_DIR_VARIABLE)
    return Path(given).absolute() if given else system().run_directory / "rsock-nf"
