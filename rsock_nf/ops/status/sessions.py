"""A session as one line of a table: who, how many flows, loss, round-trip time, traffic, and when it was last heard.
The port of a client's newest flow is left out: ``--flows`` has all.

The order is by trouble, then by traffic: what needs a person stands above.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from rsock_nf.ops.status.layout import Line, Table, folded, line
from rsock_nf.ops.status.units import age, counted, host_of, megabits, share, size
from rsock_nf.words import what_happens

Snapshot: TypeAlias = dict[str, Any]

LOSSY: Final = 0.05
"""A session that loses a larger share than this is in trouble."""
MOST_NOTES: Final = 8
"""Notes below the sessions of one instance, unless each flow is shown."""
_ID: Final = 8
"""Characters of a session's id where it has no name."""
WELL, SICK, WITHOUT_FLOWS = range(3)
_GIVES: Final = ((0, 24), (1, 20), (0, 14), (1, 15), (0, 10), (1, 10), (0, 6), (1, 6))
"""How names and addresses become narrower: see ``Table``."""
_ORDER: Final = (1, 0, 2)
_STYLES: Final = ("", "warn", "dim")


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown of one session.  Out is what this side sends."""

    name: str
    peer: str
    wire: str
    up: int
    """Flows that carry and are well."""
    wanted: int
    loss: float | None
    """The mean of its flows; None = no flow."""
    rtt: float | None
    """Milliseconds, the median of its flows; None = no flow has told one."""
    sent: int
    received: int
    """Bytes."""
    rates: tuple[float, float] | None
    """Bits a second, out and in; None = unknown."""
    heard: float | None
    """Seconds since something came from the peer; None = unknown."""
    notes: Sequence[str]

    @property
    def trouble(self) -> int:
        """``WELL``, ``SICK`` or ``WITHOUT_FLOWS``."""
        if not self.up and not self.wanted:
            return WITHOUT_FLOWS
        return SICK if self.up < self.wanted or (self.loss or 0.0) > LOSSY else WELL

    @property
    def rank(self) -> tuple[int, float, str]:
        """The order of sessions."""
        traffic = sum(self.rates) if self.rates else self.sent + self.received
        return _ORDER[self.trouble], -traffic, self.name


def shown(snapshot: Snapshot, before: Snapshot | None = None) -> list[Shown]:
    """The sessions of an instance in the order of their ranks; with the snapshot ``before``, rates too."""
    earlier = {session["id"]: session for session in before["sessions"]} if before else {}
    elapsed = snapshot["uptime"] - before["uptime"] if before else 0.0
    wanted = snapshot.get("flows_wanted")
    found = [
        _shown(session, earlier.get(session["id"]), elapsed, session.get("flows_wanted", wanted) or 0)
        for session in snapshot["sessions"]
    ]
    return sorted(found, key=lambda session: session.rank)


def rates(session: dict[str, Any], before: dict[str, Any] | None, elapsed: float) -> tuple[float, float] | None:
    """Bits a second, out and in; None = there is no earlier look."""
    if before is None or elapsed <= 0:
        return None
    out, back = (max(0, session[f"{way}_bytes"] - before[f"{way}_bytes"]) * 8 / elapsed for way in ("tx", "rx"))
    return out, back


def _shown(session: dict[str, Any], before: dict[str, Any] | None, elapsed: float, wanted: int) -> Shown:
    flows = session["flows"]
    up = [flow for flow in flows if flow["state"] == "established"]
    trips = [flow["rtt_ms"] for flow in flows if flow.get("rtt_ms") is not None]
    carrying = [flow for flow in flows if flow["state"] != "retired"]
    return Shown(
        name=session.get("name") or session["id"][:_ID],
        peer=session["peer"],
        wire=session["wire"],
        up=len(up),
        wanted=max(wanted, len(carrying)),
        loss=_mean([flow["loss_out"] for flow in carrying]),
        rtt=_median(trips),
        sent=session["tx_bytes"],
        received=session["rx_bytes"],
        rates=rates(session, before, elapsed),
        heard=session.get("heard_ago"),
        notes=[*oversized(session), *(session.get("notes") or [])],
    )


def _mean(numbers: Sequence[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


def _median(numbers: Sequence[float]) -> float | None:
    """The lower of the two in the middle.  (The module ``statistics`` takes longer to import than all of this.)"""
    return sorted(numbers)[(len(numbers) - 1) // 2] if numbers else None


def oversized(session: dict[str, Any]) -> Iterator[str]:
    """A line on datagrams that did not fit one segment, if there were any."""
    if session.get("oversized"):
        happens = what_happens(fragments=session["fragments"])
        what = f"{counted(session['oversized'], 'datagram')} {happens}: above the MTU"
        yield f"{what}, the largest {session['largest_oversized']} bytes"


def table(sessions: Sequence[Shown], width: int, most: int | None = None) -> Iterator[Line]:
    """A line for each session, and notes below; of more than ``most`` sessions the first ones, and how many are left
    out.
    """
    told = sessions if most is None else sessions[: max(most, 0)]
    wires = len({session.wire for session in sessions} | {"native"}) > 1
    live = any(session.rates for session in sessions)
    traffic = ("Mbit/s out", "in") if live else ("out", "in")
    head = ("session", "address", *(("wire",) if wires else ()), "flows", "loss", "RTT ms", *traffic, "seen")
    rows = [(_cells(session, wires=wires, live=live), _STYLES[session.trouble]) for session in told]
    if rows:
        yield from Table(head, left=range(3 if wires else 2), gives=_GIVES).lines(rows, width)
    if len(told) < len(sessions):
        yield line(f"  … {len(sessions) - len(told)} more", "dim")


def height(count: int, most: int) -> int:
    """How many lines ``table`` has of so many sessions."""
    told = min(count, max(most, 0))
    return bool(told) + told + (told < count)


def notes(sessions: Sequence[Shown], width: int, most: int) -> Iterator[Line]:
    """What is unusual about each session; behind its name if there are several.  At most ``most`` of them."""
    found = [(session, note) for session in sessions for note in session.notes]
    for session, note in found[:most]:
        yield from folded("", note if len(sessions) == 1 else f"{session.name}: {note}", width, "warn", indent=4)
    if len(found) > most:
        yield line(f"    … {counted(len(found) - most, 'more note' if most else 'note')}: --flows", "dim")


def _cells(session: Shown, *, wires: bool, live: bool) -> tuple[str, ...]:
    if live:
        traffic = tuple(map(megabits, session.rates)) if session.rates else ("-", "-")
    else:
        traffic = (size(session.sent, ""), size(session.received, ""))
    return (
        session.name,
        host_of(session.peer),
        *((session.wire,) if wires else ()),
        f"{session.up}/{session.wanted}" if session.wanted else "0",
        share(session.loss),
        "-" if session.rtt is None else f"{session.rtt:.1f}",
        *traffic,
        age(session.heard),
    )
