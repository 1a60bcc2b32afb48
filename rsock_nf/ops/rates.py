"""Datagrams and bytes per second of each session, from the counters of two snapshots a few seconds apart."""

from __future__ import annotations

from typing import Any

COUNTED = ("tx_datagrams", "tx_bytes", "rx_datagrams", "rx_bytes")


class Rates:
    """Feed it snapshots; it adds a ``rates`` object to the sessions of the one that is shown."""

    def __init__(self) -> None:
        self._at = 0.0
        self._counters: dict[Any, dict[str, int]] = {}
        self._rates: dict[Any, dict[str, float]] = {}

    def sample(self, now: float, snapshot: dict[str, Any]) -> None:
        """Compare with the sample before; ``now`` is in seconds of any steady clock."""
        elapsed = now - self._at
        counters = {
            session["id"]: {key: session.get(key, 0) for key in COUNTED} for session in snapshot.get("sessions", ())
        }
        self._rates = {
            identity: {key: max(0, counted[key] - self._counters[identity][key]) / elapsed for key in COUNTED}
            for identity, counted in counters.items()
            if identity in self._counters and elapsed > 0
        }
        self._at, self._counters = now, counters

    def added_to(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        """The snapshot, with ``rates`` (per second) in each session that was there for two samples."""
        sessions = [
            {**session, "rates": self._rates[session["id"]]} if session["id"] in self._rates else session
            for session in snapshot.get("sessions", ())
        ]
        return {**snapshot, "sessions": sessions}
