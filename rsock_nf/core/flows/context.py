"""What all parts of one endpoint share: parameters, randomness, the outbox, deadlines and counters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rsock_nf.core.flows.timers import Deadlines
from rsock_nf.core.outbox import Outbox
from rsock_nf.core.parameters import Common
from rsock_nf.core.protocols import Rng


@dataclass(slots=True)
class Context:
    """See the module.  ``rng``: ``os.urandom``, or a seeded one in tests."""

    parameters: Common
    rng: Rng
    mtu: int
    """The largest IP packet that the link takes, in bytes."""
    outbox: Outbox = field(default_factory=Outbox)
    deadlines: Deadlines = field(default_factory=Deadlines)
    counters: Counter[str] = field(default_factory=Counter)
    """Number of events of which something was dropped or ignored, by reason."""

    def random(self, count: int) -> int:
        """A random integer of ``count`` bytes."""
        return int.from_bytes(self.rng(count), "big")
