"""The tunnel in a laboratory, and the programs that load it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from rsock_nf.lab.lab import Lab, Router
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.traffic import Application, EchoTarget
from rsock_nf.lab.tunnel import Role
from tests.evidence import FAILED, watched
from tests.netns.asked import AskedTunnel
from tests.netns.judges import Wires, make_load_programs, tracked_flows, wait_until

Build = Callable[..., "Site"]
STRICT = Router()
FLOWS = 10
"""One for each of the default ports."""


@pytest.fixture(scope="session", autouse=True)
def load_programs() -> None:
    """Before the first test that wants them."""
    make_load_programs()


@pytest.fixture(scope="session")
def soak() -> float:
    """Seconds of each load that is there to find what appears with time only; ``RSOCK_NF_SOAK=60 make test`` for
    long."""
    return float(os.environ.get("RSOCK_NF_SOAK", "5"))


@dataclass(slots=True)
class Site:
    """A tunnel that is up, with an application at one end and its echo target at the other."""

    lab: Lab
    tunnel: AskedTunnel
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


def _make(stack: ExitStack, router: Router | None = STRICT, *, up: bool = True, **options: Any) -> Site:
    """All of it goes with ``stack``."""
    # Not pytest's: the path of a Unix socket below it has 107 bytes at most.
    directory = Path(stack.enter_context(TemporaryDirectory(prefix="rsnf-")))
    lab = stack.enter_context(Lab(router))
    stack.enter_context(watched(lab, directory))
    tunnel = AskedTunnel(lab, directory / "tunnel", **options)
    if up:
        stack.enter_context(tunnel.standing())
    return Site(lab, tunnel, stack)


@pytest.fixture
def build() -> Iterator[Build]:
    """``build(router, up=True, version=4, client={...}, server={...})``; all of it goes at the test's end."""
    with ExitStack() as stack:
        yield partial(_make, stack)


@pytest.fixture
def site(build: Build) -> Site:
    """The usual case: strict NAT, UDP blocked, IPv4, up."""
    return build()


@pytest.fixture(scope="module")
def _shared_sites() -> Iterator[dict[str, tuple[Site, ExitStack]]]:
    sites: dict[str, tuple[Site, ExitStack]] = {}
    with ExitStack() as stack:
        yield sites
        for _, one in sites.values():
            stack.push(one)


@pytest.fixture
def share(_shared_sites: dict[str, tuple[Site, ExitStack]], request: pytest.FixtureRequest) -> Iterator[Build]:
    """As ``build``; but the tests of one file share what they ask for with the same arguments.

    For tests that leave the tunnel as they found it.  Applications and targets are each test's own, and a test that
    fails takes the tunnel with it.
    """
    with ExitStack() as own:
        used: list[str] = []

        def make(router: Router | None = STRICT, **options: Any) -> Site:
            key = f"{router} {options}"
            used.append(key)
            if key not in _shared_sites:
                with ExitStack() as stack:
                    made = _make(stack, router, **options)
                    _shared_sites[key] = made, stack.pop_all()
            shared = _shared_sites[key][0]
            return Site(shared.lab, shared.tunnel, own)

        yield make
    if request.node.stash.get(FAILED, False):
        for key in {key for key in used if key in _shared_sites}:
            _shared_sites.pop(key)[1].close()


@pytest.fixture
def shared_site(share: Build) -> Site:
    """The usual case, shared."""
    return share()
