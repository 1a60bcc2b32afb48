"""The last four bytes of a client's message: by them a server finds the secret, of thousands, by one look into a table.

A hint is a keyed hash of the hour.  Who does not have the secret cannot make it, and cannot tell whose it is.  But who
watches sees that two messages of one hour have the same hint, so they come from one client.  From hour to hour nothing
links them.  On the wire the hint is masked with the beginning of the message, so that it looks random to anybody who
does not know this format.

Clocks may be wrong.  A server takes the hours before and after its own, too.  A client whose hourly hint is not
answered uses the **lasting** hint next, which is always the same.

Not here: the table (``holders``).
"""

from __future__ import annotations

import enum
import hashlib
from typing import Final, NamedTuple

from rsock_nf.core.types import Buffer

SIZE: Final = 4
"""Bytes of a hint."""
HOUR: Final = 3600.0
"""Seconds."""
NEAR: Final = (-1, 0, 1)
"""The hours that a server takes, counted from its own."""
_LASTING: Final = (1 << 64) - 1
"""Stands for the hour in the lasting hint."""


class Form(enum.Enum):
    """Which hint a message has."""

    HOURLY = "hourly"
    LASTING = "lasting"

    @property
    def other(self) -> Form:
        """What to try when this one is not answered."""
        return Form.LASTING if self is Form.HOURLY else Form.HOURLY


class Hinted(NamedTuple):
    """How a message is hinted."""

    form: Form
    hour: int = 0
    """See ``hour_of``."""


class Hints:
    """The hints under one secret.  ``key``: 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.lasting = self._of(_LASTING)

    def hourly(self, hour: int) -> int:
        """The hint of this hour, counted from 1970.  Whatever a clock says is an hour."""
        return self._of(hour % _LASTING)

    def _of(self, number: int) -> int:
        text = number.to_bytes(8, "big")
        return int.from_bytes(hashlib.blake2s(text, digest_size=SIZE, key=self._key, person=b"hint").digest(), "big")

    def attach(self, message: bytes, hinted: Hinted) -> bytes:
        """``message`` with a hint behind it."""
        hint = self.lasting if hinted.form is Form.LASTING else self.hourly(hinted.hour)
        return message + (hint ^ int.from_bytes(message[:SIZE], "big")).to_bytes(SIZE, "big")


def hour_of(time_of_day: float) -> int:
    """The hour in which this is, counted from 1970."""
    return int(time_of_day // HOUR)


def read_hint(payload: Buffer) -> int:
    """The hint at the end of ``payload``, if it has one; else any number.  At least 8 bytes are wanted."""
    return int.from_bytes(payload[-SIZE:], "big") ^ int.from_bytes(payload[:SIZE], "big")


def no_clock() -> float:
    """The time of day where nobody has a clock, as in tests: the first of all hours."""
    return 0.0
