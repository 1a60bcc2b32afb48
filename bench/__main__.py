"""``make bench``: the tunnel against direct UDP and against a C relay, over the same kind of veth pair.

    python -m bench [--quick] [--rounds N] [--seconds S] [--without-tunnel] [--out docs/performance.md]

Every cell is the median of ``--rounds`` measurements, taken in turn over all carriers.
Needs root, a C compiler and nothing else running.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import report
from bench.measure import OUT, Carrier, Samples, direct, measure_load, measure_trips, other_load, relay, settle, tunnel

SIZES = (64, 512, 1200, 1400)
TUNNELS = {
    report.TUNNEL: {"type": "tcp", "cipher": "none"},
    "rsock-nf none, python": {"type": "tcp", "cipher": "none", "pump": "python"},
    "rsock-nf none, udp": {"type": "udp", "cipher": "none"},
    "rsock-nf aes-256-gcm": {"type": "tcp", "cipher": "aes-256-gcm"},
    "rsock-nf aes-256-gcm, python": {"type": "tcp", "cipher": "aes-256-gcm", "pump": "python"},
    "rsock-nf chacha20-poly1305": {"type": "tcp", "cipher": "chacha20-poly1305"},
}
"""All are measured with ``GOAL_SIZE``, the first with every size."""
GOAL_SIZE = 1200
PACED = 30_000
"""Datagrams a second at which all carriers are compared where none of them is overloaded."""
SEGMENTS = 40
"""Datagrams that an application with UDP GSO hands over in one call."""


def open_carriers(stack: contextlib.ExitStack, *, with_tunnel: bool) -> list[Carrier]:
    """All of them up at once; idle ones cost next to nothing."""
    carriers = [stack.enter_context(direct()), stack.enter_context(relay())]
    if with_tunnel:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rsock-nf-bench-")))
        carriers += [stack.enter_context(tunnel(name, scratch / name, **both)) for name, both in TUNNELS.items()]
    return carriers


def measure_all(carriers: list[Carrier], arguments: argparse.Namespace) -> report.Results:
    """Round by round, cell by cell, carrier by carrier: neighbours in time are what is compared."""
    results: report.Results = {}
    sizes = (GOAL_SIZE,) if arguments.quick else SIZES
    loads = [(size, segments, 0) for segments in (0, SEGMENTS) for size in sizes] + [(GOAL_SIZE, 0, PACED)]
    for turn in range(arguments.rounds):
        # Another carrier goes first in each round: whoever follows a heavy one finds a warmer, or busier, machine.
        order = carriers[turn % len(carriers) :] + carriers[: turn % len(carriers)]
        for size, segments, rate in loads:
            for carrier in order:
                if size != GOAL_SIZE and carrier.name in TUNNELS and carrier.name != report.TUNNEL:
                    continue
                found = measure_load(carrier, size, arguments.seconds, segments=segments, rate=rate)
                results.setdefault(report.Cell(carrier.name, size, segments > 0, rate), Samples()).loads.append(found)
                progress(
                    turn, f"{carrier.name}, {size} bytes: {found.received / 1e3:.1f} of {found.offered / 1e3:.1f} kpps"
                )
                settle()
        for carrier in order:
            trip = measure_trips(carrier, GOAL_SIZE, arguments.seconds)
            results.setdefault(report.Cell(carrier.name, GOAL_SIZE, False, 0), Samples()).trips.append(trip)
            progress(turn, f"{carrier.name}: round trip {trip.p50:.0f} us")
    return results


def progress(turn: int, line: str) -> None:
    """What is going on, on standard error."""
    sys.stderr.write(f"round {turn + 1}: {line}\n")


def command_line(words: list[str]) -> str:
    """How to make the same table again."""
    return "make bench" if not words else f"python -m bench {' '.join(words)}"


def main() -> int:
    """Build, measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,200 bytes only, one short round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--without-tunnel", action="store_true", help="the two references only")
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT / "performance.md",
        help="Markdown file whose part between the bench markers is replaced; the plot goes beside it (.png)",
    )
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    arguments.seconds = arguments.seconds or (1.5 if arguments.quick else 3.0)
    subprocess.run(["make", "-s", "-C", str(Path(__file__).parent)], check=True)
    with contextlib.ExitStack() as stack:
        carriers = open_carriers(stack, with_tunnel=not arguments.without_tunnel)
        shares = [other_load()]
        results = measure_all(carriers, arguments)
        shares.append(other_load())
    text = report.render(results, GOAL_SIZE, PACED, max(shares))
    print(text)
    (OUT / "results.json").write_text(json.dumps(report.as_json(results), indent=1) + "\n")
    report.write_between_markers(arguments.out, text, command_line(sys.argv[1:]))
    report.plot(results, arguments.out.with_suffix(".png"), GOAL_SIZE)
    sys.stderr.write(f"written: {arguments.out} and {arguments.out.with_suffix('.png')}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
