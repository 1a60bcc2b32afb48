"""Which endpoint an instance drives: its role, and the wires that its settings name.  All construction of core objects is here."""

from __future__ import annotations

from collections.abc import Hashable
from os import urandom
from typing import NamedTuple

from rsock_nf.core.ends import endpoint as ends
from rsock_nf.core.ends.accepting import Accepting
from rsock_nf.core.ends.dialling import Dialling
from rsock_nf.core.flows.session import Session
from rsock_nf.core.parameters import ClientParameters, ServerParameters, Wire
from rsock_nf.runtime.demultiplexer import Branch, Demultiplexer
from rsock_nf.runtime.protocols import Endpoint, ServerEndpoint
from rsock_nf.wire.native.client import NativeClientWire
from rsock_nf.wire.native.server import NativeServerWire
from rsock_nf.wire.rsock.client import RsockClientWire
from rsock_nf.wire.rsock.server import RsockServerWire


class Limits(NamedTuple):
    """What the path below an endpoint takes, in bytes."""

    mtu: int
    """The largest IP packet."""
    max_burst_bytes: int
    """The largest burst as one IP packet; 0 = single segments only, or there is no link."""


def client_endpoint(parameters: ClientParameters, limits: Limits) -> ends.Endpoint[Dialling]:
    """The client that ``parameters`` describe."""
    wire: NativeClientWire | RsockClientWire
    if parameters.wire is Wire.RSOCK:
        client_id = int.from_bytes(urandom(8), "big") or 1
        wire = RsockClientWire(parameters.hash_key, parameters.rsock_version, client_id)
    else:
        wire = NativeClientWire(parameters.secret)
    return ends.client(parameters, wire, urandom, mtu=limits.mtu, max_burst_bytes=limits.max_burst_bytes)


def server_endpoint(parameters: ServerParameters, second: ServerParameters | None, limits: Limits) -> ServerEndpoint:
    """The server that ``parameters`` describe; ``second``: another wire beside it, on ports of its own."""
    first = _one_server(parameters, limits)
    if second is None:
        return first
    beside = Branch(_one_server(second, limits), second.ports, len(parameters.targets))
    return Demultiplexer([Branch(first, parameters.ports, 0), beside])


def _one_server(parameters: ServerParameters, limits: Limits) -> ends.Endpoint[Accepting]:
    wire: NativeServerWire | RsockServerWire
    if parameters.wire is Wire.RSOCK:
        wire = RsockServerWire(parameters.hash_key, urandom(32))
    else:
        wire = NativeServerWire(parameters.secret, urandom(32))
    return ends.server(parameters, wire, urandom, mtu=limits.mtu, max_burst_bytes=limits.max_burst_bytes)


def outer_peer(endpoint: Endpoint, session: Session, peer: Hashable) -> Hashable:
    """What the peer of a conversation of ``session`` is called outside ``endpoint``."""
    if not isinstance(endpoint, Demultiplexer):
        return peer
    index = next(number for number, branch in enumerate(endpoint.branches) if session in branch.endpoint.sessions)
    return index, peer
