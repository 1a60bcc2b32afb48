"""Each flow of a session as a row of a table (``status --flows``).

Where the terminal is too narrow for the addresses of both ends, and all flows have the same ones, the table shows only
ports: the addresses stand above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rsock_nf.ops.status.layout import Line, Table, folded, line
from rsock_nf.ops.status.sessions import oversized, rates
from rsock_nf.ops.status.units import counted, megabits, share, size

_HEAD: Final = ("flow", "type", "state", "local", "remote", "RTT ms", "loss", "frames out", "in")
_GIVES: Final = ((4, 12), (3, 12), (4, 7), (3, 7))
"""How addresses become narrower, until only the port is left: see ``Table``."""
_STYLES: Final = {"established": "", "retired": "dim"}
_STATES: Final = {"established": "up"}


def block(session: dict[str, Any], before: dict[str, Any] | None, elapsed: float, width: int) -> Iterator[Line]:
    """A session, what it has carried, and its flows."""
    flows = session["flows"]
    owns = f"{counted(len(flows), 'flow')}, {counted(session['conversations'], 'conversation')}"
    protection = "wire rsock" if session["wire"] == "rsock" else f"cipher {session['cipher']}"
    name = f"{session['name']}  " if session.get("name") else ""
    yield from folded("", f"session {name}{session['id']}  {session['peer']}", width, "bold")
    worker = f"worker {session['worker']}; " if session.get("worker") else ""
    yield from folded("", f"{worker}{protection}; {owns}", width, indent=4)
    bits = rates(session, before, elapsed)
    for at, (label, way) in enumerate((("out", "tx"), ("in", "rx"))):
        datagrams, octets = session[f"{way}_datagrams"], session[f"{way}_bytes"]
        text = f"    {label:<4}{counted(datagrams, 'datagram')}, {size(octets)}"
        if before and bits:
            packets = max(0, datagrams - before[f"{way}_datagrams"]) / elapsed
            text += f"; now {packets:.0f} datagrams/s, {megabits(bits[at])} Mbit/s"
        yield line(text)
    for note in [*oversized(session), *(session.get("notes") or [])]:
        yield from folded("", note, width, "warn", indent=4)
    if flows:
        yield from _table(flows, width)


def _table(flows: list[dict[str, Any]], width: int) -> Iterator[Line]:
    rows = [(_cells(flow), _STYLES.get(flow["state"], "warn")) for flow in flows]
    table = Table(_HEAD, left=range(5), gives=_GIVES, indent=4)
    widest = list(table.lines(rows, 1 << 16))
    if max(len(span.text) for spans in widest for span in spans) <= width:
        yield from widest
        return
    addresses = {tuple(flow[end].rpartition(":")[0] for end in ("local", "remote")) for flow in flows}
    if len(addresses) == 1:
        ((local, remote),) = addresses
        yield from folded("", f"from {local} to {remote}", width, "dim", indent=4)
        rows = [
            ((*cells[:3], *(f":{cell.rpartition(':')[2]}" for cell in cells[3:5]), *cells[5:]), style)
            for cells, style in rows
        ]
    yield from table.lines(rows, width)


def _cells(flow: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(flow["id"]),
        flow.get("type", "tcp"),
        _STATES.get(flow["state"], flow["state"]),
        flow["local"],
        flow["remote"],
        "-" if flow.get("rtt_ms") is None else f"{flow['rtt_ms']:.1f}",
        share(flow["loss_out"]),
        str(flow["tx_frames"]),
        str(flow["rx_frames"]),
    )
