"""A laboratory of network namespaces: client - router - server, or client - server.

The router judges the tunnel: ``Router(strict=True)`` is a strict stateful NAT, in which no packet of the tunnel may be
INVALID.  ``rsock-nf demo``, the tests and the benchmark use it.  It never touches the host's own namespace, and removes
what it made, also after a failure or SIGINT.

Needs root and the commands ``ip`` and ``nft`` (and ``ethtool`` for ``offload``).

Traffic is in ``traffic``; captures and their judgement are in the tests.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rsock_nf.lab.netns import CommandFailed, Namespace, orphans

CLIENT_IP = {4: "10.77.1.2", 6: "fd77:1::2"}
ROUTER_INSIDE_IP = {4: "10.77.1.1", 6: "fd77:1::1"}
ROUTER_OUTSIDE_IP = {4: "10.77.2.1", 6: "fd77:2::1"}
SERVER_IP = {4: "10.77.2.2", 6: "fd77:2::2"}
SERVER_DIRECT_IP = {4: "10.77.1.3", 6: "fd77:1::3"}
PREFIX_LENGTH = {4: 24, 6: 64}
DEFAULT_ROUTE = {4: "0.0.0.0/0", 6: "::/0"}
DEVICE = "eth0"
"""The only device of client and server."""
INSIDE, OUTSIDE = "inside", "outside"
"""The router's devices, toward client and server."""

_serial = itertools.count()


@dataclass(frozen=True, slots=True)
class Router:
    """The router between client and server.  It treats both address families alike."""

    strict: bool = True
    """Track connections, drop INVALID (counted), masquerade, refuse from outside all but established traffic,
    with ``nf_conntrack_tcp_loose=0`` and ``nf_conntrack_tcp_be_liberal=0``.  Off: forward everything."""
    block_udp: bool = True
    """Drop all UDP (counted), so that what arrives was carried by the tunnel."""
    maxseg: int = 0
    """Set the MSS option of every SYN to this; 0 = leave it."""
    strip_wscale: bool = False
    """Take the window scale option out of every SYN, before the tracker sees it."""
    loss: int = 0
    """Percent of forwarded packets dropped at random, behind the tracker."""


def ruleset(router: Router) -> str:
    """The router's nft script.

    INVALID packets are dropped in prerouting, not in forward: an untranslated packet is
    addressed to the router itself and would be answered by its kernel with a RST.
    """
    syn = "tcp flags & syn == syn"
    lines = [
        "table inet lab {",
        *(f"counter {name} {{ }}" for name in _COUNTERS),
        "chain arriving { type filter hook prerouting priority raw; policy accept;",
        f'iifname "{INSIDE}" tcp flags & rst == rst counter name rst_inside',
        f'iifname "{OUTSIDE}" tcp flags & rst == rst counter name rst_outside',
        f'iifname "{INSIDE}" meta l4proto tcp counter name tcp_inside',
        f'iifname "{OUTSIDE}" meta l4proto tcp counter name tcp_outside',
        f"{syn} reset tcp option window" if router.strip_wscale else "",
        f"{syn} tcp option maxseg size set {router.maxseg}" if router.maxseg else "",
        "}",
        "chain leaving { type filter hook output priority raw; policy accept;",
        "tcp flags & rst == rst counter name rst_router",
        "}",
        "chain trouble { }",
        f"chain passing {{ type filter hook forward priority filter; policy {'drop' if router.strict else 'accept'};",
        "jump trouble",
        "meta l4proto udp counter name udp_refused drop" if router.block_udp else "",
        f"numgen random mod 100 < {router.loss} counter name lost drop" if router.loss else "",
    ]
    if router.strict:
        lines += [
            f'iifname "{INSIDE}" accept',
            "ct state established,related accept",
            "counter name refused",
            "}",
            "chain judge { type filter hook prerouting priority mangle; policy accept;",
            "ct state invalid counter name invalid drop",
            "}",
            "chain translate { type nat hook postrouting priority srcnat; policy accept;",
            f'oifname "{OUTSIDE}" masquerade',
        ]
    return "\n".join([*lines, "}", "}"])


_COUNTERS = (
    "invalid", "refused", "udp_refused", "lost", "blackholed",
    "rst_inside", "rst_outside", "rst_router", "tcp_inside", "tcp_outside",
)  # fmt: skip


