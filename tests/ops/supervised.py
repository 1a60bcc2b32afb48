"""A stand-in for systemd: the socket to which a service sends its messages, and the variables that tell of it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Manager:
    """``with Manager(address) as manager:`` what arrives at ``address``, a path or ``@`` and an abstract name."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(30)

    def __enter__(self) -> Self:
        self._socket.bind(f"\0{self.address[1:]}" if self.address[0] == "@" else self.address)
        if self.address[0] != "@":
            Path(self.address).chmod(0o777)  # as systemd's is: services are of any user
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def variables(self, *, journal: int | None = None, watchdog: float | None = None) -> dict[str, str]:
        """``journal``: the descriptor that the service gets as standard error.  ``watchdog``: in seconds."""
        found = {"NOTIFY_SOCKET": self.address}
        if watchdog is not None:
            found["WATCHDOG_USEC"] = str(round(watchdog * 1e6))
        if journal is not None:
            there = os.fstat(journal)
            found["JOURNAL_STREAM"] = f"{there.st_dev}:{there.st_ino}"
        return found

    def next(self) -> dict[str, str]:
        """The next message."""
        lines = self._socket.recv(4096).decode().split("\n")
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def until(self, name: str, value: str | None = None) -> list[dict[str, str]]:
        """All messages up to the one that has ``name``, and this value."""
        found: list[dict[str, str]] = []
        while not found or name not in found[-1] or value not in {None, found[-1][name]}:
            found.append(self.next())
        return found


def named(messages: list[dict[str, str]], *names: str) -> list[Any]:
    """The names in the messages, in their order, of those that are asked for."""
    return [name for message in messages for name in message if name in names]
