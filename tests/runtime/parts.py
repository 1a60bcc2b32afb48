"""Stand-ins for what a side is made of, and an event loop that never runs."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

from rsock_firewall import Counters, Held
from rsock_nf.core.ends.top_sources import TopSources
from rsock_nf.core.types import Outgoing
from rsock_nf.link import Link, LinkCounters
from rsock_nf.link.kernel_routes import KernelRoutes
from rsock_nf.runtime.reports.troubles import Troubles
from rsock_nf.runtime.tunnel import Start

LOG = logging.getLogger("tests.runtime")


class Loop:
    """Remembers who is read and written, by descriptor."""

    def __init__(self) -> None:
        self.read: dict[int, Any] = {}
        self.written: dict[int, Any] = {}

    def add_reader(self, descriptor: int, *callback: Any) -> None:
        self.read[descriptor] = callback

    def remove_reader(self, descriptor: int) -> bool:
        return self.read.pop(descriptor, None) is not None

    def add_writer(self, descriptor: int, *callback: Any) -> None:
        self.written[descriptor] = callback

    def remove_writer(self, descriptor: int) -> bool:
        return self.written.pop(descriptor, None) is not None


def start(loop: Any = None) -> Start:
    """What a side begins with."""
    return Start(loop or cast("Any", Loop()), LOG, Troubles(), lambda: None)


def endpoint(**role: Any) -> Any:
    """One that wants nothing, and whose role has these verbs."""
    verbs = SimpleNamespace(**{"crowds": lambda _: [], "strangers": TopSources(), **role})
    return SimpleNamespace(
        poll=list,
        next_timeout=lambda: None,
        counters={},
        sessions=[],
        receive_mtu=lambda *_: None,
        role=verbs,
        knows=lambda _: True,
        knows_carrier=lambda _: True,
    )


def link(**verbs: Any) -> Link:
    """One that nothing happens to, but for ``verbs``."""
    quiet: dict[str, Any] = {
        "mtu": 1500,
        "waited": 0.0,
        "max_burst_bytes": 0,
        "warnings": (),
        "fileno": lambda: 100,
        "strangers_fileno": lambda: -1,
        "serve_first": lambda _: None,
        "write_fileno": lambda: 100,
        "event_fileno": lambda: 101,
        "counters": LinkCounters,
        "events": list,
        "tick": lambda _: None,
        "routes": KernelRoutes(),
        "close": lambda: None,
        "send": len,
    }
    return cast("Link", SimpleNamespace(**{**quiet, **verbs}))


def held(**verbs: Any) -> Held:
    """Rules that somebody may tell of changes."""
    quiet: dict[str, Any] = {"fileno": lambda: 0, "update": lambda _: None, "counters": Counters}
    return cast("Held", SimpleNamespace(**{**quiet, **verbs}))


def burst(size: int = 4) -> Outgoing:
    """One for the link."""
    return Outgoing(b"headers", [memoryview(bytes(size))], size, 0)
