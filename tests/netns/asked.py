"""A tunnel for tests of what a tunnel does, not of its commands."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rsock_nf.lab.tunnel import Role, Tunnel
from tests.netns.judges import wait_until


class AskedTunnel(Tunnel):
    """Its processes are asked and ended directly: a command costs an interpreter's start, and tests ask in loops."""

    def status(self, role: Role) -> dict[str, Any]:
        """What ``status --json`` prints, as the process says it; where there is none, what the command says."""
        sockets = list(self._run_dir(role).glob("*/control"))
        if len(sockets) == 1:
            with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(30)
                connection.connect(str(sockets[0]))
                connection.sendall(b'{"verb": "status"}\n')
                if reply := connection.makefile().readline():
                    answer: dict[str, Any] = json.loads(reply)["answer"]
                    return answer
        return super().status(role)

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Up inside; after it either end is told to go by SIGTERM, and leaves nothing but its log."""
        roles: tuple[Role, Role] = ("client", "server")
        try:
            self.up("server")
            self.up("client")
            yield
        except BaseException:
            for role in roles:
                self.end(role)
            raise
        for role in roles:
            self.end(role)
            files = [path for path in self._run_dir(role).rglob("*") if not path.is_dir() and "log" not in path.name]
            assert files == []

    def end(self, role: Role) -> None:
        """SIGTERM to that end's processes, and wait until they have gone."""
        for pid in self.pids(role):
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not self.pids(role), f"the {role} to end", 30)
