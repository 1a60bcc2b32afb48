"""What a fuzz target is."""

from collections.abc import Callable
from typing import NamedTuple


class Target(NamedTuple):
    """``run`` takes any bytes, and returns or raises ``Malformed``.  Nothing else may come out."""

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    """Inputs that ``run`` accepts, to mutate."""
    cost: int = 1
    """An attempt takes as long as so many of a parser's: the test suite makes fewer."""
    share: int = 1
    """The time of a run is divided by these."""

    @property
    def limit(self) -> float:
        """How much processor time an attempt may take, in seconds: ten times what any has taken, at least."""
        return 1 + self.cost / 2
