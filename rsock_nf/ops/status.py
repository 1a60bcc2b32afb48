"""Snapshots of running instances as text for people.  Programs take ``status --json``: the same, unchanged.

Counters only grow, so rates come from two snapshots of one instance, apart by the difference of their ``uptime``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from rsock_nf.printable import printable
from rsock_nf.words import NOBODY_LISTENS, STRANGERS, vpn_numbers, what_happens, which_pump, who_strangers_are

Snapshot: TypeAlias = dict[str, Any]

NOT_OF_THIS_VERSION = "answers what this version of rsock-nf cannot read"

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_MAX_FLOWS = 32
_FLOW_HEAD = ("flow", "type", "state", "local", "remote", "RTT ms", "loss out", "frames out", "in")


def render(snapshot: Snapshot, before: Snapshot | None = None) -> str:
    """The state of one instance; with the snapshot ``before``, rates too.

    It may come from an instance of another version, and its strings from outside.  If it cannot be read, the text is a
    line that says so.
    """
    try:
        return _rendered(_printable(snapshot), before)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
        name = printable(str(snapshot.get("name", "?")))
        return f"{name}  {NOT_OF_THIS_VERSION}: rsock-nf down --name {name}, then up"


def _rendered(snapshot: Snapshot, before: Snapshot | None) -> str:
    if "role" not in snapshot:  # it could not be asked (``overview``)
        return f"{snapshot['name']}  {snapshot['state']}: {snapshot['reason']}"
    lines = [
        f"{snapshot['name']}  {snapshot['role']}  {snapshot['state']}  up {duration(snapshot['uptime'])}",
        *([f"  reason    {snapshot['reason']}"] if snapshot.get("reason") else []),
        *[f"  note      {note}" for note in snapshot.get("notes") or ()],
        *_targets(snapshot.get("refused_by") or {}),
        *_strangers(snapshot.get("counters") or {}, snapshot.get("type", "tcp")),
        *([f"  ports     {_each_wire(snapshot, 'ports')}"] if snapshot.get("ports") else []),
        *([f"  pump      {which_pump(snapshot.get('pump_reason', ''))}"] if snapshot.get("pump") else []),
        f"  link      {_link(snapshot['link'])}",
        *([f"  UDP       {_carriers(snapshot['carriers'])}"] if snapshot.get("carriers") else []),
        f"  firewall  {_firewall(snapshot['firewall'], snapshot.get('type', 'tcp'))}",
    ]
    lines += _mtu(snapshot)
    elapsed = snapshot["uptime"] - before["uptime"] if before else 0.0
    earlier = {session["id"]: session for session in before["sessions"]} if before else {}
    for session in snapshot["sessions"]:
        lines += ["", *_session(session, earlier.get(session["id"]), elapsed)]
    return "\n".join(lines)


def _printable(value: Any) -> Any:
    """``value`` with every string fit for one line, in names too."""
    match value:
        case str():
            return printable(value)
        case dict():
            return {_printable(key): _printable(one) for key, one in value.items()}
        case list() | tuple():
            return [_printable(one) for one in value]
    return value


def duration(seconds: float) -> str:
    """``"7 s"``, ``"12 min 05 s"``, ``"3 h 07 min"``, ``"2 d 03 h"``."""
    whole = int(seconds)
    for above, name, below, low in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= above:
            return f"{whole // above} {name} {whole % above // below:02} {low}"
    return f"{whole} s"


def size(count: float) -> str:
    """Bytes, in powers of a thousand and three digits."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    digits = 0 if unit == 0 or count >= 100 else 1 if count >= 10 else 2
    return f"{count:.{digits}f} {_UNITS[unit]}"


def _each_wire(snapshot: Snapshot, key: str) -> str:
    """The value, or each wire's where there are two."""
    wires = snapshot.get("wires") or []
    if len(wires) < 2:
        return str(snapshot[key])
    return ", ".join(f"{wire[key]} (wire {wire['wire']})" for wire in wires if wire[key])


def _mtu(snapshot: Snapshot) -> list[str]:
    """For the application: the largest datagram, and what to set in a VPN."""
    if not snapshot.get("mtu"):
        return []
    computed = " (computed: no flow)" if snapshot.get("mtu_computed") else ""
    return [
        f"  MTU       {_each_wire(snapshot, 'mtu')} bytes for the application's datagrams{computed}",
        f"  VPN       {vpn_numbers(snapshot['mtu'])}",
    ]


