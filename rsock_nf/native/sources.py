"""The C files of the native data path, and by what a compiled module is told apart from one of other files."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE / "c"
"""Not there in what a wheel installed: the wheel has the module alone."""
BUILD = HERE / "build.py"
"""With which flags they are compiled."""


@functools.cache
def fingerprint() -> str:
    """Of the C files and their flags, as hexadecimal digits; "" = they are not here.  Raises ``OSError``."""
    files = sorted(SOURCES.glob("*.[ch]"))
    if not files:
        return ""
    found = hashlib.sha256()
    for file in (*files, BUILD):
        content = file.read_bytes()
        found.update(f"{file.name} {len(content)}\n".encode() + content)
    return found.hexdigest()[:32]
