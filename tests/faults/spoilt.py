"""What the middlebox does to packets, as data.  Its process gets it as JSON (``middlebox``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Spoil:
    """What happens to the packets of one direction.  The default: nothing."""

    loss: float = 0.0
    """Share of the packets that are lost."""
    duplicate: float = 0.0
    """Share that arrives twice."""
    corrupt: float = 0.0
    """Share of the packets with payload in which one bit of the payload is flipped.  The checksum is made good again,
    as by a middlebox that computes it anew."""
    reorder: float = 0.0
    """Share that is held back for up to 40 ms."""
    delay: float = 0.0
    """Seconds that every packet takes longer."""
    jitter: float = 0.0
    """Seconds: each packet takes up to this much longer still."""
    rate: float = 0.0
    """Bytes a second that pass; 0 = without limit."""
    queue: int = 0
    """Bytes that may wait for their turn where ``rate`` limits."""
    mtu: int = 0
    """Larger IP packets are dropped; 0 = none."""
    icmp: bool = False
    """Whether the sender of a packet above ``mtu`` hears of it."""


@dataclass(frozen=True, slots=True)
class Hostility:
    """What happens to flows, in both directions.  The default: nothing."""

    ports: tuple[int, ...] = ()
    """Server ports whose packets are dropped."""
    protocols: tuple[int, ...] = ()
    """IP protocols (6, 17) whose packets are dropped."""
    reset: bool = False
    """Every TCP packet is dropped, and both ends get an RST that fits."""
    lifetime: float = 0.0
    """Seconds after a flow's first packet, after which all its packets are dropped; 0 = never."""
    packets: int = 0
    """Packets with payload after which a flow is reset, and its packets dropped; 0 = never."""


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A path: both directions, and its flows."""

    up: Spoil = Spoil()
    """From the client to the server."""
    down: Spoil = Spoil()
    flows: Hostility = field(default_factory=Hostility)

    @classmethod
    def both(cls, **spoil: Any) -> Self:
        """The same in both directions."""
        return cls(Spoil(**spoil), Spoil(**spoil))

    def as_json(self) -> dict[str, Any]:
        """For the middlebox."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """What ``as_json`` made."""
        flows: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in found["flows"].items()
        }
        return cls(Spoil(**found["up"]), Spoil(**found["down"]), Hostility(**flows))
