"""The tunnel in a laboratory, and the programs that load it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.lab.lab import Lab, Router
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.traffic import Application, EchoTarget
from rsock_nf.lab.tunnel import Role, Tunnel
from tests.evidence import watched
from tests.netns.judges import Wires, tracked_flows, wait_until

STRICT = Router()
FLOWS = 10
"""One for each of the default ports."""


@pytest.fixture(scope="session", autouse=True)
def load_programs() -> None:
    """The benchmark's C programs: Python is too slow to fill the tunnel."""
    bench = Path(__file__).parents[2] / "bench"
    lock = os.open(bench, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # every worker wants them
        subprocess.run(["make", "-s", "-C", str(bench)], check=True)
    finally:
        os.close(lock)


@pytest.fixture(scope="session")
def soak() -> float:
    """Seconds of each load that is there to find what appears with time only; ``RSOCK_NF_SOAK=60 make test`` for long."""
    return float(os.environ.get("RSOCK_NF_SOAK", "8"))


@dataclass(slots=True)
class Site:
    """A tunnel that is up, with an application at one end and its echo target at the other."""

    lab: Lab
    tunnel: Tunnel
    stack: ExitStack

    def application(self) -> Application:
        """Another application, that is another conversation."""
        return self.stack.enter_context(Application(self.lab))

    def target(self) -> EchoTarget:
        """The echo target; not beside a C receiver on the same port."""
        return self.stack.enter_context(EchoTarget(self.lab))

    def host(self, role: Role) -> Namespace:
        """The client's or the server's."""
        return self.lab.client if role == "client" else self.lab.server

    def carries(self, count: int = 2000) -> None:
        """Assert that datagrams of a conversation come and go unharmed; leaves no socket behind."""
        with EchoTarget(self.lab) as target, Application(self.lab) as application:
            found = application.exchange(count)
        assert found.lost == 0
        assert found.corrupted == target.corrupted == 0

    def kill(self, role: Role) -> None:
        """SIGKILL to that end, and wait until it has gone."""
        pids = self.tunnel.pids(role)
        assert pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.tunnel.pids(role), "the killed process to be gone")

    def watch(self) -> Wires:
        """``with site.watch() as wires:`` - every RST on every wire from here on."""
        return Wires(self.lab, self.tunnel.directory / "wires")

    def all_flows(self) -> set[tuple[str, str]]:
        """Wait until every flow is dialled (they are staggered); the router's view of them."""
        wait_until(lambda: len(tracked_flows(self.lab)) >= FLOWS, f"{FLOWS} flows")
        return tracked_flows(self.lab)

    def no_offence(self) -> None:
        """Assert that the router found nothing to object to."""
        counters = self.lab.counters()
        assert counters["invalid"] == 0
        assert counters["refused"] == 0
        assert self.lab.rsts() == 0
        assert counters["udp_refused"] == 0
        assert counters["tcp_inside"] > 0
        assert counters["tcp_outside"] > 0


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """``build(router, up=True, version=4, client={...}, server={...})``; all of it goes at the test's end."""
    with ExitStack() as stack:

        def make(router: Router | None = STRICT, *, up: bool = True, **options: Any) -> Site:
            lab = stack.enter_context(Lab(router))
            stack.enter_context(watched(lab, tmp_path))
            tunnel = Tunnel(lab, tmp_path / "tunnel", **options)
            if up:
                stack.enter_context(tunnel)
            return Site(lab, tunnel, stack)

        yield make


@pytest.fixture
def site(build: Callable[..., Site]) -> Site:
    """The usual case: strict NAT, UDP blocked, IPv4, up."""
    return build()
