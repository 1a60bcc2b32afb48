"""Segments that nobody sent: made after one seen on the router's wire, and put onto the wire behind its tracker."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from rsock_nf.lab.lab import INSIDE, OUTSIDE, Lab

ETH_P_ALL = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """A segment on the wire."""

    frame: Any
    """scapy's Ether."""
    payload: int
    """Bytes of TCP payload (a merged burst is one segment)."""

    @property
    def next_seq(self) -> int:
        """The sequence number that follows it."""
        return int((self.frame[TCP].seq + self.payload) % 2**32)

    @property
    def server_port(self) -> int:
        """The flow's port at the server."""
        ports = (self.frame[TCP].sport, self.frame[TCP].dport)
        return int(next(port for port in ports if 10001 <= port <= 10010))


class Forger:
    """Listens and speaks on the router's ``inside`` or ``outside`` wire, past its netfilter."""

    def __init__(self, lab: Lab, *, toward: str) -> None:
        """``toward`` is "client" or "server": whom to deceive."""
        device, host = (INSIDE, lab.client) if toward == "client" else (OUTSIDE, lab.server)
        self._device = device
        self._victims = {(lab.client_ip if toward == "client" else lab.server_ip)[version] for version in (4, 6)}
        self._socket = lab.router.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind((device, ETH_P_ALL))
        self._socket.setblocking(False)
        self.host = host

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def last_seen(self, server_port: int | None = None) -> Seen:
        """The newest segment with data toward the victim; all before it are forgotten."""
        newest = None
        while True:
            try:
                frame = Ether(self._socket.recv(1 << 17))
            except BlockingIOError:
                break
            seen = self._judge(frame)
            if seen and (server_port is None or seen.server_port == server_port):
                newest = seen
        assert newest, "no data segment was seen on the wire"
        return newest

    def send(self, model: Seen, *, ahead: int, flags: str, payload: bytes = b"") -> None:
        """A segment like ``model``, its sequence number ``ahead`` of what is due."""
        frame = model.frame.copy()
        frame[TCP].remove_payload()
        frame[TCP].seq = (model.next_seq + ahead) % 2**32
        frame[TCP].flags = flags
        del frame[TCP].chksum
        if IP in frame:
            del frame[IP].chksum
            del frame[IP].len
        else:
            del frame[IPv6].plen
        self._socket.send(bytes(frame / payload))

    def _judge(self, frame: Any) -> Seen | None:
        if TCP not in frame:
            return None
        if IP in frame:
            payload = frame[IP].len - 4 * frame[IP].ihl - 4 * frame[TCP].dataofs
            destination = frame[IP].dst
        else:
            payload, destination = frame[IPv6].plen - 4 * frame[TCP].dataofs, frame[IPv6].dst
        return Seen(frame, payload) if payload > 0 and destination in self._victims else None
