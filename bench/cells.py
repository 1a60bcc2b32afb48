"""What is measured: the carriers, and the cells of the tables.

A cell is one carrier under one load, measured in one way.  Its name is a path, for ``--only``:
``best/native/1200/1/plain/up`` is the highest rate with at most 1 % loss, native, datagrams of 1,200 bytes, one
conversation, a plain application, from client to server.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import NamedTuple


class Kind(StrEnum):
    """What one measurement asks."""

    BEST = "best"
    """The highest rate with at most 1 % loss."""
    FLOOD = "flood"
    """Unlimited load."""
    FIXED = "fixed"
    """``FIXED_RATE`` datagrams a second: what does a byte cost?"""
    RELAY_BEST = "relaybest"
    """The relay's highest rate: the same question under load."""
    IDLE = "idle"
    """Round trips, nothing else running."""
    HALF = "half"
    """Round trips beside a load of half of the carrier's own highest rate."""
    START = "start"
    """``up`` of server and client."""
    MEMORY = "memory"
    """Resident, client and server together, after the loads of the round."""


DIRECT, RELAY = "direct", "relay"
REFERENCES = (DIRECT, RELAY)
NATIVE, NATIVE_AES, NATIVE_CHACHA, NATIVE_UDP = "native", "native aes", "native chacha", "native udp"
PYTHON, PYTHON_AES, PYTHON_CHACHA, PYTHON_UDP = "python", "python aes", "python chacha", "python udp"
TUNNELS = {
    NATIVE: {"type": "tcp", "cipher": "none", "pump": "native"},
    NATIVE_AES: {"type": "tcp", "cipher": "aes-256-gcm", "pump": "native"},
    NATIVE_CHACHA: {"type": "tcp", "cipher": "chacha20-poly1305", "pump": "native"},
    NATIVE_UDP: {"type": "udp", "cipher": "none", "pump": "native"},
    PYTHON: {"type": "tcp", "cipher": "none", "pump": "python"},
    PYTHON_AES: {"type": "tcp", "cipher": "aes-256-gcm", "pump": "python"},
    PYTHON_CHACHA: {"type": "tcp", "cipher": "chacha20-poly1305", "pump": "python"},
    PYTHON_UDP: {"type": "udp", "cipher": "none", "pump": "python"},
}
"""Name of a carrier → what both configuration files say."""
CARRIERS = (*REFERENCES, *TUNNELS)
MAIN = (DIRECT, RELAY, NATIVE, PYTHON)
"""These are measured under every load, the others under the usual one."""
QUICK = (DIRECT, RELAY, NATIVE, NATIVE_AES, NATIVE_CHACHA, PYTHON)

FIXED_RATE = 30_000
"""Datagrams a second at which no carrier is overloaded."""
MIX = "80x7,608x4,1400x1"
"""The simple IMIX (40, 576 and 1,500 bytes as 7 : 4 : 1, RFC 6985 section 4) as a WireGuard tunnel sends it on: 32
bytes more, padded to 16 (WireGuard paper, 5.4.6).  The largest is cut to what fits."""
MIX_MEAN = 366
"""Bytes: the mean of ``MIX``."""
USUAL = 1200


class Cell(NamedTuple):
    """One carrier under one load, measured in one way."""

    kind: Kind
    carrier: str
    size: str = str(USUAL)
    """Payload bytes of a datagram, or ``mix``."""
    conversations: int = 1
    app: str = "plain"
    """``plain`` or ``gso``: the application uses UDP GSO and GRO."""
    direction: str = "up"
    """``up``: from client to server; ``down``; ``both`` at once."""

    @property
    def name(self) -> str:
        """As ``--only`` and the JSON file have it."""
        return "/".join(map(str, self))

    def of(self, carrier: str) -> Cell:
        """The same with another carrier."""
        return self._replace(carrier=carrier)


def from_name(name: str) -> Cell:
    """The cell of that name.  Raises ``ValueError``."""
    kind, carrier, size, conversations, app, direction = name.split("/")
    return Cell(Kind(kind), carrier, size, int(conversations), app, direction)


def mean_size(size: str) -> float:
    """Bytes."""
    return MIX_MEAN if size == "mix" else int(size)


def matrix(*, quick: bool) -> list[Cell]:
    """All cells, in the order in which a round measures them: all carriers of a load, then the next load."""
    carriers = QUICK if quick else CARRIERS
    usual = [Cell(kind, carrier) for kind in (Kind.FLOOD, Kind.BEST) for carrier in carriers]
    more = [] if quick else [load.of(carrier) for load in _loads() for carrier in MAIN]
    gso = [Cell(Kind.FLOOD, carrier, app="gso") for carrier in carriers]
    rest = [Cell(kind, carrier) for kind in (Kind.FIXED, Kind.RELAY_BEST) for carrier in carriers if carrier != DIRECT]
    trips = [Cell(kind, carrier) for kind in (Kind.IDLE, Kind.HALF) for carrier in carriers]
    own = [Cell(kind, carrier) for kind in (Kind.MEMORY, Kind.START) for carrier in carriers if carrier in TUNNELS]
    return list(dict.fromkeys([*usual, *more, *gso, *rest, *trips, *own]))


def _loads() -> Iterable[Cell]:
    """The loads beside the usual one; the carrier is a blank."""
    for kind in (Kind.FLOOD, Kind.BEST):
        yield from (Cell(kind, "", str(size)) for size in (64, 512, 1400))
        yield from (Cell(kind, "", str(USUAL), conversations) for conversations in (10, 1000))
        yield from (Cell(kind, "", *load) for load in ((str(MIX_MEAN), 1), ("mix", 1), ("mix", 1000)))
        yield from (Cell(kind, "", direction=direction) for direction in ("down", "both"))
    yield from (Cell(Kind.FLOOD, "", str(size), app="gso") for size in (64, 512, 1400))
    yield Cell(Kind.BEST, "", app="gso")


def chosen(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """Those whose name begins like one of the patterns (``*`` and ``?`` as in a shell); no pattern: all."""
    if not patterns:
        return list(cells)
    return [cell for cell in cells if any(fnmatchcase(cell.name, f"{one.rstrip('*')}*") for one in patterns)]
