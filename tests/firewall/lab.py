"""Three network namespaces in a row (peer - host - beyond), and eyes on the wires between them.

``host`` is where rules are installed: it has device ``left`` toward ``peer`` and ``right`` toward ``beyond``, and
forwards between them.  Tests run inside a namespace by setns(2) on their own thread.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from pyroute2 import netns

from rsock_firewall.policy import Counters, IPAddress

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 263, 6, 23
SYN, RST, ACK, SYN_ACK = 0x02, 0x04, 0x10, 0x12

ADDRESSES = {
    "peer": (ip_address("10.66.1.2"), ip_address("fd66:1::2")),
    "host": (ip_address("10.66.1.1"), ip_address("fd66:1::1")),  # on its left
    "beyond": (ip_address("10.66.2.2"), ip_address("fd66:2::2")),
}


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread, and what it starts, in another network namespace."""
    with Path("/proc/thread-self/ns/net").open() as home:  # pyroute2's pushns saves that of the process's first thread
        netns.setns(namespace, flags=0)
        try:
            yield
        finally:
            netns.setns(home.fileno())


class Segment(NamedTuple):
    """What a tap saw."""

    source: IPAddress
    destination: IPAddress
    source_port: int
    destination_port: int
    flags: int
    sequence: int


class Tap:
    """An AF_PACKET socket as the link has it: ETH_P_ALL, bound to one device, incoming packets."""

    def __init__(self, device: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)  # a flood of our own would fill the buffer
        self._socket.bind((device, ETH_P_ALL))

    def until(self, wanted: Callable[[Segment], bool], seconds: float = 5.0) -> list[Segment]:
        """Every TCP segment up to the first that is wanted; fails if none comes, or if the tap lost any."""
        deadline = time.monotonic() + seconds
        seen: list[Segment] = []
        while not seen or not wanted(seen[-1]):
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                segment = _parse(self._socket.recv(65535))
            except TimeoutError:
                raise AssertionError(f"not seen within {seconds} s; seen: {seen[-20:]}") from None
            if segment:
                seen.append(segment)
        _packets, lost = struct.unpack("=II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        assert lost == 0
        return seen

    def close(self) -> None:
        self._socket.close()


def _parse(data: bytes) -> Segment | None:
    if data[0] >> 4 == 4 and data[9] == socket.IPPROTO_TCP:
        tcp, source, destination = data[(data[0] & 15) * 4 :], data[12:16], data[16:20]
    elif data[0] >> 4 == 6 and data[6] == socket.IPPROTO_TCP:
        tcp, source, destination = data[40:], data[8:24], data[24:40]
    else:
        return None
    source_port, destination_port, sequence = struct.unpack_from("!HHI", tcp)
    return Segment(ip_address(source), ip_address(destination), source_port, destination_port, tcp[13], sequence)


class Sender:
    """Raw TCP segments of any kind, past our own kernel's TCP."""

    def __init__(self) -> None:
        self._sockets = {
            4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP),
            6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP),
        }

    def send(self, segment: Segment, payload: bytes = b"") -> None:
        raw = self._sockets[segment.source.version]
        with suppress(OSError):  # bound already
            raw.bind((str(segment.source), 0))
        header = struct.pack(
            "!HHIIBBHHH",
            segment.source_port,
            segment.destination_port,
            segment.sequence,
            1,
            5 << 4,
            segment.flags,
            8192,
            0,
            0,
        )
        tcp = header + payload
        pseudo = segment.source.packed + segment.destination.packed + struct.pack("!II", len(tcp), socket.IPPROTO_TCP)
        total = int.from_bytes(pseudo + tcp + bytes(len(tcp) % 2)) % 0xFFFF
        raw.sendto(tcp[:16] + struct.pack("!H", 0xFFFF - total) + tcp[18:], (str(segment.destination), 0))

    def close(self) -> None:
        for raw in self._sockets.values():
            raw.close()


