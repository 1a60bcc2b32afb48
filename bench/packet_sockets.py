"""Ways to read from a packet socket, and to send on one: a table for docs/performance.md.

    python -m bench.packet_sockets [--rounds N] [--seconds S]

The two ends of a veth pair, nothing but ``packet_socket.c`` at either.  The ways are measured in turn in each round,
and each is compared with the first one of the same round.  CPU time is that of both processes: the kernel copies a
packet into a ring while the sender's call goes on, and into a buffer within the receiver's call.  It needs root.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.carriers import OUT, ready
from rsock_nf.lab.lab import DEVICE, Lab

PROGRAM = str(OUT / "packet_socket")


class Load(NamedTuple):
    """What is sent, and how."""

    name: str
    per_second: int
    segments: int
    calls: int = 1
    """Packets of one call."""


RECEIVE = (
    Load("alone, 1,000/s", 1_000, 1),
    Load("alone, 100,000/s", 100_000, 1),
    Load("bursts of 40, 5,000/s", 5_000, 40),
)
SEND = (Load("send(2)", 0, 1), Load("sendmmsg(2), 8", 0, 1, 8), Load("sendmmsg(2), 64", 0, 1, 64))
BURSTS = (Load("send(2)", 0, 40), Load("sendmmsg(2), 8", 0, 40, 8))
READING = {
    "recvmmsg(2)": ["recvmmsg"],
    "ring, TPACKET_V2": ["v2"],
    "ring, TPACKET_V3": ["v3"],
    "recvmmsg(2), SO_BUSY_POLL 50 µs": ["recvmmsg", "50"],
}
"""How a packet socket is read: the words for ``packet_socket``."""


def run(lab: Lab, load: Load, reading: list[str], seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the receiver and the sender say."""
    with ready(lab.server, [PROGRAM, "receive", DEVICE, str(seconds + 0.5), *reading]) as receiver:
        words = [load.per_second, load.segments, load.calls]
        sent = lab.client.run([PROGRAM, "send", DEVICE, str(seconds), *map(str, words)]).stdout
        got, _ = receiver.communicate(timeout=seconds + 10)
    return json.loads(got), json.loads(sent)


def in_turn(names: Iterable[str], rounds: int) -> Iterator[str]:
    """Each of them once in each round; in each round another one goes first."""
    ring = deque(names)
    for _ in range(rounds):
        yield from tuple(ring)
        ring.rotate(-1)


def receiving(lab: Lab, rounds: int, seconds: float) -> None:
    """Print the table of the ways to read."""
    print("| load | read by | CPU µs a packet | × | calls a packet | wait p50 µs | p99 |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for load in RECEIVE:
        found: defaultdict[str, list[tuple[float, ...]]] = defaultdict(list)
        for name in in_turn(READING, rounds):
            got, sent = run(lab, load, READING[name], seconds)
            count = max(got["packets"], 1)
            cpu = (got["cpu"] + sent["cpu"]) / count * 1e6
            found[name].append((cpu, got["calls"] / count, got["p50"], got["p99"]))
        first = [row[0] for row in found["recvmmsg(2)"]]
        for name in READING:
            ratio = statistics.median(row[0] / base for row, base in zip(found[name], first, strict=True))
            cpu, calls, p50, p99 = (statistics.median(column) for column in zip(*found[name], strict=True))
            print(f"| {load.name} | {name} | {cpu:.1f} | {ratio:.2f} | {calls:.2f} | {p50:.0f} | {p99:.0f} |")


def sending(lab: Lab, rounds: int, seconds: float) -> None:
    """Print the table of the ways to send."""
    print("| packets | sent by | packets a second | × |")
    print("|---|---|---:|---:|")
    for kind, loads in (("alone", SEND), ("bursts of 40", BURSTS)):
        ways = {load.name: load for load in loads}
        found: defaultdict[str, list[float]] = defaultdict(list)
        for name in in_turn(ways, rounds):
            _, sent = run(lab, ways[name], ["recvmmsg"], seconds)
            found[name].append(sent["sent"] / seconds)
        for name in ways:
            ratio = statistics.median(a / b for a, b in zip(found[name], found[loads[0].name], strict=True))
            print(f"| {kind} | {name} | {statistics.median(found[name]):,.0f} | {ratio:.2f} |")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.packet_sockets", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    words = parser.parse_args()
    subprocess.run(["make", "--quiet", "-C", str(Path(__file__).parent)], check=True)
    with Lab(None, prefix="rsnfbench") as lab:
        receiving(lab, words.rounds, words.seconds)
        print()
        sending(lab, words.rounds, words.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
