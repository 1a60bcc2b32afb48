"""What a datagram costs with one, two and four workers at both ends: microseconds of CPU of all processes together.

    python -m bench.workers        # as root; make -C bench has made the load programs

One client with 32 conversations sends, below what the processors carry.  So the number is a price, not a speed: with
more workers on more processors the rates add up if it stays the same.  Once each worker has the same rate, whatever
their number, and once all of them together: then each one's bursts are smaller, and small bursts cost more.  All
tunnels are up at once and are measured in turn, several rounds; the median counts.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.carriers import Carrier, alone, tunnel
from bench.cells import Cell, Kind
from bench.measure import measure_load, settle

COUNTS = (1, 2, 4)
CONVERSATIONS, SIZE, SECONDS, ROUNDS = 32, 1200, 3.0, 5
RATES = {"native": 10_000, "python": 2_500}
"""Datagrams a second of one worker, by pump."""


def cost(carrier: Carrier, rate: float) -> tuple[float, float]:
    """(microseconds of CPU for a datagram that arrived, share lost)."""
    cell = Cell(Kind.FIXED, carrier.name, str(SIZE), CONVERSATIONS)
    found = measure_load(carrier, cell, SECONDS, rate)
    settle()
    return found["cpu"] / 1e9 * SIZE * 1e6, found["lost"]


def main() -> None:
    """Print the table."""
    subprocess.run(["make", "-s", "-C", str(Path(__file__).parent)], check=True)
    print(f"{'pump':<8} {'workers':>7} {'datagrams/s':>12} {'us/datagram':>12} {'ratio':>6} {'lost':>7}")
    for pump, rate in RATES.items():
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rsnf-")))
            made: dict[int, Carrier] = {}
            for count in COUNTS:
                both = {"workers": count, "pump": pump, "cipher": "aes-256-gcm"}
                made[count] = stack.enter_context(tunnel(f"w{count}", scratch / str(count), both, None))
            for share in (True, False):
                measure(pump, made, {count: rate * count if share else rate * 2 for count in COUNTS})


def measure(pump: str, made: dict[int, Carrier], rates: dict[int, int]) -> None:
    """Print a row for each number of workers.  ``rates``: datagrams a second of all together."""
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in COUNTS}
    for _ in range(ROUNDS):
        for count, carrier in made.items():
            with alone(carrier, made.values()):
                found[count].append(cost(carrier, rates[count]))
    single = statistics.median(price for price, _ in found[COUNTS[0]])
    for count in COUNTS:
        price = statistics.median(price for price, _ in found[count])
        lost = statistics.median(lost for _, lost in found[count])
        print(f"{pump:<8} {count:>7} {rates[count]:>12,} {price:12.2f} {price / single:6.2f} {lost:7.2%}")


if __name__ == "__main__":
    main()
