"""The largest segment that passes on a flow's path, found by padded probes (after RFC 8899, for one flow).

Doubt: a probe is padded to the size in use.  If it is answered, the size is confirmed.  If three such probes are lost
while small probes are answered, a search begins.  If a router says "too big", one lost probe is enough.  Anybody can
say that, so the word alone changes nothing (RFC 8899 section 4.6).

Search: in each of three rounds, one probe leaves for each size that may pass.  The largest answered one is the size.
The size that was in doubt is among them: if its probes were lost by accident, it is in use again a round trip later.

A path may become wider again.  So larger sizes are searched from time to time.

Not here: when to doubt (``probes``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

PLATEAUS = (1400, 1360, 1320, 1240, 1160, 1000, 536)
"""Payload sizes tried below that of the TCP handshake: what common tunnels leave of 1,500 bytes."""
RAISE_AFTER = 600.0
"""Seconds until larger sizes are tried (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER)."""
DEAF = 1.0
"""Seconds for which no claim counts after one was refuted: forged ones cost at most one padded probe a second."""
_LOST_PROBES = 3
"""RFC 8899 section 5.1.2, MAX_PROBES."""
_LARGER = 0x80000000
"""Probes of a search have numbers from here on.  The other probes of a flow never reach such numbers."""


@dataclass(slots=True)
class _Search:
    """``sizes``: those to be tried.  ``floor``: the size in use until a larger one has passed."""

    sizes: list[int]
    floor: int
    passed: int
    """The largest size that is known to pass; 0 = none yet."""
    rounds: int = _LOST_PROBES
    """Rounds that are not over."""
    sent: dict[int, int] = field(default_factory=dict)
    """The size of each probe of this search, by number."""

    @property
    def top(self) -> int:
        return max(self.sizes)


@dataclass(slots=True)
class PathMtu:
    """The largest payload of one segment on one flow's path."""

    size: int = 0
    confirmed: bool = False
    """The last probe that was padded to ``size`` was answered."""
    whole: int = 0
    """The size that passed before, or that opening and link allow, if less was found to pass.  0 = it passes."""
    _proved: bool = False
    """``size`` has passed on this flow."""
    _probe: int = 0
    """The number of the padded probe that is on its way.  0 = none."""
    _lost: int = 0
    _claim: int = 0
    """The size that is said to pass, if that is less than ``size``.  0 = nobody says so."""
    _deaf_until: float = 0.0
    _raise_at: float = 0.0
    _search: _Search | None = None
    _number: int = _LARGER
    """The number of the last probe of a search."""

    @property
    def searching(self) -> bool:
        """Several sizes are being tried."""
        return self._search is not None

    @property
    def settled(self) -> bool:
        """Nothing is to be found out now."""
        return self.confirmed and self._search is None

    def start(self, size: int) -> None:
        """Begin with ``size``: the MSS of the TCP handshake, or what the link takes if that is less."""
        self.size = size
        self.confirmed = self._proved = False
        self.whole = self._probe = self._lost = self._claim = 0
        self._search = None

    def reduce(self, now: float, size: int) -> bool:
        """The link takes at most ``size`` bytes.  Returns True if that is less than what is in use."""
        if self._search is not None:
            self._search.sizes = [tried for tried in self._search.sizes if tried <= size] or [size]
        if size >= self.size:
            return False
        self.start(size)
        self._raise_at = now + RAISE_AFTER
        return True

    def shrink(self, now: float, size: int) -> bool:
        """Believe at once that at most ``size`` bytes pass: there are no padded probes.

        Returns True if that is less than what is in use.
        """
        whole = max(self.whole, self.size)
        if not self.reduce(now, size):
            return False
        self.whole = whole
        return True

    # -- doubt

    def claim(self, now: float, size: int) -> bool:
        """Somebody says that at most ``size`` bytes pass.

        Returns True if a probe padded to the size in use is to find out whether that is so.
        """
        if size >= self.size or self._search is not None or now < self._deaf_until:
            return False
        self._claim = max(self._claim, size)  # the search finds out what is even smaller
        self.confirmed = False
        return True

    def doubt(self) -> bool:
        """The size in use does not seem to pass on another flow that takes the same path.

        Returns True if ``size`` has changed: one that has never passed here is searched at once, and not used
        meanwhile.
        """
        return not self._proved and self._search is None and self._search_below()

    def probe_sent(self, number: int) -> None:
        """Probe ``number`` was sent, padded to ``size``."""
        self._probe = number

    def answered(self, now: float, number: int) -> bool:
        """Probe ``number``, which is none of a search, was answered.  Returns True if ``size`` has changed."""
        if self._search is not None:
            return self._round_over(now, self._search)
        if not self._probe:
            return False
        padded, self._probe = self._probe, 0
        if number == padded:
            self._deaf_until = now + DEAF if self._claim else self._deaf_until
            self.confirmed = self._proved = True
            self._lost = self._claim = 0
            return False
        self.confirmed = False  # a later, small probe was answered, but the padded one was not
        self._lost += 1
        if self._lost < _LOST_PROBES and not self._claim:
            return False
        return self._search_below()

    # -- search

    def _search_below(self) -> bool:
        """``size`` does not seem to pass.  Returns True if there is a smaller one to use meanwhile."""
        floor = self._claim or min(PLATEAUS[-1], self.size)
        self._lost = self._claim = 0
        if floor == self.size:
            self.confirmed = True
            return False
        sizes = {self.size, floor, *(size for size in PLATEAUS if size < self.size)}
        self._search = _Search(sorted(sizes), floor, 0)
        self.size = floor
        return True

    def grow(self, now: float, ceiling: int) -> None:
        """Search sizes up to ``ceiling``, which opening and link allow, if it is time to do so."""
        if self.settled and self.size < ceiling and self.may_grow(now):
            sizes = [size for size in PLATEAUS if self.size < size < ceiling]
            self._search = _Search(sorted([*sizes, ceiling]), self.size, self.size)

    def may_grow(self, now: float) -> bool:
        """It is time to try larger sizes again."""
        return now >= self._raise_at

    def widened(self, now: float) -> None:
        """The link takes more than before: try larger sizes at once."""
        self._raise_at = now

    def round(self) -> list[tuple[int, int]]:
        """(number, size) of each probe to send now.  Empty = there is no search."""
        search = self._search
        if search is None:
            return []
        probes = []
        for size in search.sizes:
            if size > search.passed:
                self._number = self._number + 1 & 0xFFFFFFFF | _LARGER
                search.sent[self._number] = size
                probes.append((self._number, size))
        return probes

    def passed(self, now: float, number: int) -> bool:
        """Whether probe ``number`` belongs to the search, and its answer has changed ``size``."""
        search = self._search
        size = search.sent.get(number, 0) if search is not None else 0
        if search is None or not search.passed < size <= search.top:
            return False
        search.passed = size
        if size == search.top:
            return self._end(now, search)
        before, self.size = self.size, max(size, search.floor)
        return self.size != before

    def _round_over(self, now: float, search: _Search) -> bool:
        search.rounds -= 1
        if not search.rounds:
            return self._end(now, search)
        if not 0 < search.passed < search.floor:
            return False
        self.size = search.floor = search.passed  # what was said to pass did not
        return True

    def _end(self, now: float, search: _Search) -> bool:
        """The search is over.  Returns whether ``size`` has changed."""
        before, self.size = self.size, search.passed or min(PLATEAUS[-1], search.floor)
        if self.size < search.top:
            self.whole = max(self.whole, search.top)
        elif search.top >= self.whole:
            self.whole = 0
        self._search = None
        self.confirmed = self._proved = True
        self._raise_at = now + RAISE_AFTER
        return self.size != before
