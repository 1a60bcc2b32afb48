"""``rsock-nf demo``: shows in under a minute what the tunnel does, in network namespaces that it makes and removes.

There is a client behind a strict stateful NAT that lets no UDP through, a server, an application, and a target that
echoes.  The command line brings the tunnel up and takes it down, once over IPv4 and once over IPv6.  The exit status is
0 only if every line of the table is as it has to be.

It is no benchmark: the application is written in Python, and shares the machine with everything else.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rsock_nf.lab.lab import CommandFailed, Lab, Router
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.traffic import Application, EchoTarget, Exchange
from rsock_nf.lab.tunnel import Tunnel
from rsock_nf.ops.instances import namespaces
from rsock_nf.ops.signals import leaving_in_order

TOLERATED_LOSS = 0.001
"""How much may be lost: UDP is lost, without a tunnel as well, where a socket buffer is full."""


@dataclass(slots=True)
class Evidence:
    """What application, target, router and kernel saw over one address family.  None of it comes from the tunnel
    itself."""

    family: str
    up_seconds: float = 0.0
    pings: Exchange = field(default_factory=Exchange)
    load: Exchange = field(default_factory=Exchange)
    arrived: int = 0
    corrupted: int = 0
    router: dict[str, int] = field(default_factory=dict)
    eaten: dict[str, int] = field(default_factory=dict)
    """Packets that each host's drop rules kept from its kernel."""
    left: list[str] = field(default_factory=list)
    """What is still there after ``down``."""

    @property
    def sent(self) -> int:
        """Datagrams that the application sent."""
        return self.pings.sent + self.load.sent

    @property
    def resets(self) -> int:
        """RSTs on either wire."""
        return sum(count for name, count in self.router.items() if name.startswith("rst_"))

    def problems(self) -> list[str]:
        """One line for each thing that is not as it has to be."""
        lost = self.sent - self.pings.returned - self.load.returned
        judged = [
            (lost > self.sent * TOLERATED_LOSS, f"{lost} of {self.sent} datagrams did not come back"),
            (self.corrupted > 0, f"{self.corrupted} datagrams were corrupted"),
            (self.resets > 0, f"{self.resets} RSTs on the wire"),
            (self.router["invalid"] > 0, f"the router judged {self.router['invalid']} packets INVALID"),
            (self.router["refused"] > 0, f"the router refused {self.router['refused']} packets from outside"),
            (self.router["tcp_inside"] == 0, "no TCP packet crossed the router: something else carried the datagrams"),
            *((count == 0, f"the {host}'s drop rules ate nothing") for host, count in self.eaten.items()),
            *((True, f"left behind after down: {item}") for item in self.left),
        ]
        return [f"{self.family}: {said}" for wrong, said in judged if wrong]


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of datagrams (at least 1)")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; ``argv`` is without the names of program and command."""
    parser = argparse.ArgumentParser(
        prog="rsock-nf demo", description="Show the tunnel at work, in network namespaces."
    )
    parser.add_argument(
        "--datagrams", type=_count, default=20_000, help="how many each way and address family (default %(default)s)"
    )
    ciphers = ("none", "aes-256-gcm", "chacha20-poly1305")
    parser.add_argument("--cipher", default="none", choices=ciphers, help="the tunnel's (default %(default)s)")
    arguments = parser.parse_args(argv)
    if namespaces.current() is None:
        sys.stderr.write("rsock-nf demo: network namespaces are needed, which only Linux has\n")
        return 1
    missing = [name for name in ("ip", "nft") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        reason = f"missing: {', '.join(missing)} (Debian: apt-get install iproute2 nftables)"
        if os.geteuid() != 0:  # first: nft is in /usr/sbin, which is often not in another user's PATH
            reason = "must be root: it makes network namespaces"
        sys.stderr.write(f"rsock-nf demo: {reason}\n")
        return 1
    try:
        with leaving_in_order():
            return _demonstrate(arguments.datagrams, arguments.cipher)
    except (KeyboardInterrupt, SystemExit) as told:
        sys.stderr.write("rsock-nf demo: interrupted; everything that it made is removed\n")
        return 130 if isinstance(told, KeyboardInterrupt) else int(told.code or 0)


def _demonstrate(datagrams: int, cipher: str) -> int:
    """Run both address families, print the table and what is wrong in it.  Returns the exit status."""
    try:
        found = [_show(version, datagrams, cipher) for version in (4, 6)]
    except (CommandFailed, OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"rsock-nf demo: {error}\n")
        return 1
    print(f"\n{_table(found)}\n")
    problems = [line for evidence in found for line in evidence.problems()]
    for line in problems:
        sys.stderr.write(f"rsock-nf demo: failed: {line}\n")
    if not problems:
        print("All as it has to be; nothing is left behind.")
    return 1 if problems else 0


def _show(version: int, datagrams: int, cipher: str) -> Evidence:
    """Run the tunnel over one address family."""
    evidence = Evidence(f"IPv{version}")
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(_scratch())
        lab = stack.enter_context(Lab(Router(strict=True, block_udp=True)))
        _say(
            f"{evidence.family}: client {lab.client_ip[version]} == strict NAT, UDP blocked == server {lab.server_ip[version]}"
        )
        before = {host.name: _state(host) for host in (lab.client, lab.server)}
        target = stack.enter_context(EchoTarget(lab))
        application = stack.enter_context(Application(lab))
        tunnel = Tunnel(lab, scratch.path, version=version, client={"cipher": cipher}, server={"cipher": cipher})
        started = time.perf_counter()
        with tunnel:
            evidence.up_seconds = time.perf_counter() - started
            _say(f"  rsock-nf up on both sides ({evidence.up_seconds:.1f} s), {datagrams:,} datagrams each way ...")
            evidence.pings = application.ping(200)
            evidence.load = application.exchange(datagrams)
            evidence.eaten = {"server": _eaten(lab.server), "client": _eaten(lab.client)}
        evidence.arrived, evidence.corrupted = len(target.seen), target.corrupted + evidence.load.corrupted
        evidence.router = lab.counters()
        for host in (lab.client, lab.server):
            evidence.left += sorted(_state(host) - before[host.name])
        if evidence.problems():
            scratch.keep()
    return evidence


@dataclass(slots=True)
class _Scratch:
    """A directory for the files of both sides, with their logs."""

    path: Path
    kept: bool = False

    def keep(self) -> None:
        """It stays, and people are told so."""
        self.kept = True
        sys.stderr.write(f"rsock-nf demo: the files of both sides and their logs are kept in {self.path}\n")


@contextlib.contextmanager
def _scratch() -> Iterator[_Scratch]:
    """When the demonstration fails, the directory stays."""
    made = _Scratch(Path(tempfile.mkdtemp(prefix="rsock-nf-demo-")))
    try:
        yield made
    except (CommandFailed, OSError, subprocess.TimeoutExpired):
        made.keep()
        raise
    finally:
        if not made.kept:
            shutil.rmtree(made.path)


def _eaten(host: Namespace) -> int:
    """Packets counted by all rules on a host that has no rules but the tunnel's."""
    return sum(map(int, re.findall(r"counter packets (\d+)", host.run(["nft", "list", "ruleset"]).stdout)))


def _state(host: Namespace) -> set[str]:
    """What a tunnel could leave behind: rules, processes, sockets."""
    rules = {
        f"rule: {line.strip()}" for line in host.run(["nft", "list", "ruleset"]).stdout.splitlines() if line.strip()
    }
    processes = {f"process {pid}" for pid in host.pids()}
    # The first line is a heading; the socket of another process (the demo's own) is not a packet socket.
    sockets = {f"packet socket: {line}" for line in host.read("packet").splitlines()[1:]}
    return rules | processes | sockets


def _table(found: Sequence[Evidence]) -> str:
    """One column for each address family, the wanted value behind."""
    rows = [("", [e.family for e in found], "")]
    rows += [
        ("datagrams sent by the application", [f"{e.sent:,}" for e in found], ""),
        ("  arrived at the target, content right", [f"{e.arrived:,}" for e in found], ""),
        ("  came back, content right", [f"{e.pings.returned + e.load.returned:,}" for e in found], ""),
        ("  lost", [f"{e.sent - e.pings.returned - e.load.returned:,}" for e in found], f"≤ {TOLERATED_LOSS:.1%}"),
        ("  corrupted", [f"{e.corrupted:,}" for e in found], "0"),
        ("rate, each way, datagrams/s", [f"{e.load.returned / e.load.seconds:,.0f}" for e in found], ""),
        ("rate, each way, Mbit/s", [f"{e.load.payload * 8 / e.load.seconds / 1e6:,.0f}" for e in found], ""),
        ("round trip p50 / p99, ms", [_trips(e.pings.round_trips) for e in found], ""),
        ("TCP packets from client at the router", [f"{e.router['tcp_inside']:,}" for e in found], "> 0"),
        ("TCP packets from server at the router", [f"{e.router['tcp_outside']:,}" for e in found], "> 0"),
        ("  judged INVALID", [f"{e.router['invalid']:,}" for e in found], "0"),
        ("  RSTs on either wire", [f"{e.resets:,}" for e in found], "0"),
        ("eaten by the client's drop rules", [f"{e.eaten['client']:,}" for e in found], "> 0"),
        ("eaten by the server's drop rules", [f"{e.eaten['server']:,}" for e in found], "> 0"),
        ("left behind after down", [f"{len(e.left):,}" for e in found], "0"),
    ]
    lines = [f"{name:<40}{''.join(f'{value:>16}' for value in values)}   {wanted}" for name, values, wanted in rows]
    lines.insert(1, "─" * max(map(len, lines)))
    return (
        "\n".join(line.rstrip() for line in lines)
        + "\n(bursts are counted as the one packet that the kernel makes of them)"
    )


def _trips(seconds: Sequence[float]) -> str:
    if len(seconds) < 2:
        return "-"
    return f"{statistics.median(seconds) * 1e3:.2f} / {statistics.quantiles(seconds, n=100)[98] * 1e3:.2f}"


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
