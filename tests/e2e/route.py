"""How the programs of a test reach each other: plain UDP, or the tunnel through a router that lets no UDP pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rsock_nf.lab.lab import Lab, Router
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.tunnel import LISTEN, TARGET
from tests.evidence import watched
from tests.netns.asked import AskedTunnel
from tests.netns.judges import wait_until


@dataclass(frozen=True, slots=True)
class Route:
    """Datagrams sent to ``host``:``port`` on the client's host come out at UDP port ``TARGET[1]`` of the server's."""

    lab: Lab
    host: str
    port: int
    tunnelled: bool
    carriers: str = "tcp"
    """The tunnel's ``type``."""

    def judge(self) -> None:
        """What has to be true once the traffic is over: it went where the test says, and nobody took offence."""
        counters = self.lab.counters()
        assert counters["invalid"] == 0
        assert self.lab.rsts() == 0
        if self.tunnelled:
            tcp = self.carriers != "udp"
            assert (counters["tcp_inside"] > 0) is tcp
            assert (counters["tcp_outside"] > 0) is tcp
            assert counters["udp_refused"] == 0  # nobody even tried
            assert not self._tracked(TARGET[1]), "the application's own datagrams were on the way"

    def _tracked(self, port: int) -> list[str]:
        """The router's UDP connections to that port."""
        return [line for line in self.lab.conntrack() if " udp " in line and f"dport={port} " in line]


@contextlib.contextmanager
def directly(directory: Path, version: int = 4) -> Iterator[Route]:
    """No tunnel: shows that the programs and this harness work."""
    with Lab(Router(block_udp=False)) as lab, watched(lab, directory):
        yield Route(lab, lab.server_ip[version], TARGET[1], tunnelled=False)


@contextlib.contextmanager
def through_tunnel(directory: Path, version: int = 4, **common: object) -> Iterator[Route]:
    """The tunnel; unless it needs UDP, that is blocked on the way, so that nothing else can have carried it."""
    carriers = str(common.get("type", "tcp"))
    with (
        Lab(Router(block_udp=carriers == "tcp")) as lab,
        watched(lab, directory),
        AskedTunnel(lab, directory, version=version, client=common, server=common).standing(),
    ):
        yield Route(lab, *LISTEN, tunnelled=True, carriers=carriers)


def wait_for_port(namespace: Namespace, port: int, kind: str = "tcp") -> None:
    """Until a program on that host listens (``tcp``) or is bound (``udp``)."""
    flag = {"tcp": "-Htln", "udp": "-Huln"}[kind]
    wait_until(lambda: bool(namespace.run(["ss", flag, f"sport = :{port}"]).stdout), f"{kind} port {port}", 30)
