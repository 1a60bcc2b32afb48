"""What `up` says of a tunnel that has just come up, in one line."""

from __future__ import annotations

import statistics
import time
from typing import Any, Final

from rsock_nf.core.parameters import ClientParameters
from rsock_nf.errors import RsockError
from rsock_nf.ops.control_socket.ask import ask
from rsock_nf.ops.instances.instance import Instance
from rsock_nf.settings import Settings
from rsock_nf.words import SMALLEST

_PATIENCE: Final = 1.0
"""Seconds for the other flows and the first round trips: a client is up with its first flow."""
_LOOK: Final = 0.05


def summary(settings: Settings) -> str:
    """``up``, and what is known of it by now."""
    if not isinstance(settings.tunnel, ClientParameters):
        kinds = {"tcp": "TCP", "udp": "UDP", "all": "TCP and UDP"}[settings.tunnel.kinds.value]
        return f"up: {kinds} ports {','.join(map(str, settings.tunnel.ports))}"
    end = time.monotonic() + _PATIENCE
    while True:
        status = _status(settings.name)
        if not status:
            return "up"
        flows = _flows(status)
        wanted = status.get("flows_wanted") or settings.tunnel.flows_wanted  # of all workers, where there are several
        if len(flows) >= wanted or time.monotonic() >= end:
            return ", ".join([f"up: {len(flows)}/{wanted} flows", *_numbers(status, flows)]) if flows else "up"
        time.sleep(_LOOK)


def _numbers(status: dict[str, Any], flows: list[dict[str, Any]]) -> list[str]:
    """Those that are known."""
    found = []
    round_trips = [flow["rtt_ms"] for flow in flows if flow.get("rtt_ms") is not None]
    if round_trips:
        found.append(f"RTT {statistics.median(round_trips):.3g} ms")
    seen = sorted({session["seen_as"] for session in status["sessions"] if session.get("seen_as")})
    if seen:
        found.append(f"the server sees you as {' and '.join(seen)}")
    if status.get("mtu", 0) >= SMALLEST:
        found.append(f"WireGuard MTU {status['vpn']['wireguard_mtu']}")
    return found


def _flows(status: dict[str, Any]) -> list[dict[str, Any]]:
    return [flow for session in status.get("sessions", []) for flow in session["flows"]]


def _status(name: str) -> dict[str, Any]:
    try:
        return ask(Instance(name), "status", timeout=_PATIENCE)
    except RsockError:  # it stands, whatever it has to do now
        return {}
