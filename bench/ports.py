"""What a server's ports cost: the time until it is up, memory, descriptors, rules, and each packet.

    python -m bench.ports [--type tcp|all] [--ports 1000 10000]

Prints the table of docs/operations.md.  Needs root.  Each row is a server of its own, in namespaces of its own, with
one range of ports; a packet is a bare ACK to the range's last port, sent by a raw socket over a veth pair: sending,
tap and drop together, the median of ``ROUNDS`` rounds.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from rsock_firewall import Policy
from rsock_firewall.nftables.backend import Nftables
from rsock_nf.core.types import PortRange
from rsock_nf.lab.lab import Lab
from rsock_nf.lab.tunnel import Tunnel
from rsock_nf.link import Match, PortSide
from rsock_nf.link.linux.tap_filter import tap_program

FIRST = 10_001
PACKETS, ROUNDS = 5_000, 7


class Row(NamedTuple):
    """What one server costs."""

    ports: int
    up: float
    """Seconds."""
    memory: float
    """MiB, resident."""
    descriptors: int
    rules: float
    """Milliseconds to install them."""
    filter: int
    """Instructions."""
    packet: float
    """Microseconds."""
    forwarding: float
    """The same on a host that forwards."""


def measure(count: int, kind: str) -> Row:
    """One server with that many ports."""
    span = f"{FIRST}-{FIRST + count - 1}"
    ports = PortRange(FIRST, FIRST + count - 1)
    with Lab(None, prefix="rsnfports") as lab, tempfile.TemporaryDirectory(prefix="rsnfports-") as scratch:
        tunnel = Tunnel(lab, Path(scratch), server={"ports": span, "type": kind})
        began = time.perf_counter()
        tunnel.up("server", "--timeout", "300")
        up = time.perf_counter() - began
        try:
            (pid,) = tunnel.pids("server")
            status = Path(f"/proc/{pid}/status").read_text()
            resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024
            descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
            packet = lab.client.call(lambda: per_packet(lab, ports.last))
            lab.server.sysctl("net.ipv4.ip_forward", "1")
            lab.server.nft(
                "table inet tracking { chain c { type filter hook input priority 0; ct state new counter; }; }"
            )
            await_input_chain(lab)
            forwarding = lab.client.call(lambda: per_packet(lab, ports.last))
        finally:
            tunnel.down("server")
        rules = lab.server.call(lambda: install(lab, ports))
        match = Match(PortSide.DESTINATION, (ip_address(lab.server_ip[4]), ip_address(lab.server_ip[6])), (ports,))
        return Row(count, up, resident, descriptors, rules, len(tap_program(match)), packet, forwarding)


def await_input_chain(lab: Lab) -> None:
    """The rules follow within a second or two."""
    deadline = time.monotonic() + 30
    while "hook input priority raw" not in (listed := lab.server.run(["nft", "list", "ruleset"]).stdout):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the rules do not follow that the host forwards:\n{listed}")
        time.sleep(0.1)


def install(lab: Lab, ports: PortRange) -> float:
    """Milliseconds to install a server's rules."""
    policy = Policy("bench", None, (ip_address(lab.server_ip[4]), ip_address(lab.server_ip[6])), (ports,))
    firewall = Nftables()
    firewall.probe()
    began = time.perf_counter()
    with firewall.hold(policy):
        return (time.perf_counter() - began) * 1000


def per_packet(lab: Lab, port: int) -> float:
    """Microseconds to send one, which on a veth pair includes its reception."""
    segment = struct.pack("!HHIIBBHHH", 5000, port, 1, 1, 5 << 4, 0x10, 8192, 0, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.connect((lab.server_ip[4], 0))
        return statistics.median(_rounds(raw, segment))


def _rounds(raw: socket.socket, segment: bytes) -> Iterator[float]:
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(PACKETS):
            raw.send(segment)
        yield (time.process_time() - began) / PACKETS * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.ports")
    parser.add_argument("--type", default="tcp", choices=("tcp", "all"))
    parser.add_argument("--ports", type=int, nargs="+", default=[10, 1000, 10_000, 30_000, 50_000])
    arguments = parser.parse_args()
    print(
        "| ports | up, s | memory, MiB | descriptors | rules, ms | filter, instructions | packet, µs | forwarding, µs |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for count in arguments.ports:
        row = measure(count, arguments.type)
        print(
            f"| {row.ports:,} | {row.up:.1f} | {row.memory:.0f} | {row.descriptors:,} | {row.rules:.0f} | {row.filter} "
            f"| {row.packet:.1f} | {row.forwarding:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
