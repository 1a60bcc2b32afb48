"""``Pair`` with both ends on wire rsock, and frames by hand, as somebody else would make them."""

from __future__ import annotations

from typing import Any

from rsock_nf.core.ends import endpoint
from rsock_nf.core.ends.accepting import Accepting
from rsock_nf.core.ends.dialling import Dialling
from rsock_nf.core.ends.endpoint import Endpoint
from rsock_nf.wire.parameters import RSOCK_KEEPALIVE, RsockParameters
from rsock_nf.wire.rsock.client import RsockClientWire
from rsock_nf.wire.rsock.frames import Frame, build_frame
from rsock_nf.wire.rsock.server import RsockServerWire
from tests.core.pair import TARGETS, Pair

KEY = b"the key"
DATA, CONV_RST, NETCONN_RST, KEEP_ALIVE_REQ, KEEP_ALIVE_RESP = range(5)
_COMMON: dict[str, Any] = {"keepalive": RSOCK_KEEPALIVE}


class RsockPair(Pair):
    """See the module."""

    def __init__(
        self, seed: int = 1, *, client: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **pair: Any
    ) -> None:
        client = {**_COMMON, **(client or {})}
        self.client_key, self.server_key = client.pop("hash_key", KEY), KEY
        self._version = client.pop("rsock_version", 2)
        server = {**_COMMON, "targets": TARGETS[:1], **(server or {})}
        super().__init__(seed, client=client, server=server, **pair)

    def _make_client(self) -> Endpoint[Dialling]:
        parameters = self._client_parameters
        client_id = int.from_bytes(self.rng.randbytes(8), "big")
        self.client_wire = wire = RsockClientWire(RsockParameters(self.client_key, self._version), client_id)
        return endpoint.client(parameters, wire, self.rng.randbytes, mtu=self.mtu, max_burst_bytes=self.burst)

    def _make_server(self) -> Endpoint[Accepting]:
        parameters = self._server_parameters
        self.server_wire = wire = RsockServerWire(RsockParameters(self.server_key), self.rng.randbytes(32))
        return endpoint.server(parameters, wire, self.rng.randbytes, mtu=self.mtu, max_burst_bytes=self.burst)


def frame(body: bytes, *, flow: int, command: int = DATA, client: int = 7, conversation: int = 2) -> bytes:
    """A v2 frame of a client that is not ours."""
    return build_frame(KEY, Frame(2, command, client.to_bytes(8, "big"), conversation, flow, body))
