"""What this process tells the service manager that started it, as sd_notify(3) of systemd has it.

A message is one datagram of lines ``NAME=value`` to the Unix socket that ``NOTIFY_SOCKET`` names; ``@`` at its
beginning stands for the zero byte of an abstract name.  ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` ask for a sign of life
(sd_watchdog_enabled(3)).  Other supervisors have the same protocol: runit's and s6's wrappers, podman.

Nothing here fails: a service whose manager does not listen goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping

from rsock_nf.printable import printable

LOOK = 1.0
"""Seconds from one look at the state to the next."""


class Supervisor:
    """See the module.  Without ``NOTIFY_SOCKET`` each method does nothing."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Takes the variables out of ``environment``: no process that we start is to speak for us."""
        address = environment.pop("NOTIFY_SOCKET", "")
        period, whom = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        self._socket = _connected(address) if address[:1] in {"/", "@"} else None
        self._alive_every: float | None = None
        """Seconds from one sign of life to the next: half of what the manager waits for; None = it wants none."""
        if self._socket is not None and period.isdecimal() and whom in {"", str(os.getpid())}:
            self._alive_every = int(period) / 2e6
        self._told = ""

    def ready(self) -> None:
        """It stands, or has done what ``reloading`` announced."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """It reads its configuration again; ``ready`` follows.  The clock: see systemd.service(5), notify-reload."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It goes down."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """What it does, in one line for people.  The same line again is not sent."""
        line = printable(" ".join(text.split()))
        if line != self._told:
            self._told = line
            self._tell(f"STATUS={line}")

    def attend(self, loop: asyncio.AbstractEventLoop, state: Callable[[], str]) -> None:
        """From now on tell ``state()`` each time it changes, and that the event loop still turns, until that ends."""
        if self._socket is None:
            return
        self.status(state())
        if self._alive_every is not None:
            self._tell("WATCHDOG=1")
        loop.call_later(min(LOOK, self._alive_every or LOOK), self.attend, loop, state)

    def close(self) -> None:
        """Nothing more is told.  Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it has gone, or does not read: BlockingIOError
                self._socket.send("\n".join(lines).encode())


def _connected(address: str) -> socket.socket | None:
    """Opened here, before this process may become another user.  None = nobody is there."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    try:
        made.connect(f"\0{address[1:]}" if address[0] == "@" else address)
    except OSError:
        made.close()
        return None
    return made
