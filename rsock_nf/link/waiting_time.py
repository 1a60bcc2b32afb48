"""How long what a socket gives has waited in the kernel's queue, and whether that is too long.

A receive buffer of several megabytes takes a burst without loss.  If the process gets less CPU time than the load
needs, it becomes a standing queue: everything is late by seconds, probes and their answers too, and flows are taken
for dead.  So what has waited too long is dropped, the oldest first.  The same idea as CoDel (RFC 8289), which drops by
the time that a packet spent in the queue, once that has been too long for an interval; simpler, because we read in
batches.  A host that stood still for a moment, and then reads all that waits at once, loses nothing.

Not here: what of a batch is kept although it is late (``rsock_nf.link.linux.tap``, ``rsock_nf.sockets``).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Final, TypeVar

_Sender = TypeVar("_Sender", bound=Hashable)

BEHIND: Final = 0.05
"""Seconds.  If a read waited longer, more comes in than is handled: a server then serves its flows before strangers."""
LATE: Final = 0.2
"""Seconds.  Bulk that waited longer is dropped."""
LOST: Final = 1.0
"""Seconds.  Nothing that waited longer is of use to anybody."""
GRACE: Final = 0.1
"""Seconds for which reads may be late before anything is dropped: CoDel's interval."""
AGAIN: Final = 1.0
"""Seconds after a drop within which there is no grace."""
SMALL: Final = 256
"""Bytes of a payload.  So small is every control frame but a padded probe: it is kept until ``LOST``."""
STRANGERS: Final = 2
"""Packets of nobody known that are kept of a late read, where most of it is theirs."""
MANY: Final = 64
"""Messages of a read without a limit."""
LATE_READS: Final = 16
"""How many late batches one call drops before others get their turn."""


def may_be_control(size: int, segment_size: int) -> bool:
    """Whether the last of the segments that the kernel merged into ``size`` bytes is small.

    A probe that follows bulk on its flow is merged with it, as its last and shorter segment.  ``segment_size``: bytes
    of each other segment; 0 = it is one.
    """
    return (size % segment_size or segment_size if segment_size else size) <= SMALL


def not_the_cause(amounts: Sequence[tuple[_Sender, int]], strangers: int = 0) -> set[_Sender]:
    """The senders that have less than half of an equal share of a late read: others fill the queue.

    ``amounts``: (sender, how much) of each message.  ``strangers``: how many messages are not among these, because
    nobody knows who sent them.  If most of the read is theirs, nobody else is the cause.  They get no shares: with many
    of them, each would be so small that who has any bulk had more.
    """
    total: Counter[_Sender] = Counter()
    for sender, amount in amounts:
        total[sender] += amount
    if strangers > len(amounts):
        return set(total)
    share = total.total() / (2 * len(total) or 1)
    return {sender for sender, amount in total.items() if amount < share}


class WaitingTime:
    """Of one socket.

    ``age``: seconds that the last message of the last read has waited, by the kernel's stamp.  0 = not known.
    """

    def __init__(self, age: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._age = age
        self._clock = clock
        age()  # a kernel that keeps stamps only for who asks keeps them from now on
        self._since = clock()
        """What is in the queue has come after this time."""
        self._lost_reads = 0
        """How many reads with ``LOST`` messages there were one after the other."""
        self._read_at = clock()
        """When something was last read."""
        self._last_waited = 0.0
        self._late_since: float | None = None
        """Since when each read was late."""
        self._dropped_at = -AGAIN
        """When a read was last to be dropped."""

    def read(self, *, full: bool) -> float:
        """To be called after each read that brought something.  Returns for how long the last message of it has waited,
        in seconds; the others have waited longer.  0.0 = it is not late, or not late for long enough to matter.

        ``full``: the read brought as much as it may, which is not more than ``limit``.  A queue that is emptied by each
        read has nothing that is late, so the kernel is asked only if it was not empty for a while.
        """
        self._read_at = now = self._clock()
        several = self._lost_reads > 0
        self._last_waited = waited = self._waited(now)
        self._lost_reads = self._lost_reads + 1 if waited >= LOST else 0
        if several:
            waited = max(waited, LOST)
        if waited < LATE:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now
        if not full:
            self._since = now
        if self._late_since is None:
            return 0.0
        if waited < LOST and now - self._late_since < GRACE and now - self._dropped_at > AGAIN:
            return 0.0
        self._dropped_at = now
        return waited

    @property
    def waited(self) -> float:
        """Seconds that the last message of the last read has waited, late or not.  0 = less than ``BEHIND``, or nothing
        was read for a second: who has nothing to read is not behind."""
        return self._last_waited if self._clock() - self._read_at < AGAIN else 0.0

    @property
    def limit(self) -> int:
        """How many messages the next read should bring at most.

        The kernel tells the age of the last message of a read, and the first may be much older.  So if the queue may
        hold something that is ``LOST``, one message is read, then two, then four, as long as there is.  The read that
        follows is dropped whole, too: what it begins with may be as old.
        """
        return min(1 << self._lost_reads, MANY) if self._clock() - self._since >= LOST else MANY

    def _waited(self, now: float) -> float:
        longest = now - self._since
        if longest < BEHIND:
            return 0.0
        # The stamp is of the wall clock, which can be set.  Nothing is older than what was read before it.
        waited = min(self._age(), longest)
        self._since = now - waited
        return waited

    def empty(self) -> None:
        """To be called after a read that brought nothing."""
        self._since = self._clock()
        self._lost_reads = 0
        self._last_waited = 0.0
        self._late_since = None
