"""Which metrics there are, and their values in a snapshot.

Names and units follow https://prometheus.io/docs/practices/naming: base units, counters end with ``_total``.  The
instance's name is the label ``tunnel``: Prometheus has a label ``instance`` of its own.  Each label has a bounded
number of values (``client``: see ``clients``).
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from rsock_nf.ops.metrics.clients import Clients
from rsock_nf.ops.status.head import CARRIER_TROUBLES, LINK_TROUBLES

PREFIX: Final = "rsock_nf_"
STATES: Final = ("starting", "waiting", "idle", "connecting", "connected", "serving")
_COUNTER: Final = "_total"
_LOCAL_DROPS: Final = ("refused", "send_full", "send_errors", "receive_errors", "unanswerable", "late", "oversize")


class Described(NamedTuple):
    """A metric."""

    text: str
    labels: tuple[str, ...] = ()
    """Behind ``tunnel``."""


METRICS: Final[dict[str, Described]] = {
    "up": Described("1 if the instance answers; of one that has crashed or is silent: 0."),
    "info": Described("The instance; the value is 1.", ("role", "version", "type", "pump")),
    "state": Described("1 for the state that the instance is in, 0 for the others.", ("state",)),
    "uptime_seconds": Described("Since the instance was started."),
    "workers": Described("Processes that carry the traffic and answer."),
    "worker_processor_seconds_total": Described("Processor time of each of several.", ("worker",)),
    "mtu_bytes": Described("The largest datagram of the application that needs no fragments."),
    "sessions": Described("Sessions that stand."),
    "conversations": Described("Conversations that are open."),
    "flows": Described("Flows that carry traffic.", ("kind", "state")),
    "flows_wanted": Described("Flows that a client wants."),
    "link_up": Described("Whether the network device is up."),
    "link_packets_total": Described("Packets of the tunnel.", ("direction",)),
    "link_dropped_packets_total": Described("Packets of the tunnel that were dropped at this host.", ("reason",)),
    "carrier_datagrams_total": Described("Datagrams of UDP flows.", ("direction",)),
    "carrier_dropped_datagrams_total": Described("Datagrams of UDP flows that were dropped.", ("reason",)),
    "local_datagrams_total": Described("Datagrams of applications or targets.", ("direction",)),
    "local_dropped_datagrams_total": Described(
        "Datagrams of applications or targets that were dropped or refused.", ("reason",)
    ),
    "backlog_dropped_datagrams_total": Described("Segments that did not fit behind a full send buffer."),
    "firewall_dropped_packets_total": Described("Packets of the tunnel that the rules kept from the kernel."),
    "firewall_guarded_packets_total": Described("Segments of the kernel's own TCP that the rules stopped."),
    "firewall_repairs_total": Described("Times that the rules were put back."),
    "target_refuses": Described("1 while nobody listens at a target that has refused.", ("target",)),
    "target_refusals_total": Described("Datagrams that a target refused.", ("target",)),
    "conversations_made_room_total": Described("Conversations that ended because others began."),
    "endpoint_events_total": Described("What the protocol dropped, ignored or noticed.", ("event",)),
    "client_sessions": Described("Sessions of the client.", ("client",)),
    "session_conversations": Described("Conversations of the client.", ("client",)),
    "session_flows": Described("Flows of the client.", ("client", "kind", "state")),
    "session_rtt_seconds": Described("Round-trip time, the median of the client's flows.", ("client", "kind")),
    "session_loss_ratio": Described("Share of our frames that is lost, the mean of its flows.", ("client", "kind")),
    "session_last_heard_timestamp_seconds": Described("When something last came from the client.", ("client",)),
    "session_datagrams_total": Described("Datagrams carried for the client.", ("client", "direction")),
    "session_bytes_total": Described("Bytes of these datagrams.", ("client", "direction")),
    "session_oversized_datagrams_total": Described("Datagrams that did not fit one segment.", ("client",)),
    "session_no_credit_datagrams_total": Described("Datagrams dropped because no flow had credit.", ("client",)),
    "session_frames_total": Described("Frames, control messages too.", ("client", "kind", "direction")),
    "session_frames_lost_total": Described("Frames that we sent and that did not arrive.", ("client", "kind")),
}
"""By name, behind ``PREFIX``.  At a client, ``client`` is the server's address."""


class Sample(NamedTuple):
    """A value of a metric."""

    name: str
    """A key of ``METRICS``."""
    labels: tuple[str, ...]
    """The values of the metric's labels."""
    value: float


def is_counter(name: str) -> bool:
    """Whether a metric only grows."""
    return name.endswith(_COUNTER)


