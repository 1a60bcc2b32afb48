"""A running instance as plain JSON types: what ``status`` shows and programs read."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any

from rsock_nf import __version__
from rsock_nf.core.ends.port_reports import PortReport
from rsock_nf.core.flows.kinds import KindJudge
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.tcp.header import overhead
from rsock_nf.core.types import PortRange
from rsock_nf.link.ethernet import ETHERNET_MTU
from rsock_nf.policy import carrier_ports, fake_tcp_ports
from rsock_nf.runtime.host.refusals import Target
from rsock_nf.runtime.pump_choice import why_python
from rsock_nf.runtime.reports.view import HostView, View
from rsock_nf.settings import Settings
from rsock_nf.sockets.datagrams import DatagramCounters
from rsock_nf.wire.largest import largest_datagram
from rsock_nf.words import missing_kind, narrow_path, secret_in_use, vpn_settings

_MAX_PORTS = 1024
"""The server's, of which a client tells what became of the dials."""
AT_ONCE = 250
"""Sessions, flows and conversations that are described in one step: some 3 ms on a small machine."""
_MAX_CONVERSATIONS = 100
"""That are listed one by one."""


def snapshot(view: View, host: HostView, *, now: float, started: float) -> dict[str, Any]:
    """Counters only grow, and ``uptime`` is the clock: rates are the reader's business."""
    made = steps(view, host, now=now, started=started)
    while True:
        try:
            next(made)
        except StopIteration as end:
            return dict(end.value)


def steps(view: View, host: HostView, *, now: float, started: float) -> Generator[None, None, dict[str, Any]]:
    """The same in steps of ``AT_ONCE``: between two of them traffic may go on, and sessions come and go."""
    described: list[dict[str, Any]] = []
    at_once = 0
    for session in list(view.sessions):
        described.append(_session(view, session, now))
        at_once += 1 + len(session.flows) + min(len(session.group.conversations), _MAX_CONVERSATIONS)
        if at_once >= AT_ONCE:
            at_once = 0
            yield
    settings = view.settings
    of_each_wire = wires(settings, described, host.mtu or ETHERNET_MTU, max(view.versions))
    measured = [wire for wire in of_each_wire if not wire["mtu_computed"]]
    mtu = min(wire["mtu"] for wire in measured or of_each_wire)
    over_ipv4 = min(wire["mtu"] for wire in wires(settings, [], host.mtu or ETHERNET_MTU, min(view.versions)))
    why = why_python(settings)
    return {
        "name": settings.name,
        "role": "client" if isinstance(settings.tunnel, ClientParameters) else "server",
        "version": __version__,
        "uptime": round(now - started, 3),
        "state": view.state,
        "reason": "; ".join(filter(None, [view.reason, *dict.fromkeys(crowd.reason for crowd in view.crowds)])),
        "hopeless": view.hopeless,
        "turned_away": view.turned_away,
        "notes": list(view.notes),
        "detoured": view.detoured,
        "looped": view.looped,
        "config": str(settings.path),
        "cipher": settings.tunnel.cipher.value,
        "ports": ",".join(map(str, _ports(settings))),
        "mtu": mtu,
        "vpn": vpn_settings(mtu),
        "mtu_computed": not measured,
        "mtu_ipv4": None if measured or over_ipv4 == mtu else over_ipv4,
        "wires": of_each_wire,
        "sessions": described,
        "remote": view.remote,
        "dialled": [_dialled(report) for report in view.dialled[:_MAX_PORTS]],
        "flows_wanted": settings.tunnel.flows_wanted if isinstance(settings.tunnel, ClientParameters) else None,
        "idle_timeout": getattr(settings.tunnel, "idle_timeout", None),
        "type": _type(settings),
        "pump": "python" if why else "native",
        "pump_reason": why,
        "link": {
            "device": host.device,
            "up": host.device_up,
            "mtu": host.mtu,
            "counters": dict(host.link_counters),
        },
        "carriers": dict(host.carriers),
        "firewall": {
            "backend": host.backend,
            "dropped": host.dropped.inbound_packets if host.dropped else 0,
            "guarded": host.dropped.output_packets if host.dropped else 0,
            "repairs": host.repairs,
            "local_ports": list(host.held_ports),
        },
        "sockets": _sum(host.sockets),
        "refused_by": {target.address: target.refused for target in view.targets if target.refuses},
        "targets": [_target(target, now) for target in view.targets],
        "strangers": [
            {"address": str(ip_address(address)), "payloads": count} for address, count in view.strangers.top()
        ],
        "strangers_ago": None if view.strangers.last is None else round(now - view.strangers.last, 3),
        "backlog_dropped": host.backlog_dropped,
        "made_room": sum(crowd.made_room for crowd in view.crowds),
        "counters": dict(view.counters),
    }


def _target(target: Target, now: float) -> dict[str, Any]:
    """A target that has refused datagrams."""
    return {
        "target": target.address,
        "refuses": target.refuses,
        "refused": target.refused,
        "refused_ago": round(now - target.refused_at, 3),
    }


def wires(settings: Settings, sessions: list[dict[str, Any]], link_mtu: int, version: int) -> list[dict[str, Any]]:
    """Of each wire: its ports, its kinds of flows, and its MTU for the application: the least of its sessions.

    While no flow carries anything, the MTU is computed from that of the link and the IP version.  ``sessions``: as the
    snapshot has them.
    """
    found = []
    for tunnel, wire in zip(settings.tunnels, settings.wires, strict=True):
        measured = [session["mtu"] for session in sessions if session["mtu"] and session["wire"] == wire.name.value]
        found.append(
            {
                "wire": wire.name.value,
                "ports": ",".join(map(str, tunnel.ports)),
                "type": tunnel.kinds.value,
                "mtu": min(measured, default=largest_datagram(link_mtu, version, tunnel, wire)),
                "mtu_computed": not measured,
            }
        )
    return found


