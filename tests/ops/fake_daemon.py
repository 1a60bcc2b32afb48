"""An instance whose tunnel is a fake: the real lock, log, control socket and signals around nothing.

fake_daemon.py BEHAVIOUR [--ready-fd N] < SETTINGS; without N, in the foreground
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rsock_firewall import FirewallError
from rsock_nf import daemon
from rsock_nf.errors import NotYetError, TunnelError
from rsock_nf.ops import handover
from rsock_nf.settings import Settings


class FakeTunnel:
    """``behaviour``: ready | absent | brief | early | silent | refused | broken | stubborn | late-failure | secretive |
    unwilling | hopeless."""

    tried = False
    """The host has been asked once for what it does not have yet."""

    def __init__(self, behaviour: str, settings: Settings, log: logging.Logger) -> None:
        self.behaviour = behaviour
        self.settings = settings
        self.log = log
        self.reconnects = 0
        if behaviour == "early":  # `down` while the tunnel's modules are being imported
            signal.raise_signal(signal.SIGTERM)

    async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        self.log.debug("a line for those who want to know everything: %r", self.settings)
        match self.behaviour:
            case "absent" if not FakeTunnel.tried:
                FakeTunnel.tried = True
                raise NotYetError("no route to 203.0.113.5")
            case "refused":
                raise TunnelError("ports: 10001 is taken by another process")
            case "broken":
                raise ZeroDivisionError("of no use\nto anyone")
            case "brief":
                signal.raise_signal(signal.SIGTERM)
                await stop.wait()
            case "silent" | "early" | "hopeless":
                await stop.wait()
            case "stubborn":
                asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                ready()
                await asyncio.Event().wait()
            case "late-failure":
                ready()
                raise TunnelError("device eth0 is gone")
            case _:
                ready()
                await stop.wait()

    async def snapshot_in_steps(self) -> dict[str, Any]:
        return self.snapshot()

    def snapshot(self) -> dict[str, Any]:
        if self.behaviour == "secretive":
            raise FirewallError("nftables refused:\nno such table")
        if self.behaviour == "hopeless":
            return {
                "name": self.settings.name,
                "state": "connecting",
                "hopeless": True,
                "reason": "the secret is another",
            }
        return {"name": self.settings.name, "role": "server", "state": "connecting", "reason": "no answer from 203.0.113.5",
                "sessions": [], "reconnects": self.reconnects, "keepalive": self.settings.tunnel.keepalive}  # fmt: skip

    async def ping(self, question: Mapping[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"replies": [], "reason": f"asked with {len(question)} keys"}

    async def speedtest(self, question: Mapping[str, Any]) -> dict[str, Any]:
        return {"phase": "failed", "error": f"asked with {len(question)} keys"}

    def headline(self) -> str:
        return "starting" if self.behaviour == "absent" else "connecting: no answer from 203.0.113.5"

    async def reconnect(self) -> None:
        self.reconnects += 1

    async def keys(self) -> list[dict[str, Any]]:
        return [{"flow": 1}]

    async def kick(self, name: str) -> int:
        return 2 if name == "alice" else 0

    async def adopt(self, settings: Settings) -> None:
        if self.behaviour == "unwilling":
            raise TunnelError("the instance has not begun yet")
        self.settings = settings


def main() -> int:
    behaviour, *options = sys.argv[1:]
    assert options[:-1] in ([], ["--ready-fd"])
    if behaviour == "dead":
        sys.stderr.write("Traceback\nImportError: no module named soap\n")
        return 3
    return daemon.run(
        handover.receive(sys.stdin.buffer),
        wait=behaviour == "absent",
        ready_fd=int(options[-1]) if options else None,
        make_tunnel=lambda settings, log: FakeTunnel(behaviour, settings, log),
    )


if __name__ == "__main__":
    sys.exit(main())
