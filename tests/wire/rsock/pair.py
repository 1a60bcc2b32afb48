"""``Pair`` with both ends on wire rsock, and frames by hand, as somebody else would make them."""

from __future__ import annotations

from typing import Any

from rsock_nf.core.parameters import RSOCK_KEEPALIVE, Wire
from rsock_nf.wire.rsock.client import RsockClient
from rsock_nf.wire.rsock.frames import Frame, RsockFormat, build_frame
from rsock_nf.wire.rsock.server import RsockServer
from tests.core.pair import TARGETS, Pair

KEY = b"the key"
DATA, CONV_RST, NETCONN_RST, KEEP_ALIVE_REQ, KEEP_ALIVE_RESP = range(5)
_COMMON: dict[str, Any] = {"wire": Wire.RSOCK, "hash_key": KEY, "keepalive": RSOCK_KEEPALIVE, "secret": b""}


class RsockPair(Pair):
    """See the module."""

    client: RsockClient  # type: ignore[assignment]
    server: RsockServer  # type: ignore[assignment]

    def __init__(
        self, seed: int = 1, *, client: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **pair: Any
    ) -> None:
        server = {**_COMMON, "targets": TARGETS[:1], **(server or {})}
        super().__init__(seed, client={**_COMMON, **(client or {})}, server=server, **pair)

    def _make_client(self) -> RsockClient:  # type: ignore[override]
        parameters = self._client_parameters
        return RsockClient(parameters, RsockFormat(parameters.hash_key), self.rng.randbytes, mtu=self.mtu)

    def _make_server(self) -> RsockServer:  # type: ignore[override]
        parameters = self._server_parameters
        return RsockServer(parameters, RsockFormat(parameters.hash_key), self.rng.randbytes, mtu=self.mtu)


def frame(body: bytes, *, flow: int, command: int = DATA, client: int = 7, conversation: int = 2) -> bytes:
    """A v2 frame of a client that is not ours."""
    return build_frame(KEY, Frame(2, command, client.to_bytes(8, "big"), conversation, flow, body))
