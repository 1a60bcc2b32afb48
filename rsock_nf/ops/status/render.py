"""One instance as lines for people: its head, and a line for each session or a block with each flow.

Counters only grow, so rates come from two snapshots of one instance, apart by the difference of their ``uptime``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rsock_nf.ops.status import flows, head, layout, sessions
from rsock_nf.ops.status.layout import Line
from rsock_nf.ops.status.sessions import Shown, Snapshot
from rsock_nf.printable import printable

__all__ = ["NOT_OF_THIS_VERSION", "Snapshot", "View", "render", "view"]

NOT_OF_THIS_VERSION: Final = "answers what this version of rsock-nf cannot read"
UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""What a snapshot of another version, or of a foreign process, may lead to."""


def render(
    snapshot: Snapshot,
    before: Snapshot | None = None,
    *,
    width: int = layout.WIDTH,
    each_flow: bool = False,
    paint: bool = False,
) -> str:
    """The state of one instance; with the snapshot ``before``, rates too.

    No line is longer than ``width`` columns (but 40).  ``paint``: with the escape sequences of a terminal.
    """
    found = view(snapshot, before, width=width, each_flow=each_flow).lines()
    return layout.painted(found) if paint else layout.plain(found)


@dataclass(frozen=True, slots=True)
class View:
    """An instance as lines, of which the last ones can be left out."""

    head: list[Line]
    """What is always shown; of an instance with ``each_flow``, everything."""
    listed: Sequence[Shown]
    """The sessions below it."""
    width: int

    def lines(self, most: int | None = None, most_notes: int = sessions.MOST_NOTES) -> list[Line]:
        """With at most ``most`` sessions, and ``most_notes`` notes on them."""
        if not self.listed:
            return self.head
        below = [
            *sessions.table(self.listed, self.width, most),
            *sessions.notes(self.listed, self.width, most_notes),
        ]
        return [*self.head, layout.line(""), *layout.clipped(below, self.width)]

    def height(self, most: int) -> int:
        """How many lines ``lines(most, 0)`` has."""
        if not self.listed:
            return len(self.head)
        rows = sessions.height(len(self.listed), most)
        return len(self.head) + 1 + rows + any(session.notes for session in self.listed)


def view(
    snapshot: Snapshot, before: Snapshot | None = None, *, width: int = layout.WIDTH, each_flow: bool = False
) -> View:
    """All that can be shown of one instance.

    A snapshot may come from an instance of another version, and its strings from outside.  If it cannot be read, a line
    says so.
    """
    try:
        made = _view(made_printable(snapshot), before, width, each_flow=each_flow)
        made.lines()  # what cannot be read, shows here
    except UNREADABLE:
        name = printable(str(snapshot.get("name", "?")))
        unread = f"{name}: {NOT_OF_THIS_VERSION}: rsock-nf down --name {name}, then up"
        return View(list(layout.folded("", unread, width, "bad", indent=0)), (), width)
    return made


def _view(snapshot: Snapshot, before: Snapshot | None, width: int, *, each_flow: bool) -> View:
    if "role" not in snapshot:  # it could not be asked (``overview``)
        return View(list(layout.clipped(head.outside(snapshot, width), width)), (), width)
    shown = sessions.shown(snapshot, before)
    above = [*head.head(snapshot, shown, width, everything=each_flow)]
    if each_flow:
        above += _blocks(snapshot, before, width)
    return View(list(layout.clipped(above, width)), () if each_flow else shown, width)


def _blocks(snapshot: Snapshot, before: Snapshot | None, width: int) -> Iterator[Line]:
    earlier = {session["id"]: session for session in before["sessions"]} if before else {}
    elapsed = snapshot["uptime"] - before["uptime"] if before else 0.0
    for session in snapshot["sessions"]:
        yield layout.line("")
        yield from flows.block(session, earlier.get(session["id"]), elapsed, width)


def made_printable(value: Any) -> Any:
    """``value`` with every string fit for one line, in names too."""
    match value:
        case str():
            return printable(value)
        case dict():
            return {made_printable(key): made_printable(one) for key, one in value.items()}
        case list() | tuple():
            return [made_printable(one) for one in value]
    return value