def samples(snapshot: Mapping[str, Any], clients: Clients) -> Iterator[Sample]:
    """All values of an instance that answers.  ``clients``: those of the same instance at earlier looks."""
    yield from _instance(snapshot)
    yield from _flows("flows", (), [flow for session in snapshot["sessions"] for flow in session["flows"]])
    yield from _host(snapshot)
    for event, count in snapshot["counters"].items():
        yield Sample("endpoint_events_total", (event,), count)
    for target in snapshot.get("targets") or ():
        yield Sample("target_refuses", (target["target"],), target["refuses"])
        yield Sample("target_refusals_total", (target["target"],), target["refused"])
    yield from _clients(snapshot, clients)


def _instance(snapshot: Mapping[str, Any]) -> Iterator[Sample]:
    known = (snapshot["role"], snapshot.get("version", ""), snapshot["type"], snapshot["pump"])
    yield Sample("up", (), 1)
    yield Sample("info", known, 1)
    for state in STATES:
        yield Sample("state", (state,), snapshot["state"] == state)
    sessions = snapshot["sessions"]
    yield Sample("uptime_seconds", (), snapshot["uptime"])
    yield Sample("mtu_bytes", (), snapshot["mtu"] or 0)
    yield Sample("sessions", (), len(sessions))
    yield Sample("conversations", (), sum(session["conversations"] for session in sessions))
    workers = snapshot.get("workers")
    yield Sample("workers", (), 1 if workers is None else len(workers))
    for worker in workers or ():
        yield Sample("worker_processor_seconds_total", (str(worker["worker"]),), worker["processor_seconds"])
    if snapshot.get("flows_wanted") is not None:
        yield Sample("flows_wanted", (), snapshot["flows_wanted"])


def _host(snapshot: Mapping[str, Any]) -> Iterator[Sample]:
    link, firewall, carriers, local = (snapshot[name] for name in ("link", "firewall", "carriers", "sockets"))
    yield Sample("link_up", (), bool(link["up"]))
    if link["counters"]:
        packets = {way: link["counters"][f"{way}_packets"] for way in ("received", "sent")}
        yield from _by_label("link_packets_total", packets)
        yield from _by_label("link_dropped_packets_total", _only(link["counters"], LINK_TROUBLES))
    if carriers:
        yield from _by_label("carrier_datagrams_total", _only(carriers, ("received", "sent")))
        yield from _by_label("carrier_dropped_datagrams_total", _only(carriers, CARRIER_TROUBLES))
    yield from _by_label("local_datagrams_total", _only(local, ("received", "sent")))
    yield from _by_label("local_dropped_datagrams_total", _only(local, _LOCAL_DROPS))
    yield Sample("backlog_dropped_datagrams_total", (), snapshot["backlog_dropped"])
    yield Sample("conversations_made_room_total", (), snapshot["made_room"])
    yield Sample("firewall_dropped_packets_total", (), firewall["dropped"])
    yield Sample("firewall_guarded_packets_total", (), firewall["guarded"])
    yield Sample("firewall_repairs_total", (), firewall["repairs"])


def _only(counters: Mapping[str, int], names: tuple[str, ...]) -> dict[str, int]:
    return {name: counters[name] for name in names if name in counters}


def _by_label(name: str, counters: Mapping[str, int]) -> Iterator[Sample]:
    for label, count in counters.items():
        yield Sample(name, (label,), count)


def _flows(name: str, labels: tuple[str, ...], flows: list[dict[str, Any]]) -> Iterator[Sample]:
    for (kind, state), count in Counter((flow["type"], flow["state"]) for flow in flows).items():
        yield Sample(name, (*labels, kind, state), count)


def _clients(snapshot: Mapping[str, Any], clients: Clients) -> Iterator[Sample]:
    for client, totals in clients.take(snapshot):
        for (name, *labels), count in totals.items():
            yield Sample(name, (client, *labels), count)
    by_client = defaultdict(list)
    for session in snapshot["sessions"]:
        by_client[clients.name_of(session)].append(session)
    now = time.time()
    for client, sessions in by_client.items():
        flows = [flow for session in sessions for flow in session["flows"]]
        yield Sample("client_sessions", (client,), len(sessions))
        yield Sample("session_conversations", (client,), sum(session["conversations"] for session in sessions))
        heard = min(session["heard_ago"] for session in sessions)
        yield Sample("session_last_heard_timestamp_seconds", (client,), round(now - heard, 3))
        yield from _flows("session_flows", (client,), flows)
        yield from _paths(client, flows)


def _paths(client: str, flows: list[dict[str, Any]]) -> Iterator[Sample]:
    """Of each kind of flow: loss and round-trip time."""
    for kind in sorted({flow["type"] for flow in flows}):
        losses = [flow["loss_out"] for flow in flows if flow["type"] == kind]
        trips = sorted(flow["rtt_ms"] for flow in flows if flow["type"] == kind and flow["rtt_ms"] is not None)
        yield Sample("session_loss_ratio", (client, kind), round(sum(losses) / len(losses), 6))
        if trips:
            yield Sample("session_rtt_seconds", (client, kind), round(trips[(len(trips) - 1) // 2] / 1000, 6))
