"""The lines of an instance above its sessions: its state and why, totals, the MTU, and what its host tells.

What the host tells is shown where it is unusual, and always beside the flows (``status --flows``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from rsock_nf.ops.status.layout import Line, Span, folded
from rsock_nf.ops.status.sessions import SICK, WITHOUT_FLOWS, Shown, Snapshot
from rsock_nf.ops.status.units import about, counted, duration, megabits, size
from rsock_nf.words import NOBODY_LISTENS, STRANGERS, over_ipv4, vpn_numbers, which_pump, who_strangers_are

_STYLES: Final = {"connected": "good", "serving": "good", "idle": "warn", "connecting": "warn", "waiting": "warn"}
# What the snapshot counts as lost; ``ops.metrics`` has them, too.
LINK_TROUBLES: Final = (
    "receive_drops",
    "late",
    "truncated",
    "dropped_syns",
    "send_full",
    "too_big",
    "unresolved",
    "send_errors",
)
CARRIER_TROUBLES: Final = (
    "receive_drops",
    "late",
    "refused",
    "send_full",
    "too_big",
    "send_errors",
    "receive_errors",
    "dropped",
)
LATELY: Final = 60.0
"""Seconds for which a refusal is told in the present tense."""
STRANGERS_SHOWN: Final = 3600.0
"""Seconds for which strangers are told of; ``--flows`` and ``--json`` keep them."""
_SOURCES: Final = 3
"""Addresses of strangers in one line."""


def outside(snapshot: Snapshot, width: int) -> Iterator[Line]:
    """Of an instance that could not be asked (``overview``)."""
    yield from folded("", f"{snapshot['name']}: {snapshot['state']}: {snapshot['reason']}", width, "bad", indent=0)


def head(snapshot: Snapshot, sessions: Sequence[Shown], width: int, *, everything: bool) -> Iterator[Line]:
    """All lines above the sessions.  ``everything``: also what is as usual."""
    yield _first(snapshot)
    if snapshot["state"] == "idle":
        yield from _labelled("idle", _why_idle(snapshot), width)
    if snapshot.get("reason"):
        yield from _labelled("reason", snapshot["reason"], width, "warn" if _carries(snapshot) else "bad")
    for note in snapshot.get("notes") or ():
        yield from _labelled("note", note, width, "warn")
    for target in _targets(snapshot):
        yield from _labelled("target", target, width, "warn")
    yield from _strangers(snapshot, width, everything=everything)
    yield from _labelled("totals", _totals(snapshot, sessions), width)
    if now := _now(sessions):
        yield from _labelled("now", now, width)
    if snapshot.get("mtu"):
        yield from _labelled("MTU", _mtu(snapshot), width)
    for label, text in _details(snapshot) if everything else ():
        yield from _labelled(label, text, width)
    for label, text, unusual in _host(snapshot):
        if everything or unusual:
            yield from _labelled(label, text, width, "warn" if unusual else "")


def _labelled(label: str, text: str, width: int, style: str = "") -> Iterator[Line]:
    return folded(label, text, width, style)


def _first(snapshot: Snapshot) -> Line:
    state, workers = snapshot["state"], snapshot.get("workers_wanted")
    return (
        Span(str(snapshot["name"]), "bold"),
        Span(f": {snapshot['role']}, "),
        Span(str(state), _STYLES.get(state, "")),
        Span(f", {workers} workers" if workers else ""),
        Span(f", up {duration(snapshot['uptime'])}"),
    )


def _details(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """What is as usual."""
    if snapshot.get("ports"):
        yield "ports", _each_wire(snapshot, "ports")
    if snapshot.get("workers"):
        yield "workers", "; ".join(map(_worker, snapshot["workers"]))
    if snapshot.get("pump"):
        yield "pump", which_pump(snapshot.get("pump_reason", ""))


def _worker(worker: dict[str, Any]) -> str:
    spent = f"{worker['processor_seconds']:.0f} s of processor time"
    return f"{worker['worker']} is process {worker['pid']}, {counted(worker['sessions'], 'session')}, {spent}"


def _carries(snapshot: Snapshot) -> bool:
    return snapshot["state"] in {"connected", "serving"}


def _why_idle(snapshot: Snapshot) -> str:
    timeout = snapshot.get("idle_timeout")
    since = f"no traffic for {timeout:g} s" if timeout else "no traffic"
    return f"{since}; the next datagram dials"


def _targets(snapshot: Snapshot) -> Iterator[str]:
    """A line for each target that has refused and has not answered since."""
    told = {target["target"]: target for target in snapshot.get("targets") or ()}
    for address, count in (snapshot.get("refused_by") or {}).items():
        ago = (told.get(address) or {}).get("refused_ago")
        times = f"refused {counted(count, 'time')}"
        if ago is None:
            yield f"{address}: {NOBODY_LISTENS}: {times}"
        elif ago < LATELY:
            yield f"{address}: {NOBODY_LISTENS}: {times}, last {about(ago)} ago"
        else:
            yield f"{address}: {times}, last {about(ago)} ago"


def _strangers(snapshot: Snapshot, width: int, *, everything: bool) -> Iterator[Line]:
    count = (snapshot.get("counters") or {}).get(STRANGERS, 0)
    ago = snapshot.get("strangers_ago")
    if not count or (ago is not None and ago > STRANGERS_SHOWN and not everything):
        return
    who = who_strangers_are(over_udp=snapshot.get("type", "tcp") != "tcp")
    text = f"{counted(count, 'payload')} that {'does' if count == 1 else 'do'} not authenticate ({who})"
    if ago is not None:
        text += f", the last {about(ago)} ago"
    sources = [f"{one['address']} ({one['payloads']})" for one in (snapshot.get("strangers") or [])[:_SOURCES]]
    if sources:
        text += f"; most from {', '.join(sources)}"
    yield from _labelled("strangers", text, width, "warn")


def _totals(snapshot: Snapshot, sessions: Sequence[Shown]) -> str:
    conversations = sum(session["conversations"] for session in snapshot["sessions"])
    up, wanted = (sum(getattr(session, name) for session in sessions) for name in ("up", "wanted"))
    parts = [f"{up} of {counted(wanted, 'flow')}" if up < wanted else counted(up, "flow")]
    parts.append(counted(conversations, "conversation"))
    if snapshot["role"] == "server":
        parts.insert(0, _who(sessions))
    out, back = sum(session.sent for session in sessions), sum(session.received for session in sessions)
    return f"{', '.join(parts)}; out {size(out)}, in {size(back)}"


def _now(sessions: Sequence[Shown]) -> str:
    """The rates of all sessions; empty = unknown."""
    known = [session.rates for session in sessions if session.rates]
    if not known:
        return ""
    return f"out {megabits(sum(out for out, _ in known))}, in {megabits(sum(back for _, back in known))} Mbit/s"


def _who(sessions: Sequence[Shown]) -> str:
    text = counted(len(sessions), "session")
    found = [session.trouble for session in sessions]
    of_note = [
        f"{count} {what}"
        for count, what in ((found.count(SICK), "in trouble"), (found.count(WITHOUT_FLOWS), "without a flow"))
        if count
    ]
    return f"{text} ({', '.join(of_note)})" if of_note else text


def _each_wire(snapshot: Snapshot, key: str) -> str:
    """The value, or each wire's where there are two."""
    wires = snapshot.get("wires") or []
    if len(wires) < 2:
        return str(snapshot[key])
    return ", ".join(f"{wire[key]} (wire {wire['wire']})" for wire in wires if wire[key])


