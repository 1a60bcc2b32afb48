"""Which endpoint an instance drives: its role, and the wire that its settings name."""

from __future__ import annotations

from os import urandom

from rsock_nf.core.ends import endpoint
from rsock_nf.core.ends.accepting import Accepting
from rsock_nf.core.ends.dialling import Dialling
from rsock_nf.core.ends.endpoint import Endpoint
from rsock_nf.core.parameters import ClientParameters, ServerParameters, Wire
from rsock_nf.wire.native.client import NativeClientWire
from rsock_nf.wire.native.server import NativeServerWire
from rsock_nf.wire.rsock.client import RsockClientWire
from rsock_nf.wire.rsock.server import RsockServerWire


def client_endpoint(parameters: ClientParameters, mtu: int, max_burst_bytes: int) -> Endpoint[Dialling]:
    """The client that ``parameters`` describe, on a link of this MTU and burst size."""
    wire: NativeClientWire | RsockClientWire
    if parameters.wire is Wire.RSOCK:
        client_id = int.from_bytes(urandom(8), "big") or 1
        wire = RsockClientWire(parameters.hash_key, parameters.rsock_version, client_id)
    else:
        wire = NativeClientWire(parameters.secret)
    return endpoint.client(parameters, wire, urandom, mtu=mtu, max_burst_bytes=max_burst_bytes)


def server_endpoint(parameters: ServerParameters, mtu: int, max_burst_bytes: int) -> Endpoint[Accepting]:
    """The server that ``parameters`` describe, on one wire."""
    wire: NativeServerWire | RsockServerWire
    if parameters.wire is Wire.RSOCK:
        wire = RsockServerWire(parameters.hash_key, urandom(32))
    else:
        wire = NativeServerWire(parameters.secret, urandom(32))
    return endpoint.server(parameters, wire, urandom, mtu=mtu, max_burst_bytes=max_burst_bytes)