def _ports(settings: Settings) -> list[PortRange]:
    """The server's, over both wires."""
    return sorted([span for tunnel in settings.tunnels for span in tunnel.ports])


def _type(settings: Settings) -> str:
    """Over both wires."""
    if not carrier_ports(settings):
        return "tcp"
    return "all" if fake_tcp_ports(settings) else "udp"


def _sum(counters: Sequence[DatagramCounters]) -> dict[str, int]:
    names = [field.name for field in dataclasses.fields(DatagramCounters)]
    return {name: sum(getattr(one, name) for one in counters) for name in names}


def _session(view: View, session: Session, now: float) -> dict[str, Any]:
    conversations = list(session.group.conversations.values())
    traffic = session.group.traffic()
    return {
        "id": f"{session.session_id:016x}",
        "name": session.identity.name,
        "secret": session.identity.secret or None,
        "peer": session.peer or view.remote,
        "seen_as": _seen_as(session.seen_as),
        "wire": session.wire,
        "cipher": session.cipher.value,
        "age": round(now - session.created, 3),
        "heard_ago": round(now - max(session.heard_at, session.created), 3),
        "mtu": session.largest_datagram(),
        "oversized": session.group.oversized,
        "largest_oversized": session.group.largest_oversized,
        "fragments": session.limits.fragments,
        "no_credit": session.group.no_credit,
        "fragments_dropped": session.reassembly.dropped,
        "resting": _resting(session.judge, now),
        "notes": [
            *map(_missing, view.missing_kinds()),
            *([secret_in_use(session.identity.secret)] if session.identity.secret else []),
            *filter(None, [session.judge.text(now)]),
            *([narrow_path(*narrowest)] if (narrowest := session.narrowest()) else []),
        ],
        "flows": [_flow(flow, now) for flow in session.flows.values()],
        "conversations": len(conversations),
        "conversation_list": [
            {
                "number": conversation.number,
                "peer": view.describe(session, conversation.peer),
                "target": conversation.target,
                "tx_datagrams": conversation.sent_datagrams,
                "rx_datagrams": conversation.received_datagrams,
            }
            for conversation in conversations[:_MAX_CONVERSATIONS]
        ],
        "tx_datagrams": traffic.sent_datagrams,
        "rx_datagrams": traffic.received_datagrams,
        "tx_bytes": traffic.sent_bytes,
        "rx_bytes": traffic.received_bytes,
        "frames": {kind: dataclasses.asdict(session.frames(udp=udp)) for kind, udp in _kinds(session)},
    }


def _dialled(report: PortReport) -> dict[str, Any]:
    return {
        "remote": str(ip_address(report.remote)),
        "port": report.port,
        "type": "udp" if report.udp else "tcp",
        "outcome": report.outcome.value,
        "took_ms": None if report.took is None else round(report.took * 1000, 3),
    }


def _kinds(session: Session) -> list[tuple[str, bool]]:
    """Of which it has, or had, a flow: what they are called, and whether they travel over UDP."""
    there = {flow.key.udp for flow in session.flows.values()}
    kinds = (("tcp", False), ("udp", True))
    return [(kind, udp) for kind, udp in kinds if udp in there or session.ended[udp].received]


def _seen_as(address: bytes) -> str:
    """The client's address as the server sees it; empty = it has not told."""
    if not address:
        return ""
    seen = IPv6Address(address)
    return str(seen.ipv4_mapped or seen)


def _missing(udp: bool) -> str:  # noqa: FBT001 - a kind
    return missing_kind(udp=udp)


def _resting(judge: KindJudge, now: float) -> dict[str, Any] | None:
    """The kind of flow that carries no bulk because the other kind is better; None = there is none."""
    if judge.resting is None:
        return None
    return {
        "type": "udp" if judge.resting else "tcp",
        "why": judge.why,
        "tried_on": judge.carriers,
        "tried_in": round(max(judge.due - now, 0.0), 3),
    }


def _flow(flow: Established, now: float) -> dict[str, Any]:
    pump = flow.pump
    health = flow.health
    return {
        "id": flow.flow_id,
        "state": "sick" if flow.sick else "retired" if flow.retired else flow.state.value,
        "type": "udp" if flow.key.udp else "tcp",
        "local": str(flow.key.local_address),
        "remote": str(flow.key.remote_address),
        "age": round(now - flow.since, 3),
        "rtt_ms": None if health.srtt is None else round(health.srtt * 1000, 3),
        "loss_out": round(health.loss, 4),
        "unanswered_probes": health.unanswered,
        "max_payload": pump.max_payload,
        "path_known": flow.path.settled,
        "largest_in": flow.largest_in,
        "headers": overhead(len(flow.key.local), udp=flow.key.udp),
        "in_flight": pump.in_flight,
        "tx_frames": pump.sent_frames,
        "rx_frames": pump.received_frames,
        "tx_bytes": pump.sent_bytes,
        "rx_bytes": pump.received_bytes,
        "bad_frames": pump.bad_frames,
        "bad_checksums": pump.bad_checksums,
        "replayed": pump.replayed,
        "out_of_window": pump.out_of_window,
    }
