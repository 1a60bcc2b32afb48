"""One instance as lines for people: its head, and a line for each session or a block with each flow.

Counters only grow, so rates come from two snapshots of one instance, apart by the difference of their ``uptime``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rsock_nf.ops.status import flows, head, layout, sessions
from rsock_nf.ops.status.layout import Line
from rsock_nf.ops.status.sessions import Snapshot
from rsock_nf.printable import printable

__all__ = ["NOT_OF_THIS_VERSION", "Snapshot", "lines", "render"]

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
    found = lines(snapshot, before, width=width, each_flow=each_flow)
    return layout.painted(found) if paint else layout.plain(found)


def lines(
    snapshot: Snapshot,
    before: Snapshot | None = None,
    *,
    width: int,
    each_flow: bool = False,
    most: int | None = None,
    most_notes: int = sessions.MOST_NOTES,
) -> list[Line]:
    """The same as lines; at most ``most`` sessions, and ``most_notes`` notes on them.

    A snapshot may come from an instance of another version, and its strings from outside.  If it cannot be read, a line
    says so.
    """
    try:
        found = list(_lines(made_printable(snapshot), before, width, each_flow, (most, most_notes)))
    except UNREADABLE:
        name = printable(str(snapshot.get("name", "?")))
        unread = f"{name}: {NOT_OF_THIS_VERSION}: rsock-nf down --name {name}, then up"
        return list(layout.folded("", unread, width, "bad", indent=0))
    return list(layout.clipped(found, width))


def _lines(
    snapshot: Snapshot,
    before: Snapshot | None,
    width: int,
    each_flow: bool,  # noqa: FBT001 - as above
    most: tuple[int | None, int],
) -> Iterator[Line]:
    if "role" not in snapshot:  # it could not be asked (``overview``)
        yield from head.outside(snapshot, width)
        return
    shown = sessions.shown(snapshot, before)
    yield from head.head(snapshot, shown, width, everything=each_flow)
    if each_flow:
        yield from _blocks(snapshot, before, width)
    elif shown:
        yield layout.line("")
        yield from sessions.table(shown, width, most[0])
        yield from sessions.notes(shown, width, most[1])


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