def _targets(refused: dict[str, int]) -> list[str]:
    """A line for each target that said that nobody listens there."""
    return [
        f"  target    {target}: {NOBODY_LISTENS}: refused {_counted(count, 'time')}"
        for target, count in refused.items()
    ]


def _strangers(counters: dict[str, int], carriers: str) -> list[str]:
    count = counters.get(STRANGERS, 0)
    if not count:
        return []
    who = who_strangers_are(over_udp=carriers != "tcp")
    return [f"  strangers {_counted(count, 'payload')} that {'does' if count == 1 else 'do'} not authenticate ({who})"]


def _link(link: dict[str, Any]) -> str:
    counters = link.get("counters") or {}
    parts = [
        f"{link['device'] or 'any device'}, MTU {link['mtu']}"
        if link.get("mtu")
        else f"{link['device'] or 'none yet'}, not open"
    ]
    if link.get("mtu") and not link.get("up", True):
        parts[0] += ", down"
    if counters:
        parts.append(f"{counters['received_packets']} packets in, {counters['sent_packets']} out")
        lost_in = ("receive_drops", "late", "truncated", "dropped_syns")
        troubles = (*lost_in, "send_full", "too_big", "unresolved", "send_errors")
        parts += [f"{counters[key]} {key.replace('_', ' ')}" for key in troubles if counters.get(key)]
    return "; ".join(parts)


def _carriers(carriers: dict[str, int]) -> str:
    text = f"{_counted(carriers['sockets'], 'socket')}; {carriers['received']} datagrams in, {carriers['sent']} out"
    troubles = ("receive_drops", "late", "refused", "send_full", "too_big", "send_errors", "receive_errors", "dropped")
    return "; ".join([text, *[f"{carriers[key]} {key.replace('_', ' ')}" for key in troubles if carriers.get(key)]])


def _firewall(firewall: dict[str, Any], carriers: str) -> str:
    if carriers == "udp":
        return "no rules: UDP needs none"
    text = f"{firewall['backend']}; {firewall['dropped']} packets kept from the kernel"
    if firewall.get("guarded"):
        text += f"; {firewall['guarded']} of the kernel's own segments stopped"
    if firewall.get("repairs"):
        text += f"; put back {_counted(firewall['repairs'], 'time')}"
    return text


def _session(session: dict[str, Any], before: dict[str, Any] | None, elapsed: float) -> list[str]:
    flows = session["flows"]
    owns = f"{_counted(len(flows), 'flow')}, {_counted(session['conversations'], 'conversation')}"
    protection = "wire rsock" if session["wire"] == "rsock" else f"cipher {session['cipher']}"
    lines = [f"  session {session['id']}  {session['peer']}  {protection}  {owns}"]
    for label, way in (("out", "tx"), ("in", "rx")):
        datagrams, octets = session[f"{way}_datagrams"], session[f"{way}_bytes"]
        line = f"    {label:<4}{_counted(datagrams, 'datagram')}, {size(octets)}"
        if before and elapsed > 0:
            packets = max(0, datagrams - before[f"{way}_datagrams"]) / elapsed
            bits = max(0, octets - before[f"{way}_bytes"]) * 8 / elapsed
            line += f"; now {packets:.0f} datagrams/s, {bits / 1e6:.2f} Mbit/s"
        lines.append(line)
    if session.get("oversized"):
        happens = what_happens(fragments=session["fragments"])
        what = f"{_counted(session['oversized'], 'datagram')} {happens}: above the MTU"
        lines.append(f"    {what}, the largest {session['largest_oversized']} bytes")
    lines += [f"    {note}" for note in session.get("notes") or []]
    if flows:
        rows = [_flow(flow) for flow in flows[:_MAX_FLOWS]]
        lines += [f"    {line}" for line in _table([_FLOW_HEAD, *rows])]
    if len(flows) > _MAX_FLOWS:
        lines.append(f"    and {len(flows) - _MAX_FLOWS} more")
    return lines


def _flow(flow: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(flow["id"]),
        flow.get("type", "tcp"),
        flow["state"],
        flow["local"],
        flow["remote"],
        "-" if flow.get("rtt_ms") is None else f"{flow['rtt_ms']:.1f}",
        f"{flow['loss_out']:.1%}",
        str(flow["tx_frames"]),
        str(flow["rx_frames"]),
    )


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Columns as wide as their widest cell; the first five to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if column < 5 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
