"""Snapshots with everything that the metrics read."""

from __future__ import annotations

from typing import Any

FLOW = {
    "id": 1,
    "type": "tcp",
    "state": "established",
    "local": "10.0.0.1:10001",
    "remote": "198.51.100.7:40001",
    "rtt_ms": 12.5,
    "loss_out": 0.01,
    "tx_frames": 100,
    "rx_frames": 90,
}


def session(
    name: str = "", *, number: int = 1, peer: str = "198.51.100.7:40001", carried: int = 1000
) -> dict[str, Any]:
    return {
        "id": f"{number:016x}",
        "name": name,
        "peer": peer,
        "wire": "native",
        "flows": [FLOW, {**FLOW, "id": 2, "rtt_ms": 20.0}, {**FLOW, "id": 3, "type": "udp", "rtt_ms": None}],
        "conversations": 2,
        "heard_ago": 1.5,
        "tx_datagrams": carried,
        "rx_datagrams": carried,
        "tx_bytes": carried * 100,
        "rx_bytes": carried * 50,
        "oversized": 3,
        "no_credit": 1,
        "frames": {
            "tcp": {"sent": carried, "received": carried, "lost": 7},
            "udp": {"sent": 5, "received": 5, "lost": 0},
        },
    }


def snapshot(*sessions: dict[str, Any], role: str = "server", name: str = "edge") -> dict[str, Any]:
    local = dict.fromkeys(("received", "sent", "refused", "send_full", "send_errors", "late", "oversize"), 4)
    return {
        "name": name,
        "role": role,
        "version": "1",
        "state": "serving" if role == "server" else "connected",
        "type": "all",
        "pump": "native",
        "uptime": 60.5,
        "mtu": 1452,
        "flows_wanted": None if role == "server" else 10,
        "sessions": list(sessions),
        "link": {"up": True, "counters": {"received_packets": 5, "sent_packets": 6, "late": 1, "too_big": 0}},
        "carriers": {"sockets": 1, "received": 7, "sent": 8, "dropped": 1},
        "firewall": {"dropped": 5, "guarded": 0, "repairs": 0},
        "sockets": local,
        "backlog_dropped": 0,
        "made_room": 0,
        "counters": {"payloads from strangers": 21},
        "targets": [{"target": "127.0.0.1:9999", "refuses": True, "refused": 3, "refused_ago": 1.0}],
    }
