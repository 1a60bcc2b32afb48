"""A million datagrams through a tunnel, at a rate that the machine can carry: none may be lost.

``make load``, as root, makes a table of docs/reliability.md.  With ``--variant`` it runs one kind of tunnel, and
changes no file.  With ``--write``, too, that row takes the place of the one in the table.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rsock_nf.lab.netns import CommandFailed
from tests.faults import document
from tests.faults.field import AES, PLAIN_TCP, Variant, field
from tests.faults.load import Direction
from tests.netns.judges import wait_until

DOCUMENT = Path(__file__).parents[2] / "docs/reliability.md"
SIZES = (22, 1400)
"""Bytes of a datagram; each has another size."""
LATE = 3.0
"""Seconds in which the last one arrives, if it does."""
HEADING = (
    "| amount | tunnel | datagrams | lost | misdelivered | corrupted | twice | under way, ms: p50 / p99 / most |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|"
)


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is sent, and through which tunnels."""

    name: str
    datagrams: int
    """Both ways together."""
    rate: float
    """Datagrams a second, each way."""
    conversations: int
    variants: tuple[Variant, ...] = (PLAIN_TCP, Variant("tcp", AES), Variant("udp"), Variant("udp", AES))


@dataclass(frozen=True, slots=True)
class Carried:
    """What one run found."""

    amount: Amount
    variant: Variant
    both: tuple[Direction, Direction]
    strange: dict[str, int]
    """Packets that a strict NAT calls INVALID, and RSTs on either wire."""

    @property
    def sent(self) -> int:
        """Both ways."""
        return sum(way.sent for way in self.both)

    @property
    def lost(self) -> int:
        """Both ways."""
        return self.sent - sum(way.arrived for way in self.both)

    @property
    def harmed(self) -> tuple[int, int, int]:
        """Misdelivered, corrupted and doubled datagrams, both ways."""
        up, down = self.both
        return up.misdelivered + down.misdelivered, up.corrupted + down.corrupted, up.doubled + down.doubled

    def offences(self) -> list[str]:
        """What must never be, however busy the machine."""
        wrong = [f"{count} {what}" for what, count in self.strange.items() if count]
        return [*wrong, *(["{} misdelivered, {} corrupted, {} twice".format(*self.harmed)] if any(self.harmed) else [])]

    def row(self) -> str:
        """One line of the table."""
        delays = sorted(1000 * delay for way in self.both for _, delay in way.delays)
        under_way = [delays[int(len(delays) * share)] for share in (0.5, 0.99)] + delays[-1:]
        cells = [
            f"**{self.amount.name}**: {self.amount.conversations} conversations, {self.amount.rate:,.0f}/s each way",
            self.variant.name, f"{self.sent:,}", str(self.lost), *map(str, self.harmed),
            " / ".join(f"{delay:.1f}" for delay in under_way),
        ]  # fmt: skip
        return f"| {' | '.join(cells)} |"


AMOUNTS = {"million": Amount("million", 1_000_000, 2500, 100)}


def carry(amount: Amount, variant: Variant) -> Carried:
    """Send so much through a new tunnel, behind a strict NAT, and wait for the last datagram."""
    with field(
        variant, rate=amount.rate, sizes=SIZES, conversations=amount.conversations, most=amount.datagrams, direct=True,
        prefix="rsml",
    ) as site:  # fmt: skip
        load = site.load
        wait_until(lambda: load.is_sent, "the last datagram to be sent", 60 + amount.datagrams / amount.rate)
        ended = time.monotonic()
        wait_until(
            lambda: time.monotonic() > ended + LATE or all(way.arrived == way.sent for way in load.directions()),
            "the last datagram to arrive",
        )
        seen = site.lab.counters()
        strange = {name: seen[name] for name in ("invalid", "rst_inside", "rst_outside", "rst_router")}
        return Carried(amount, variant, load.directions(), strange)


def run(name: str, variant: Variant) -> tuple[str, list[str]]:
    """The row of one run, and what is not as it should be on an idle machine."""
    try:
        found = carry(AMOUNTS[name], variant)
    except (AssertionError, CommandFailed) as error:
        return f"| **{name}**: | {variant.name} |{' |' * 6}", [str(error)]
    return found.row(), [*found.offences(), *([f"{found.lost} of {found.sent} lost"] if found.lost else [])]


def judged(amount: Amount, variant: Variant, found: tuple[str, list[str]]) -> tuple[str, list[str]]:
    """The line of one run, and what is not as it should be."""
    return found[0], [f"{amount.name}, {variant.name}: {text}" for text in found[1]]


def main() -> int:
    """See the module.  Exits with 1 if something is not as it should be."""
    parser = document.arguments("python -m tests.faults.amounts", __doc__, "amounts", AMOUNTS.values())
    arguments = parser.parse_args()
    amounts = document.chosen(parser, arguments.names, AMOUNTS, "amount")
    rows, wrong = document.table(HEADING, amounts, arguments.variant, arguments.jobs, run, judged)
    if arguments.write or not (arguments.names or arguments.variant):
        DOCUMENT.write_text(document.renewed(DOCUMENT.read_text(), "load", rows, AMOUNTS.values()))
    print("\n".join(wrong) or "all as it should be")  # noqa: T201
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