def _mtu(snapshot: Snapshot) -> str:
    """For the application: the largest datagram, and what to set in a VPN."""
    computed = " (computed: no flow)" if snapshot.get("mtu_computed") else ""
    text = f"{_each_wire(snapshot, 'mtu')} bytes{computed}; {vpn_numbers(snapshot['mtu'])}"
    return f"{text}; {over_ipv4(snapshot['mtu_ipv4'])}" if snapshot.get("mtu_ipv4") else text


# -- what its host tells: label, text, whether that is unusual


def _host(snapshot: Snapshot) -> Iterator[tuple[str, str, bool]]:
    yield ("link", *_link(snapshot["link"]))
    if snapshot.get("carriers"):
        yield ("UDP", *_carriers(snapshot["carriers"]))
    yield ("firewall", *_firewall(snapshot["firewall"], snapshot.get("type", "tcp")))


def _link(link: dict[str, Any]) -> tuple[str, bool]:
    counters = link.get("counters") or {}
    is_open = bool(link.get("mtu"))
    is_up = bool(link.get("up", True))
    parts = [
        f"{link['device'] or 'any device'}, MTU {link['mtu']}"
        if is_open
        else f"{link['device'] or 'none yet'}, not open"
    ]
    if is_open and not is_up:
        parts[0] += ", down"
    troubles = []
    if counters:
        parts.append(f"{counters['received_packets']} packets in, {counters['sent_packets']} out")
        troubles = _nonzero(counters, LINK_TROUBLES)
    return "; ".join(parts + troubles), bool(troubles) or not is_open or not is_up


def _carriers(carriers: dict[str, int]) -> tuple[str, bool]:
    text = f"{counted(carriers['sockets'], 'socket')}; {carriers['received']} datagrams in, {carriers['sent']} out"
    troubles = _nonzero(carriers, CARRIER_TROUBLES)
    return "; ".join([text, *troubles]), bool(troubles)


def _nonzero(counters: dict[str, int], names: Sequence[str]) -> list[str]:
    return [f"{counters[name]} {name.replace('_', ' ')}" for name in names if counters.get(name)]


def _firewall(firewall: dict[str, Any], carriers: str) -> tuple[str, bool]:
    if carriers == "udp":
        return "no rules: UDP needs none", False
    text = f"{firewall['backend']}; {firewall['dropped']} packets kept from the kernel"
    guarded, repairs = firewall.get("guarded"), firewall.get("repairs")
    if guarded:
        text += f"; {guarded} of the kernel's own segments stopped"
    if repairs:
        text += f"; put back {counted(repairs, 'time')}"
    return text, bool(guarded or repairs)