class Lab:
    """``with Lab(Router()) as lab:`` gives ``lab.client``, ``lab.router`` and ``lab.server``.

    ``router=None`` connects client and server directly.

    Raises ``CommandFailed`` (one line) when the host cannot do it: not root, or a command missing.
    """

    def __init__(self, router: Router | None = Router(), prefix: str = "rsnf") -> None:
        self.kind = router
        self.prefix = prefix
        self.name = f"{prefix}-{os.getpid()}-{next(_serial)}"
        self.client_ip = dict(CLIENT_IP)
        self.server_ip = dict(SERVER_IP if router else SERVER_DIRECT_IP)
        self._made: dict[str, Namespace] = {}

    def __enter__(self) -> Self:
        try:
            for leftover in orphans(rf"{self.prefix}-(\d+)-\d+-(client|router|server)"):
                Namespace(leftover, create=False).close()
            for role in ("client", "router", "server") if self.kind else ("client", "server"):
                self._made[role] = Namespace(f"{self.name}-{role}")
            if self.kind:
                self._wire_through(self.kind)
            else:
                self._wire_directly()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process inside and remove all namespaces.  Idempotent."""
        with contextlib.ExitStack() as stack:  # if one fails, the others are closed all the same
            for namespace in self._made.values():
                stack.callback(namespace.close)

    @property
    def client(self) -> Namespace:
        """The host behind the NAT."""
        return self._made["client"]

    @property
    def server(self) -> Namespace:
        """The host on the open network."""
        return self._made["server"]

    @property
    def router(self) -> Namespace:
        """The NAT; KeyError in a lab without one."""
        return self._made["router"]

    def counters(self) -> dict[str, int]:
        """The router's counters, in packets (a merged burst is one): ``invalid``, ``refused``, ..."""
        listing = json.loads(self.router.run(["nft", "-j", "list", "counters"]).stdout)
        return {
            item["counter"]["name"]: item["counter"]["packets"] for item in listing["nftables"] if "counter" in item
        }

    def invalid(self) -> int:
        """Packets that the tracker judged INVALID, and dropped."""
        return self.counters()["invalid"]

    def rsts(self) -> int:
        """RSTs that arrived at the router on either wire, or that it made itself."""
        seen = self.counters()
        return seen["rst_inside"] + seen["rst_outside"] + seen["rst_router"]

    def conntrack(self) -> list[str]:
        """The router's tracked connections, one a line (nf_conntrack in /proc/net)."""
        return self.router.read("nf_conntrack").splitlines()

    @contextlib.contextmanager
    def black_hole(self, match: str) -> Iterator[None]:
        """While inside, the router loses what matches (an nft expression such as ``tcp dport 10003``).

        It is lost after the connection tracker has seen it, which is the harder case for a tunnel.
        """
        rule = f"{match} counter name blackholed drop"
        self.router.nft(f"add rule inet lab trouble {rule}")
        try:
            yield
        finally:
            self.router.nft("flush chain inet lab trouble")

    def set_mtu(self, mtu: int, *, outside_only: bool = False) -> None:
        """Set the MTU of every device, or only of the wire between router and server (path MTU tests)."""
        wires = [(self.server, DEVICE)]
        wires += [(self.router, OUTSIDE)] if self.kind else []
        if not outside_only:
            wires += [(self.client, DEVICE)] + ([(self.router, INSIDE)] if self.kind else [])
        for namespace, device in wires:
            namespace.ip(f"link set {device} mtu {mtu}")

    def offload(self, namespace: Namespace, device: str = DEVICE, **features: bool) -> None:
        """Toggle offloads by their ethtool(8) names, as ``tso=False, gro=True``."""
        pairs = [word for name, on in features.items() for word in (name.replace("_", "-"), "on" if on else "off")]
        namespace.run(["ethtool", "-K", device, *pairs])

    def renumber_client(self, version: int, address: str) -> None:
        """Give the client another address in its network, as a DHCP server or a roaming host would."""
        old, length = self.client_ip[version], PREFIX_LENGTH[version]
        flags = " nodad" if version == 6 else ""
        self.client.ip(
            # Deleted first: with the primary IPv4 address its secondaries go, too (promote_secondaries=0).
            f"addr del {old}/{length} dev {DEVICE}",
            f"addr add {address}/{length} dev {DEVICE}{flags}",
            f"route replace {DEFAULT_ROUTE[version]} via {ROUTER_INSIDE_IP[version]}",
        )
        self.client_ip[version] = address

    def _wire_through(self, router: Router) -> None:
        self.router.ip(
            f"link add {INSIDE} type veth peer name {DEVICE} netns {self.client.name}",
            f"link add {OUTSIDE} type veth peer name {DEVICE} netns {self.server.name}",
        )
        _address(self.router, INSIDE, ROUTER_INSIDE_IP)
        _address(self.router, OUTSIDE, ROUTER_OUTSIDE_IP)
        _address(self.client, DEVICE, self.client_ip, gateway=ROUTER_INSIDE_IP)
        _address(self.server, DEVICE, self.server_ip, gateway=ROUTER_OUTSIDE_IP)
        self.router.sysctl("net.ipv4.ip_forward", "1")
        self.router.sysctl("net.ipv6.conf.all.forwarding", "1")
        self.router.nft(ruleset(router))
        if router.strict:
            # The default of tcp_loose is 1.  A tracker that picks up connections in the middle would judge nothing.
            self.router.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")
            self.router.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0")

    def _wire_directly(self) -> None:
        self.client.ip(f"link add {DEVICE} type veth peer name {DEVICE} netns {self.server.name}")
        _address(self.client, DEVICE, self.client_ip)
        _address(self.server, DEVICE, self.server_ip)


def _address(namespace: Namespace, device: str, ip: dict[int, str], gateway: dict[int, str] | None = None) -> None:
    """Bring ``device`` up with one address a family, and default routes."""
    commands = [
        f"link set {device} up",
        f"addr add {ip[4]}/{PREFIX_LENGTH[4]} dev {device}",
        f"addr add {ip[6]}/{PREFIX_LENGTH[6]} dev {device} nodad",
    ]
    if gateway:
        commands += [f"route add {DEFAULT_ROUTE[version]} via {address}" for version, address in gateway.items()]
    namespace.ip(*commands)


__all__ = ["DEVICE", "INSIDE", "OUTSIDE", "CommandFailed", "Lab", "Namespace", "Router", "ruleset"]