@dataclass
class Lab:
    """The three namespaces, by role."""

    names: dict[str, str]
    _sequence: Iterator[int] = field(default_factory=lambda: itertools.count(1000))

    def inside(self, role: str = "host") -> AbstractContextManager[None]:
        return inside(self.names[role])

    def run(self, command: str, role: str = "host", *, check: bool = True) -> str:
        """Output of a command; words are split at blanks."""
        words = ["ip", "netns", "exec", self.names[role], *command.split()]
        return subprocess.run(words, check=check, capture_output=True, text=True, timeout=20).stdout

    def load(self, text: str, command: str) -> None:
        """Feed ``text`` to a command on the host."""
        words = ["ip", "netns", "exec", self.names["host"], *command.split()]
        done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{text}"

    def state(self) -> dict[str, str]:
        """The host's packet filter as its administrator sees it; a legacy table, once loaded, stays listed while
        empty.  A chain that was made later would stand last: chains are in the order of their names."""
        saved = {"nft": _CHAINS.sub(_sorted_chains, self.run("nft list ruleset"))}
        for command in ("iptables-legacy-save", "ip6tables-legacy-save"):
            text = self.run(f"{command} -t raw") + self.run(f"{command} -t mangle")
            lines = [line for line in text.splitlines() if not line.startswith("#")]
            saved[command] = "\n".join(_without_counters(line) for line in lines)
        return saved

    def counted(self, name: str) -> Counters | None:
        """What the rules of an instance counted, as nft and iptables-save list them; None = it has no rules."""
        found: list[tuple[bool, int, int]] = []
        for entry in json.loads(self.run("nft -j list ruleset"))["nftables"]:
            rule = entry.get("rule", {})
            if rule.get("table") == f"rsock_nf_{name}":
                (counter,) = [part["counter"] for part in rule["expr"] if "counter" in part]
                found.append((rule["chain"] == "output", counter["packets"], counter["bytes"]))
        for command in ("iptables-legacy-save", "ip6tables-legacy-save"):
            rules = re.findall(rf"^\[(\d+):(\d+)\] -A RSOCK_NF(O?)_{name} ", self.run(f"{command} -c"), re.MULTILINE)
            found += [(bool(output), int(packets), int(octets)) for packets, octets, output in rules]
        if not found:
            return None
        sums = [sum(rule[field] for rule in found if rule[0] is output) for output in (False, True) for field in (1, 2)]
        return Counters(*sums)

    def segment(self, ports: tuple[int, int], flags: int, version: int = 4) -> Segment:
        """From the peer to the host's left address, with a sequence number to know it by."""
        index = 0 if version == 4 else 1
        return Segment(ADDRESSES["peer"][index], ADDRESSES["host"][index], *ports, flags, next(self._sequence))

    def answered(self, probes: list[Segment], free: tuple[int, int]) -> list[Segment]:
        """Send probes, then a SYN to ``free`` (ports that nobody holds); what the host answered before it reset that
        one.

        Also asserts that a tap on the host saw every probe.  A wire keeps the order, so nothing is waited for.
        """
        version = probes[0].source.version
        last = self.segment(free, SYN, version)
        with self.inside("host"):
            host_tap = Tap("left")
        with self.inside("peer"):
            peer_tap, sender = Tap("eth"), Sender()
        try:
            for probe in probes:
                sender.send(probe, b"data" if probe.flags == ACK else b"")
            sender.send(last)
            answers = peer_tap.until(lambda s: s.source == last.destination and s.source_port == free[1])
            assert answers[-1].flags & RST, "the free port did not answer with RST"
            seen = host_tap.until(lambda s: s.sequence == last.sequence and s.source == last.source)
            assert [s for s in seen if s.source == last.source] == [*probes, last]
            return [s for s in answers[:-1] if s.source == last.destination]
        finally:
            sender.close()
            peer_tap.close()
            host_tap.close()

    @contextmanager
    def child(self, code: str, role: str = "host") -> Iterator[subprocess.Popen[str]]:
        """A Python process that runs ``code``, which prints "ready" when it is; killed at the end."""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", textwrap.dedent(code)]
        pipe = subprocess.PIPE
        with self.inside(role):
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()
            with process:
                pass


_CHAINS = re.compile(r"(?:\n*\tchain \w+ \{\n(?:\t\t.*\n)*\t\}\n)+")


def _sorted_chains(chains: re.Match[str]) -> str:
    return "\n".join(sorted(re.findall(r"\tchain \w+ \{\n(?:\t\t.*\n)*\t\}\n", chains[0])))


def _without_counters(line: str) -> str:
    return line.partition(" [")[0] if line.startswith(":") else line


def build(names: dict[str, str]) -> None:
    def ip(arguments: str) -> None:
        subprocess.run(["ip", *arguments.split()], check=True, capture_output=True, timeout=20)

    for name in names.values():
        ip(f"netns add {name}")
        ip(f"-n {name} link set lo up")
    host = names["host"]
    for role, device, network in (("peer", "left", 1), ("beyond", "right", 2)):
        ip(f"-n {host} link add {device} type veth peer name eth netns {names[role]}")
        for name, link, end in ((host, device, 1), (names[role], "eth", 2)):
            ip(f"-n {name} addr add 10.66.{network}.{end}/24 dev {link}")
            ip(f"-n {name} addr add fd66:{network}::{end}/64 dev {link} nodad")
            ip(f"-n {name} link set {link} up")
        ip(f"-n {names[role]} route add default via 10.66.{network}.1")
        ip(f"-n {names[role]} route add default via fd66:{network}::1")
    for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        subprocess.run(["ip", "netns", "exec", host, "sysctl", "-qw", f"{key}=1"], check=True, timeout=20)
