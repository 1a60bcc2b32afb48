"""Which endpoint an instance drives: its role, and its wires.  All construction of core objects is here.

Only what the instance needs is imported: each wire and each role takes some milliseconds.
"""

from __future__ import annotations

from collections.abc import Hashable
from os import urandom
from typing import NamedTuple

from rsock_nf.core.flows.session import Session
from rsock_nf.core.parameters import ClientParameters, ServerParameters, Wire
from rsock_nf.runtime.protocols import ClientEndpoint, Endpoint, ServerEndpoint


class Limits(NamedTuple):
    """What the path below an endpoint takes, in bytes."""

    mtu: int
    """The largest IP packet."""
    max_burst_bytes: int
    """The largest burst as one IP packet; 0 = single segments only, or there is no link."""


def client_endpoint(parameters: ClientParameters, limits: Limits) -> ClientEndpoint:
    """The client that ``parameters`` describe."""
    from rsock_nf.core.ends.endpoint import client

    if parameters.wire is Wire.RSOCK:
        from rsock_nf.wire.rsock.client import RsockClientWire

        client_id = int.from_bytes(urandom(8), "big") or 1
        rsock = RsockClientWire(parameters.hash_key, parameters.rsock_version, client_id)
        return client(parameters, rsock, urandom, mtu=limits.mtu, max_burst_bytes=limits.max_burst_bytes)
    from rsock_nf.wire.native.client import NativeClientWire

    native = NativeClientWire(parameters.secret)
    return client(parameters, native, urandom, mtu=limits.mtu, max_burst_bytes=limits.max_burst_bytes)


def server_endpoint(parameters: ServerParameters, second: ServerParameters | None, limits: Limits) -> ServerEndpoint:
    """The server that ``parameters`` describe; ``second``: another wire beside it, on ports of its own."""
    first = _one_server(parameters, limits)
    if second is None:
        return first
    from rsock_nf.runtime.demultiplexer import Branch, Demultiplexer

    beside = Branch(_one_server(second, limits), second.ports, len(parameters.targets))
    return Demultiplexer([Branch(first, parameters.ports, 0), beside])


def _one_server(parameters: ServerParameters, limits: Limits) -> ServerEndpoint:
    from rsock_nf.core.ends.endpoint import server

    if parameters.wire is Wire.RSOCK:
        from rsock_nf.wire.rsock.server import RsockServerWire

        rsock = RsockServerWire(parameters.hash_key, urandom(32))
        return server(parameters, rsock, urandom, mtu=limits.mtu, max_burst_bytes=limits.max_burst_bytes)
    from rsock_nf.wire.native.server import NativeServerWire

    native = NativeServerWire(parameters.secret, urandom(32))
    return server(parameters, native, urandom, mtu=limits.mtu, max_burst_bytes=limits.max_burst_bytes)


def outer_peer(endpoint: Endpoint, session: Session, peer: Hashable) -> Hashable:
    """What the peer of a conversation of ``session`` is called outside ``endpoint``."""
    from rsock_nf.runtime.demultiplexer import Demultiplexer

    if not isinstance(endpoint, Demultiplexer):
        return peer
    index = next(number for number, branch in enumerate(endpoint.branches) if session in branch.endpoint.sessions)
    return index, peer
