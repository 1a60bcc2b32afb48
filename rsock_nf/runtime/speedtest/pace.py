"""At which rate a speed test sends: faster while all arrives, then what arrived.

It finds the rate that the path carries with little loss.  It is no congestion control for a shared network: it lasts
some seconds, and somebody has asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FIRST: Final = 4e6
"""bit/s in the beginning."""
_LEAST: Final = 64e3
_CLEAN: Final = 0.01
"""So much loss says nothing: a path may have it at every rate."""
_FULL: Final = 0.85
"""If less than this share of the rate arrives, there is no more to be had."""
_FAST, _SLOW, _BACK = 3.0, 1.04, 0.94


@dataclass(slots=True)
class Pace:
    """See the module.  All rates in bit/s."""

    limit: float
    """Never more."""
    rate: float = FIRST
    searching: bool = True
    """The rate still grows fast: what arrives is not the path's rate yet."""

    def __post_init__(self) -> None:
        self.rate = min(self.rate, self.limit)

    def measured(self, arrived: float, loss: float) -> None:
        """In the last step so much arrived a second, and this share of it was lost."""
        if loss <= _CLEAN and arrived >= _FULL * self.rate:
            if self.rate >= self.limit:
                self.searching = False
            self.rate *= _FAST if self.searching else _SLOW
        else:
            self.searching = False
            self.rate = arrived * (_SLOW if loss <= _CLEAN else _BACK)
        self.rate = min(max(self.rate, _LEAST), self.limit)
