"""Which core an instance drives: the wires that its settings name."""

from __future__ import annotations

from os import urandom

from rsock_nf.core.ends.client import Client
from rsock_nf.core.ends.server import Server
from rsock_nf.core.parameters import ClientParameters, ServerParameters, Wire
from rsock_nf.runtime.both_servers import BothServers
from rsock_nf.wire.native.client import NativeClient
from rsock_nf.wire.native.handshake import NativeHandshake
from rsock_nf.wire.native.server import NativeServer
from rsock_nf.wire.rsock.client import RsockClient
from rsock_nf.wire.rsock.frames import RsockFormat
from rsock_nf.wire.rsock.server import RsockServer


def client_core(parameters: ClientParameters, mtu: int, max_burst_bytes: int) -> Client:
    """The client that ``parameters`` describe, on a link of this MTU and burst size."""
    if parameters.wire is Wire.RSOCK:
        return RsockClient(parameters, RsockFormat(parameters.hash_key), urandom, mtu=mtu)
    handshake = NativeHandshake(parameters.secret)
    return NativeClient(parameters, handshake, urandom, mtu=mtu, max_burst_bytes=max_burst_bytes)


def server_core(
    parameters: ServerParameters, second: ServerParameters | None, mtu: int, max_burst_bytes: int
) -> Server | BothServers:
    """The server that ``parameters`` describe; ``second``: wire rsock beside it, on ports of its own."""
    if parameters.wire is Wire.RSOCK:
        return _rsock_server(parameters, mtu)
    handshake = NativeHandshake(parameters.secret)
    native = NativeServer(parameters, handshake, urandom, mtu=mtu, max_burst_bytes=max_burst_bytes)
    if second is None:
        return native
    return BothServers(native, _rsock_server(second, mtu), second.ports, len(parameters.targets))


def _rsock_server(parameters: ServerParameters, mtu: int) -> RsockServer:
    return RsockServer(parameters, RsockFormat(parameters.hash_key), urandom, mtu=mtu)
