"""Sessions for scripts: one line each, columns separated by a tab, always the same ones and in the same order.

New columns come behind the last one.  ``-`` stands for what is unknown or not there.  An instance without a session has
a line, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rsock_nf.ops.status.render import UNREADABLE, made_printable
from rsock_nf.ops.status.sessions import Shown, Snapshot, shown
from rsock_nf.printable import printable

COLUMNS: Final = (
    "instance",
    "role",
    "state",
    "session",
    "name",
    "address",
    "wire",
    "flows_up",
    "flows_wanted",
    "loss",
    "rtt_ms",
    "heard_s",
    "age_s",
    "conversations",
    "tx_datagrams",
    "rx_datagrams",
    "tx_bytes",
    "rx_bytes",
)
"""``docs/operations.md`` says what each is."""
_NOTHING: Final = "-"


def brief(snapshot: Snapshot) -> list[str]:
    """The lines of one instance, its sessions by id.  What cannot be read has the line of one that cannot be asked."""
    try:
        return list(_lines(made_printable(snapshot)))
    except UNREADABLE:
        return [_row([printable(str(snapshot.get("name", _NOTHING))), _NOTHING, "unknown"])]


def _lines(snapshot: Snapshot) -> Iterator[str]:
    instance = [snapshot["name"], snapshot.get("role", _NOTHING), snapshot["state"]]
    if not snapshot.get("sessions"):
        yield _row(instance)
        return
    for session in sorted(snapshot["sessions"], key=lambda session: str(session["id"])):
        (of_it,) = shown({**snapshot, "sessions": [session]})
        yield _row([*instance, *_cells(session, of_it)])


def _cells(session: Snapshot, of_it: Shown) -> Iterator[str]:
    yield session["id"]
    yield session.get("name") or _NOTHING
    yield of_it.peer
    yield of_it.wire
    yield str(of_it.up)
    yield str(of_it.wanted)
    yield _NOTHING if of_it.loss is None else f"{of_it.loss:.4f}"
    yield _NOTHING if of_it.rtt is None else f"{of_it.rtt:.3f}"
    yield _NOTHING if of_it.heard is None else f"{of_it.heard:.0f}"
    yield _NOTHING if session.get("age") is None else f"{session['age']:.0f}"
    for name in ("conversations", "tx_datagrams", "rx_datagrams", "tx_bytes", "rx_bytes"):
        yield str(session[name])


def _row(cells: list[str]) -> str:
    return "\t".join([*cells, *[_NOTHING] * (len(COLUMNS) - len(cells))])
