"""Which endpoint an instance drives: the wires that its settings name.  All construction of core objects is here."""

from __future__ import annotations

from collections.abc import Hashable
from os import urandom
from typing import NamedTuple

from rsock_nf.core.ends.client import Client
from rsock_nf.core.ends.server import Server
from rsock_nf.core.flows.session import Session
from rsock_nf.core.parameters import ClientParameters, ServerParameters, Wire
from rsock_nf.runtime.demultiplexer import Branch, Demultiplexer
from rsock_nf.runtime.protocols import ClientEndpoint, Endpoint, ServerEndpoint
from rsock_nf.wire.native.client import NativeClient
from rsock_nf.wire.native.handshake import NativeHandshake
from rsock_nf.wire.native.server import NativeServer
from rsock_nf.wire.rsock.client import RsockClient
from rsock_nf.wire.rsock.frames import RsockFormat
from rsock_nf.wire.rsock.server import RsockServer


class Limits(NamedTuple):
    """What the path below an endpoint takes, in bytes."""

    mtu: int
    """The largest IP packet."""
    max_burst_bytes: int
    """The largest burst as one IP packet; 0 = single segments only, or there is no link."""


def client_endpoint(parameters: ClientParameters, limits: Limits) -> ClientEndpoint:
    """The client that ``parameters`` describe."""
    if parameters.wire is Wire.RSOCK:
        return RsockClient(parameters, RsockFormat(parameters.hash_key), urandom, mtu=limits.mtu)
    handshake = NativeHandshake(parameters.secret)
    return NativeClient(parameters, handshake, urandom, mtu=limits.mtu, max_burst_bytes=limits.max_burst_bytes)


def server_endpoint(parameters: ServerParameters, second: ServerParameters | None, limits: Limits) -> ServerEndpoint:
    """The server that ``parameters`` describe; ``second``: another wire beside it, on ports of its own."""
    first = _one_server(parameters, limits)
    if second is None:
        return first
    beside = Branch(_one_server(second, limits), second.ports, len(parameters.targets))
    return Demultiplexer([Branch(first, parameters.ports, 0), beside])


def _one_server(parameters: ServerParameters, limits: Limits) -> ServerEndpoint:
    if parameters.wire is Wire.RSOCK:
        return RsockServer(parameters, RsockFormat(parameters.hash_key), urandom, mtu=limits.mtu)
    handshake = NativeHandshake(parameters.secret)
    return NativeServer(parameters, handshake, urandom, mtu=limits.mtu, max_burst_bytes=limits.max_burst_bytes)


def sessions_of(endpoint: Endpoint) -> list[Session]:
    """The sessions of an endpoint; a client has at most one."""
    if isinstance(endpoint, Demultiplexer):
        return [session for branch in endpoint.branches for session in sessions_of(branch.endpoint)]
    if isinstance(endpoint, Client):
        return [endpoint.session] if endpoint.session else []
    return list(endpoint.sessions.values()) if isinstance(endpoint, Server) else []


def outer_peer(endpoint: Endpoint, session: Session, peer: Hashable) -> Hashable:
    """What the peer of a conversation of ``session`` is called outside ``endpoint``."""
    if not isinstance(endpoint, Demultiplexer):
        return peer
    index = next(number for number, branch in enumerate(endpoint.branches) if session in sessions_of(branch.endpoint))
    return index, peer
