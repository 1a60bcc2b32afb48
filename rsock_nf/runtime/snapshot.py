"""A running instance as plain JSON types: what ``status`` shows and programs read."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from rsock_nf.core.ends.client import Client
from rsock_nf.core.flows.flow import Flow
from rsock_nf.core.flows.session import Session
from rsock_nf.core.parameters import ClientParameters, Wire
from rsock_nf.core.types import Endpoint, FlowKey, PortRange
from rsock_nf.policy import carrier_ports, fake_tcp_ports
from rsock_nf.settings import Settings
from rsock_nf.sockets.datagrams import DatagramCounters

_TARGET_INDEX = 2
"""An opening frame carries so many bytes more than a plain one: the MTU is what fits either."""

if TYPE_CHECKING:
    from rsock_nf.runtime.driver import Driver


def snapshot(driver: Driver, now: float) -> dict[str, Any]:
    """Rates are the reader's business: counters only grow, and ``uptime`` is the clock."""
    core = getattr(driver, "core", None)
    client = isinstance(driver.settings.tunnel, ClientParameters)
    counted = driver.rule_counters()
    link = driver.link
    described = [_session(driver, session, now) for session in driver.sessions]
    return {
        "name": driver.settings.name,
        "role": "client" if client else "server",
        "uptime": round(now - driver.started, 3),
        "state": state(driver),
        "reason": driver.reason,
        "config": str(driver.settings.path),
        "cipher": driver.settings.tunnel.cipher.value,
        "ports": ",".join(map(str, _ports(driver.settings))),
        "mtu": _mtu(described),
        "wires": wires(driver.settings, described),
        "sessions": described,
        "type": _type(driver.settings),
        "link": {
            "device": driver.device,
            "up": driver.device_up if link is not None else not driver.fake_tcp,
            "mtu": link.mtu if link else driver.udp_mtu or None,
            "counters": dataclasses.asdict(link.counters()) if link else {},
        },
        "carriers": _carriers(driver),
        "firewall": {
            "backend": driver.backend,
            "dropped": counted.inbound_packets if counted else 0,
            "guarded": counted.output_packets if counted else 0,
            "repairs": driver.repairs,
            "local_ports": driver.held_ports,
        },
        "sockets": _sum(driver.socket_counters()),
        "refused_by": driver.refusals(),
        "backlog_dropped": driver.backlog_dropped,
        "counters": dict(core.counters) if core is not None else {},
    }


def application_mtu(session: Session) -> int | None:
    """Bytes of the largest datagram that travels in one piece; None = no flow carries anything."""
    usable = session.group.usable
    opening = _TARGET_INDEX if session.wire is Wire.NATIVE else 0
    return session.usable_payload() - usable[0].codec.overhead - opening if usable else None


def wires(settings: Settings, sessions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each wire's ports, kinds of flows, and least MTU of ``sessions`` (as the snapshot has them; None = none carries)."""
    return [
        {
            "wire": tunnel.wire.value,
            "ports": ",".join(map(str, tunnel.ports)),
            "type": tunnel.carriers.value,
            "mtu": _mtu([session for session in sessions if session["wire"] == tunnel.wire.value]),
        }
        for tunnel in (settings.tunnel, settings.rsock)
        if tunnel is not None
    ]


def _mtu(sessions: list[dict[str, Any]]) -> int | None:
    return min((session["mtu"] for session in sessions if session["mtu"]), default=None)


def _ports(settings: Settings) -> list[PortRange]:
    """The server's, over both wires."""
    return sorted([*settings.tunnel.ports, *(settings.rsock.ports if settings.rsock else ())])


def _type(settings: Settings) -> str:
    """Over both wires."""
    if not carrier_ports(settings):
        return "tcp"
    return "all" if fake_tcp_ports(settings) else "udp"


def _carriers(driver: Driver) -> dict[str, int]:
    """Of the UDP sockets on which flows travel; empty without any."""
    if not carrier_ports(driver.settings) or not hasattr(driver, "carriers"):
        return {}
    return {"sockets": len(driver.carriers), **driver.carriers.counters()}


def _sum(counters: list[DatagramCounters]) -> dict[str, int]:
    """The application's or the targets' sockets, summed: those that are open, and at a server those that were."""
    names = [field.name for field in dataclasses.fields(DatagramCounters)]
    return {name: sum(getattr(one, name) for one in counters) for name in names}


def state(driver: Driver) -> str:
    """``starting``, a server's ``serving``, or a client's ``idle``, ``connecting`` or ``connected``."""
    core = getattr(driver, "core", None)
    if core is None:
        return "starting"
    if not isinstance(core, Client):
        return "serving"
    if core.idle:
        return "idle"
    return "connected" if any(session.flows for session in driver.sessions) else "connecting"


def _session(driver: Driver, session: Session, now: float) -> dict[str, Any]:
    conversations = list(session.group.conversations.values())
    return {
        "id": f"{session.session_id:016x}",
        "peer": session.peer or getattr(getattr(driver, "core", None), "remote_text", ""),
        "wire": session.wire.value,
        "cipher": session.cipher.value,
        "age": round(now - session.created, 3),
        "mtu": application_mtu(session),
        "no_credit": session.group.no_credit,
        "fragments_dropped": session.reassembly.dropped,
        "flows": [_flow(flow, now) for flow in session.flows.values()],
        "conversations": len(conversations),
        "conversation_list": [
            {
                "number": conversation.number,
                "peer": driver.describe(conversation.peer),
                "target": conversation.target,
                "tx_datagrams": conversation.sent_datagrams,
                "rx_datagrams": conversation.received_datagrams,
            }
            for conversation in conversations[:100]
        ],
        "tx_datagrams": sum(conversation.sent_datagrams for conversation in conversations),
        "rx_datagrams": sum(conversation.received_datagrams for conversation in conversations),
        "tx_bytes": sum(conversation.sent_bytes for conversation in conversations),
        "rx_bytes": sum(conversation.received_bytes for conversation in conversations),
    }


def _flow(flow: Flow, now: float) -> dict[str, Any]:
    pump = flow.pump
    health = flow.health
    return {
        "id": flow.flow_id,
        "state": "sick" if flow.sick else flow.state.value,
        "type": "udp" if flow.key.udp else "tcp",
        "local": _endpoint(flow.key, local=True),
        "remote": _endpoint(flow.key, local=False),
        "age": round(now - flow.since, 3),
        "rtt_ms": None if health.srtt is None else round(health.srtt * 1000, 3),
        "loss_out": round(health.loss, 4),
        "unanswered_probes": health.unanswered,
        "max_payload": pump.max_payload if pump else None,
        "in_flight": pump.in_flight if pump else 0,
        "tx_frames": pump.sent_frames if pump else 0,
        "rx_frames": pump.received_frames if pump else 0,
        "tx_bytes": pump.sent_bytes if pump else 0,
        "rx_bytes": pump.received_bytes if pump else 0,
        "bad_frames": pump.bad_frames if pump else 0,
        "bad_checksums": pump.bad_checksums if pump else 0,
        "replayed": pump.replayed if pump else 0,
        "out_of_window": pump.out_of_window if pump else 0,
    }


def _endpoint(key: FlowKey, *, local: bool) -> str:
    address, port = (key.local, key.local_port) if local else (key.remote, key.remote_port)
    return str(Endpoint(ip_address(address), port))
