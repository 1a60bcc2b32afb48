"""Who decides in the tests: captures on the wire, the router's tracker, the C load generator, a host's whole state."""

from __future__ import annotations

import difflib
import fcntl
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rsock_nf.lab.lab import DEVICE, INSIDE, OUTSIDE, Lab
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.tunnel import LISTEN, TARGET

BENCH = Path(__file__).parents[2] / "bench"
LOAD = str(BENCH / "out/udp_load")
RESET = "(ip and tcp[tcpflags] & tcp-rst != 0) or (ip6[6] == 6 and ip6[53] & 4 != 0)"
"""pcap-filter(7); libpcap looks for TCP flags in IPv4 only, hence the offset in IPv6."""


def make_load_programs() -> None:
    """The benchmark's C programs, ``LOAD`` among them: Python is too slow to fill the tunnel."""
    lock = os.open(BENCH, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # every worker wants them
        subprocess.run(["make", "-s", "-C", str(BENCH)], check=True)
    finally:
        os.close(lock)


class Capture:
    """tcpdump on one device, from ``with`` to its end; the file stays for tshark."""

    def __init__(self, host: Namespace, path: Path, expression: str = "", device: str = DEVICE) -> None:
        self.path = path
        argv = ["tcpdump", "-i", device, "-w", str(path), "-U", "-Z", "root", "-B", "16384", expression]
        self._process = host.popen(argv, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        self._heading = self._process.stderr.readline()

    def __enter__(self) -> Self:
        assert "listening on" in self._heading, self._heading
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.communicate()

    def count(self, expression: str = "") -> int:
        """Packets of the file that match a pcap filter.  After the end only."""
        argv = ["tcpdump", "-n", "-r", str(self.path), expression]
        return len(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines())

    def tshark(self, display_filter: str, *fields: str, options: tuple[str, ...] = ()) -> list[list[str]]:
        """The fields of every packet that matches a Wireshark display filter."""
        argv = ["tshark", "-n", "-r", str(self.path), "-Y", display_filter, "-T", "fields"]
        argv += [word for name in fields for word in ("-e", name)] + [word for name in options for word in ("-o", name)]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return [line.split("\t") for line in said.splitlines()]


class Wires:
    """Both wires of a laboratory, watched for RSTs by tcpdump at both ends."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        ends = [(lab.client, DEVICE), (lab.server, DEVICE)]
        if lab.kind:
            ends += [(lab.router, INSIDE), (lab.router, OUTSIDE)]
        directory.mkdir(exist_ok=True)
        self._captures = [
            Capture(host, directory / f"{host.name}-{device}.pcap", RESET, device) for host, device in ends
        ]

    def __enter__(self) -> Self:
        for capture in self._captures:
            capture.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for capture in self._captures:
            capture.__exit__(kind, error, trace)

    def resets(self) -> int:
        """RSTs in all captures together.  After the end only."""
        return sum(capture.count() for capture in self._captures)


@dataclass(frozen=True, slots=True)
class Flood:
    """What the C generator sent and its receiver counted."""

    sent: int
    received: int
    duplicates: int

    @property
    def lost(self) -> float:
        """As a share of what was sent."""
        return 1 - self.received / self.sent


def flood(
    lab: Lab, seconds: float, *, size: int = 1200, rate: float = 0, during: Callable[[], None] | None = None
) -> Flood:
    """One-way load from the application to the target, unlimited unless ``rate``; ``during`` runs meanwhile."""
    receiver = start(lab.server, [LOAD, "receive", "-p", str(TARGET[1])])
    argv = [LOAD, "send", "-h", LISTEN[0], "-p", str(LISTEN[1]), "-s", str(size), "-t", str(seconds), "-r", str(rate)]
    sender = lab.client.popen(argv, stdout=subprocess.PIPE, text=True)
    if during:
        during()
    sent = json.loads(sender.communicate(timeout=seconds + 30)[0])
    got = json.loads(receiver.communicate(timeout=30)[0])
    return Flood(sent["taken"], got["unique"], got["duplicates"])


def flood_both_ways(lab: Lab, seconds: float, *, size: int = 1200, rate: float) -> dict[str, Any]:
    """Echoed load: as much from the target to the application as the other way; what ``udp_load rtt`` found."""
    echo = start(lab.server, [LOAD, "echo", "-p", str(TARGET[1])])
    argv = [LOAD, "rtt", "-h", LISTEN[0], "-p", str(LISTEN[1]), "-s", str(size), "-t", str(seconds), "-r", str(rate)]
    said = lab.client.run(argv, timeout=seconds + 30).stdout
    echo.terminate()
    echo.communicate()
    found: dict[str, Any] = json.loads(said)
    return found


def start(host: Namespace, argv: list[str]) -> subprocess.Popen[str]:
    """A load program that has said it is ready."""
    process: subprocess.Popen[str] = host.popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def tracked_flows(lab: Lab) -> set[tuple[str, str]]:
    """(client port, server port) of every TCP connection that the router tracks."""
    ports = re.compile(r"sport=(\d+) dport=(\d+)")
    return {match.groups()[:2] for line in lab.conntrack() if " tcp " in line and (match := ports.search(line))}  # type: ignore[misc]


def host_state(host: Namespace) -> dict[str, str]:
    """All that a tunnel could change on a host, as text, to be compared before and after."""

    def said(*argv: str) -> str:
        return host.run(list(argv)).stdout

    saved = [said(f"{family}-legacy-save", "-t", "raw") for family in ("iptables", "ip6tables")]
    return {
        "nft": said("nft", "list", "ruleset"),
        # The heading carries the time, and a policy line the packets so far.
        "iptables": re.sub(r"(?m)^#.*\n|\[\d+:\d+\]", "", "".join(saved)),
        # How many connections are tracked at the moment is no setting.
        "sysctls": re.sub("(?m)^.*nf_conntrack_count.*$", "", said("sysctl", "-a", "--pattern", r"^net\.", "--ignore")),
        "links": said("ip", "-details", "link"),
        "addresses": said("ip", "address"),
        "routes": said("ip", "route", "show", "table", "all") + said("ip", "-6", "route", "show", "table", "all"),
        "tcp": said("ss", "-Htan"),
        "udp": said("ss", "-Huan"),
        # Type, protocol, interface; the other columns are addresses and fill levels.
        "packet sockets": "\n".join(" ".join(line.split()[2:5]) for line in host.read("packet").splitlines()),
        "processes": " ".join(map(str, host.pids())),
    }


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Line by line, what came and what went."""
    found: list[str] = []
    for name, old in before.items():
        delta = difflib.ndiff(old.splitlines(), after[name].splitlines())
        found += [f"{name}: {line}" for line in delta if line[:2] in ("- ", "+ ")]
    return found


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> float:
    """Ask until it holds; how long it took.  A failure names what did not come.

    ``seconds`` is patience with a crowded machine, unless a test names its own.
    """
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return time.monotonic() - started


def forget_neighbours(host: Namespace) -> None:
    """Empty the host's neighbour table.  ip(8) gives up when entries come back while it removes them."""
    wait_until(lambda: host.run(["ip", "neigh", "flush", "all"], check=False).returncode == 0, "an empty table")
