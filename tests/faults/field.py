"""Where a fault happens: the laboratory, the path, both ends of the tunnel, and the load."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path as FilePath
from tempfile import TemporaryDirectory
from typing import Any

from rsock_nf.lab.lab import DEVICE, OUTSIDE, Lab, Router
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.tunnel import LISTEN, TARGET, Role
from tests.faults.load import Load
from tests.faults.path import Path
from tests.netns.asked import AskedTunnel
from tests.netns.judges import wait_until

ELSEWHERE = ("127.0.0.1", 30001)
"""Where other applications than the load send."""
FLOWS = {"tcp": 10, "udp": 10, "all": 20}


@dataclass(frozen=True, slots=True)
class Variant:
    """What kind of tunnel meets the fault."""

    type: str = "tcp"
    cipher: str = "none"
    version: int = 4
    """Of IP."""
    wire: str = "native"

    @property
    def name(self) -> str:
        """As in the table."""
        sealed = "aes" if self.cipher == AES else self.cipher
        return f"{self.type} {sealed if self.wire == 'native' else self.wire}{' IPv6' if self.version == 6 else ''}"

    @property
    def flows(self) -> int:
        """How many flows it has when all is well."""
        return FLOWS[self.type]


AES = "aes-256-gcm"
PLAIN_TCP = Variant()
VARIANTS = (PLAIN_TCP, Variant("tcp", AES), Variant("udp"), Variant("udp", AES), Variant("all"), Variant("all", AES))


def carrying(status: dict[str, Any]) -> int:
    """How many flows carry, by ``status``."""
    flows = [flow for session in status.get("sessions", []) for flow in session["flows"]]
    return sum(flow["state"] == "established" for flow in flows)


@dataclass(slots=True)
class Field:
    """See the module."""

    variant: Variant
    lab: Lab
    way: Path | None
    """The path with the middlebox; None = client and router are joined directly, because the middlebox is too slow."""
    tunnel: AskedTunnel
    load: Load

    @property
    def path(self) -> Path:
        """The path with the middlebox."""
        assert self.way is not None, "this fault leaves the path alone"
        return self.way

    def host(self, role: Role) -> Namespace:
        """The client's or the server's."""
        return self.lab.client if role == "client" else self.lab.server

    def pid(self, role: Role) -> int:
        """The process of that end."""
        (found,) = self.tunnel.pids(role)
        return found

    def flows(self) -> int:
        """How many flows the client has that carry."""
        with contextlib.suppress(OSError, RuntimeError):
            return carrying(self.tunnel.status("client"))
        return 0

    def all_flows(self, seconds: float = 30) -> float:
        """Wait until every flow carries; how long it took."""
        return wait_until(lambda: self.flows() >= self.variant.flows, f"{self.variant.flows} flows", seconds)

    def kill(self, role: Role) -> None:
        """SIGKILL, and wait until the process has gone."""
        os.kill(self.pid(role), signal.SIGKILL)
        wait_until(lambda: not self.tunnel.pids(role), "the killed process to be gone")

    def conntrack(self, *words: str) -> None:
        """conntrack(8) on the router; that nothing matches is no error."""
        self.lab.router.run(["conntrack", *words], check=False)

    def run(self, role: Role, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command on that end's host."""
        return self.host(role).run(list(argv), check=check)

    @contextlib.contextmanager
    def stopped(self, role: Role) -> Iterator[None]:
        """SIGSTOP inside."""
        pid = self.pid(role)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def starved(self, share: float, roles: Sequence[Role]) -> Iterator[None]:
        """Inside, these ends get at most this share of a core: SIGSTOP for the rest of each tenth of a second."""
        pids = [self.pid(role) for role in roles]
        ended = threading.Event()

        def throttle() -> None:
            while not ended.wait(0.1 * share):
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP)
                ended.wait(0.1 * (1 - share))
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)

        thread = threading.Thread(target=throttle, name="throttle")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @contextlib.contextmanager
    def link_down(self, role: Role) -> Iterator[None]:
        """The only device of that host is down inside.  Its routes go with it, and come back."""
        host = self.host(role)
        routes = [line for line in host.run(["ip", "route"]).stdout.splitlines() if "default" in line]
        host.ip(f"link set {DEVICE} down")
        try:
            yield
        finally:
            host.ip(f"link set {DEVICE} up", *(f"route replace {line}" for line in routes))

    @contextlib.contextmanager
    def router_down(self) -> Iterator[None]:
        """The router's outer device is down inside, and it has forgotten every connection after it."""
        self.lab.router.ip(f"link set {OUTSIDE} down")
        try:
            yield
        finally:
            self.conntrack("-F")
            self.lab.router.ip(f"link set {OUTSIDE} up")

    @contextlib.contextmanager
    def end_down(self, role: Role) -> Iterator[None]:
        """That end is taken down in order, and comes up at the end."""
        self.tunnel.end(role)
        try:
            yield
        finally:
            self.tunnel.up(role)

    @contextlib.contextmanager
    def killed(self, role: Role) -> Iterator[None]:
        """That end is killed, and comes up at the end."""
        self.kill(role)
        try:
            yield
        finally:
            self.tunnel.up(role)


def _keys(variant: Variant) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the files of client and server say beside the usual."""
    if variant.wire == "rsock":
        keys = {"type": variant.type, "wire": "rsock", "hash": "between us", "secret": None}
        return keys, keys
    keys = {"type": variant.type, "cipher": variant.cipher}
    ends = [{"listen": "{}:{}".format(*LISTEN), "target": 0}, {"listen": "{}:{}".format(*ELSEWHERE), "target": 1}]
    targets = ["{}:{}".format(*TARGET), "127.0.0.1:9998"]
    return {**keys, "listen": None, "tunnels": ends}, {**keys, "target": None, "targets": targets}


@contextlib.contextmanager
def field(
    variant: Variant,
    *,
    rate: float = 300,
    sizes: tuple[int, int] = (200, 1200),
    conversations: int = 6,
    most: int = 0,
    direct: bool = False,
    prefix: str = "rsft",
) -> Iterator[Field]:
    """A tunnel of this kind under load.  ``direct``: without the middlebox.  ``prefix``: of the namespaces' names.

    A second local end of the client leads to a second target, for other applications (``ELSEWHERE``).  The original's
    wire has one target only.
    """
    with ExitStack() as stack:
        directory = FilePath(stack.enter_context(TemporaryDirectory(prefix="rsnf-")))
        lab = stack.enter_context(Lab(Router(block_udp=variant.type == "tcp"), prefix=prefix))
        path = None if direct else stack.enter_context(Path(lab))
        client, server = _keys(variant)
        tunnel = AskedTunnel(lab, directory, version=variant.version, client=client, server=server)
        stack.enter_context(tunnel.standing())
        load = stack.enter_context(Load(lab, rate=rate, conversations=conversations, most=most, sizes=sizes))
        made = Field(variant, lab, path, tunnel, load)
        wait_until(lambda: load.is_heard, "the load in both directions")
        yield made
