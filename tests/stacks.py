"""A file for each process of pytest, into which it writes the stacks of its threads when it is asked to or stands
still.

The first line tells which test runs.  A process that ends in order removes its file, so what is left in the directory
is of processes that had to be ended.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TextIO

from tests.evidence import out_directory

TELL = signal.SIGUSR2
"""The signal on which a process writes its stacks.  ``.ci/limited`` sends it."""
MAIN = "main"
"""In the place of a worker's name: the process that was started."""


class Stacks:
    """The file of this process.  ``run``: what all processes of one run have in common."""

    def __init__(self, run: str, worker: str) -> None:
        name = f"{run}-{worker}-{os.getpid()}"
        try:
            self._file = _open(out_directory() / "stacks" / name)
        except OSError:  # the checkout belongs to another user
            self._file = _open(Path(tempfile.gettempdir(), f"rsock-nf-tests-{os.getuid()}", name))
        self._worker = worker
        faulthandler.register(TELL, file=self._file, all_threads=True)

    def note(self, what: str) -> None:
        """Begin the file anew: this is what happens now."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"{self._worker}, since {time.strftime('%H:%M:%S')}: {what}\n")
        self._file.flush()

    def end_after(self, seconds: float) -> None:
        """If this is not called again and not called off, write the stacks and end the process, whatever it does.

        It is a thread in C: Python's lock may be held meanwhile, and no exception is needed.
        """
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._file)

    def call_off(self) -> None:
        """The process does not stand still."""
        faulthandler.cancel_dump_traceback_later()

    def remove(self) -> None:
        """The process ends in order.  Another thread may still call ``end_after``, so the file stays open."""
        self.call_off()
        faulthandler.unregister(TELL)
        with contextlib.suppress(FileNotFoundError):
            Path(self._file.name).unlink()


def _open(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w")


def of_worker(run: str, worker: str) -> str:
    """What a worker that has ended left; "" = nothing."""
    found = sorted((out_directory() / "stacks").glob(f"{run}-{worker}-*"))
    said = "".join(path.read_text(errors="replace") for path in found)
    for path in found:
        path.unlink()
    return said
