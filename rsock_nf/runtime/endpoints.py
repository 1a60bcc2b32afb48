"""Which endpoint an instance drives: its role, and its wires.  All construction of core objects is here.

Only what the instance needs is imported: each wire and each role takes some milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from os import urandom
from typing import NamedTuple

from rsock_nf.core.flows.session import Session
from rsock_nf.core.parameters import ClientParameters, ServerParameters
from rsock_nf.core.pump.state import PLAIN, States
from rsock_nf.runtime.demultiplexer import Branch, Demultiplexer
from rsock_nf.runtime.protocols import ClientEndpoint, Endpoint, ServerEndpoint
from rsock_nf.settings import SecondWire
from rsock_nf.wire.parameters import RsockParameters, WireParameters


class Limits(NamedTuple):
    """What the path below an endpoint takes, in bytes."""

    mtu: int
    """The largest IP packet."""
    max_burst_bytes: int
    """The largest burst as one IP packet; 0 = single segments only, or there is no link."""


def client_endpoint(
    parameters: ClientParameters, wire: WireParameters, limits: Limits, states: States = PLAIN
) -> ClientEndpoint:
    """The client that ``parameters`` describe, on ``wire``.  ``states``: see ``Pump``; for the native wire only."""
    from rsock_nf.core.ends.endpoint import client

    if isinstance(wire, RsockParameters):
        from rsock_nf.wire.rsock.client import RsockClientWire

        client_id = int.from_bytes(urandom(8), "big") or 1
        rsock = RsockClientWire(wire, client_id)
        return client(parameters, rsock, urandom, mtu=limits.mtu, max_burst_bytes=limits.max_burst_bytes)
    from rsock_nf.wire.native.client import NativeClientWire

    native = NativeClientWire(wire, time.time)
    return client(parameters, native, urandom, mtu=limits.mtu, max_burst_bytes=limits.max_burst_bytes, states=states)


def server_endpoint(
    parameters: ServerParameters,
    wire: WireParameters,
    second: SecondWire | None,
    limits: Limits,
    states: States = PLAIN,
) -> ServerEndpoint:
    """The server that ``parameters`` describe, on ``wire``; ``second``: another wire beside it, on ports of its own.
    ``states``: as of a client."""
    first = _one_server(parameters, wire, limits, states)
    if second is None:
        return first
    beside = Branch(
        _one_server(second.tunnel, second.wire, limits, PLAIN), second.tunnel.ports, len(parameters.targets)
    )
    return Demultiplexer([Branch(first, parameters.ports, 0), beside])


def _one_server(parameters: ServerParameters, wire: WireParameters, limits: Limits, states: States) -> ServerEndpoint:
    from rsock_nf.core.ends.endpoint import server

    if isinstance(wire, RsockParameters):
        from rsock_nf.wire.rsock.server import RsockServerWire

        rsock = RsockServerWire(wire, urandom(32))
        return server(parameters, rsock, urandom, mtu=limits.mtu, max_burst_bytes=limits.max_burst_bytes)
    from rsock_nf.wire.native.server import NativeServerWire

    native = NativeServerWire(wire, urandom(32), time.time)
    return server(parameters, native, urandom, mtu=limits.mtu, max_burst_bytes=limits.max_burst_bytes, states=states)


def outer_peer(endpoint: Endpoint, session: Session, peer: Hashable) -> Hashable:
    """What the peer of a conversation of ``session`` is called outside ``endpoint``."""
    if not isinstance(endpoint, Demultiplexer):
        return peer
    index = next(number for number, branch in enumerate(endpoint.branches) if session in branch.endpoint.sessions)
    return index, peer
