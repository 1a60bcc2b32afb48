"""One line on a terminal that is written again and again, while something is waited for; nowhere else is it shown."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType
from typing import Self

from rsock_nf.printable import printable

_CLEAR = "\r\x1b[K"


class LiveLine:
    """See the module.  It is on standard error.  At the end of the ``with`` block it is gone."""

    def __init__(self) -> None:
        self._is_seen = sys.stderr.isatty()
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """``text`` is the line now, cut to the width of the terminal."""
        if not self._is_seen:
            return
        width = shutil.get_terminal_size().columns - 1
        line = printable(" ".join(text.split()))
        line = line if len(line) <= width else f"{line[: width - 1]}…"
        if line != self._shown:
            self._write(_CLEAR + line)
            self._shown = line

    def clear(self) -> None:
        """Before something else is written."""
        if self._shown:
            self._write(_CLEAR)
            self._shown = ""

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
