"""A signal that tells a command to end becomes an exception, so that what the command has begun is undone.

For commands that wait (``launch``, ``demo``).  Not for an instance: that one has an event loop (``rsock_nf.daemon``).
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn


@contextlib.contextmanager
def leaving_in_order() -> Iterator[None]:
    """Within, the first SIGTERM or SIGHUP raises ``SystemExit`` (128 + its number, as shells have it) as Ctrl-C raises
    ``KeyboardInterrupt``; the next ones change nothing.  To be called in the main thread."""

    def leave(number: int, _: object) -> NoReturn:
        for each in usual:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    usual = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    for each, handler in usual.items():
        if handler is signal.SIG_DFL:  # not what nohup(1) ignores
            signal.signal(each, leave)
    try:
        yield
    finally:
        for each, handler in usual.items():
            signal.signal(each, handler)
