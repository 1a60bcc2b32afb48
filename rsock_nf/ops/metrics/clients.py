"""What each client has carried over all of its sessions: counters that only grow, for a bounded number of clients.

A client is known by its name, or else by its address without the port.  A session's own counters begin anew with the
next session, and two sessions may be of one client.  So what a session has counted since the last look is added to its
client.  If there are too many clients, those go whose last session was over first; if all have sessions, the newest
share one name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Final, TypeAlias

from rsock_nf.ops.status.units import host_of

Key: TypeAlias = tuple[str, ...]
"""What is counted: its name, then the values of the labels behind ``client``."""

MOST_CLIENTS: Final = 1000
OTHERS: Final = "(others)"
"""The name that the clients above ``MOST_CLIENTS`` share; no client can have it."""
_WAYS: Final = (("sent", "tx"), ("received", "rx"))


def client_of(session: Mapping[str, Any]) -> str:
    """How a session's client is called in labels: its name, or else its address.  A server knows it with the port."""
    return str(session.get("name") or host_of(str(session["peer"])))


class Clients:
    """See the module.  One for each reader of an instance."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, Key], int] = {}
        """What was counted at the last look, by session and key."""
        self._totals: dict[str, Counter[Key]] = {}
        """By client, those that were seen last at the end."""
        self._called: dict[str, str] = {}
        """The clients of the last look, and their names."""

    def take(self, snapshot: Mapping[str, Any]) -> Generator[tuple[str, Mapping[Key, int]], None, None]:
        """Count what is new in ``snapshot``: each client, and its totals.

        One step counts one client, so who serves others at the same time can pause between two.  If it is not gone
        through to the end, the rest is counted next time.
        """
        present = dict.fromkeys(map(client_of, snapshot["sessions"]))
        self._called = {client: self._admit(client, present) for client in present}
        sessions: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for session in snapshot["sessions"]:
            sessions[self.name_of(session)].append(session)
        outlives = snapshot["role"] == "client"  # its conversations outlive its sessions
        last = {at: count for at, count in self._last.items() if outlives and not at[0]}
        complete = False
        try:
            for client, totals in self._totals.items():
                for session in sessions[client]:
                    for place, key, count in _counted(session, snapshot["role"]):
                        before = self._last.get((place, key), 0)
                        totals[key] += count - before if count >= before else count
                        last[place, key] = count
                yield client, totals
            complete = True
        finally:
            self._last = last if complete else {**self._last, **last}

    def name_of(self, session: Mapping[str, Any]) -> str:
        """How the client of a session of the last look is called."""
        return self._called[client_of(session)]

    def _admit(self, client: str, present: Mapping[str, Any]) -> str:
        """What ``client`` is called; it is the last one from now on."""
        known = self._totals.pop(client, None)
        if known is None and len(self._totals) >= MOST_CLIENTS:
            gone = next((one for one in self._totals if one not in present and one != OTHERS), None)
            if gone is None:
                self._totals.setdefault(OTHERS, Counter())
                return OTHERS
            del self._totals[gone]
        self._totals[client] = known if known is not None else Counter()
        return client


def _counted(session: Mapping[str, Any], role: str) -> Iterator[tuple[str, Key, int]]:
    """Where it is counted from, what, and how much: by session, or at a client for all of its sessions."""
    of_session = session["id"]
    of_group = "" if role == "client" else of_session
    for direction, way in _WAYS:
        yield of_group, ("session_datagrams_total", direction), session[f"{way}_datagrams"]
        yield of_group, ("session_bytes_total", direction), session[f"{way}_bytes"]
    yield of_group, ("session_oversized_datagrams_total",), session["oversized"]
    yield of_group, ("session_no_credit_datagrams_total",), session["no_credit"]
    for kind, frames in session["frames"].items():
        for direction, _ in _WAYS:
            yield of_session, ("session_frames_total", kind, direction), frames[direction]
        yield of_session, ("session_frames_lost_total", kind), frames["lost"]
