"""A limit on the processor time of an attempt.

It does not count while the process is stopped, or while others have the CPU.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TooLongError(BaseException):
    """An attempt took too much processor time.  No ``except Exception`` of what is tried catches it."""


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise TooLongError


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise ``TooLongError`` in what runs inside, once it has used ``seconds`` of processor time.

    It is raised between two steps of the interpreter: a call of a C function ends first.  For the main thread only.
    """
    before = signal.signal(signal.SIGPROF, _end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
