"""What this room asks of an endpoint: the driver's verbs, and those of the client's or the server's role.

The endpoints of the core offer them, and so does ``Demultiplexer``.  What each verb does is said there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Protocol

from rsock_nf.core.ends.crowding import Crowd
from rsock_nf.core.ends.port_reports import PortReport
from rsock_nf.core.ends.top_sources import TopSources
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.outbox import Output
from rsock_nf.core.parameters import ClientParameters, ServerParameters
from rsock_nf.core.types import Carried, FlowKey, IPAddress, OwnPeer, Packet, Run


class Endpoint(Protocol):
    """Either role: input with the time, output by ``poll``."""

    @property
    def closing(self) -> bool:
        """Some flow waits for the answer to its FIN."""

    @property
    def sessions(self) -> list[Session]:
        """Those that stand; a client has at most one."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What was dropped or ignored, and how often."""

    def knows(self, packet: Packet) -> bool:
        """Whether ``packet`` seems to be of an established flow."""

    def knows_carrier(self, key: FlowKey) -> bool:
        """Whether this is an established flow over UDP."""

    def receive_packets(self, now: float, packets: Iterable[Packet], *, behind: bool) -> None:
        """Packets from the link.  ``behind``: they have waited, so strangers are not served as usual."""

    def receive_carried(self, now: float, received: Iterable[Carried], *, behind: bool) -> None:
        """What UDP carriers received."""

    def receive_datagrams(self, now: float, runs: Iterable[Run]) -> None:
        """Datagrams from the application or the targets."""

    def receive_mtu(self, now: float, mtu: int, max_burst_bytes: int) -> None:
        """The MTU or the burst size changed; both in bytes."""

    def ping(self, now: float, flow: Established) -> int:
        """Ask the other end for an answer on ``flow``: its number; 0 = it cannot be asked there."""

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""

    def next_timeout(self) -> float | None:
        """When ``handle_timeout`` wants to be called; None = never."""

    def poll(self) -> list[Output]:
        """What is to be done, in the order in which it arose."""


class ClientRole(Protocol):
    """What only a client can be asked."""

    @property
    def reason(self) -> str:
        """Why there is no session; empty when there is one."""

    @property
    def hopeless(self) -> bool:
        """That reason will not go away by itself."""

    @property
    def turned_away(self) -> bool:
        """That reason is what the server has said, who does not serve us."""

    @property
    def idle(self) -> bool:
        """It has closed its flows, because nothing was left to carry."""

    @property
    def remote_text(self) -> str:
        """The server's address in use."""

    def ports(self) -> list[PortReport]:
        """What became of the last dial of each server port."""

    def peers(self) -> list[Hashable]:
        """The applications that it has conversations with."""

    def hang_up(self, now: float, peer: OwnPeer) -> None:
        """End the conversation of this process itself, if there is one."""

    def start(self, now: float) -> None:
        """Dial."""

    def stop(self, now: float) -> None:
        """Tell the server, close every flow."""

    def reconnect(self, now: float) -> None:
        """Give up every flow and dial again: they lead nowhere any more."""

    def renew(self, now: float) -> None:
        """Replace every flow by another one, while traffic goes on."""

    def want_keys(self, now: float) -> None:
        """The host may have gone back to an earlier state: renew keys soon."""

    def hurry(self, now: float) -> None:
        """The way to the server may be open again."""

    def use_parameters(self, now: float, parameters: ClientParameters) -> None:
        """Follow them as far as a running client can."""

    def use_secrets(self, now: float, secrets: object) -> None:
        """Another secret from now on: the wire's parameters."""

    def use_addresses(self, now: float, addresses: Sequence[IPAddress], *, move: bool = False) -> None:
        """The server's addresses are these from now on; ``move``: leave an old one at once."""

    def receive_port(self, now: float, request: int, local: bytes, port: int) -> None:
        """The port that ``PortWanted`` asked for is held, and the rules cover it."""

    def port_refused(self, now: float, request: int, reason: str) -> None:
        """No port can be held, or no socket opened, now."""

    def receive_carrier(self, now: float, request: int, key: FlowKey) -> None:
        """The socket that ``CarrierWanted`` asked for is open."""

    def carrier_refused(self, now: float, key: FlowKey) -> None:
        """ICMP port unreachable came back on a carrier."""

    def carrier_too_big(self, now: float, key: FlowKey, mtu: int) -> None:
        """ICMP said that at most so many bytes of an IP packet pass there.  Anybody can say so."""


class ServerRole(Protocol):
    """What only a server can be asked."""

    def stop(self, now: float) -> None:
        """Tell every client, close every flow."""

    def socket_refused(self, now: float, peer: Hashable, reason: str) -> None:
        """The socket that ``ConversationOpened`` asked for cannot be opened."""

    def tell_target(self, now: float, target: int, *, refuses: bool) -> None:
        """Tell the clients that have conversations with a target whether nobody listens there."""

    @property
    def strangers(self) -> TopSources:
        """Who sends what does not authenticate."""

    def followed(self) -> list[tuple[bytes, bytes]]:
        """The packed addresses, remote and local, between which there are fake-TCP flows."""

    def want_keys(self, now: float) -> None:
        """The host may have gone back to an earlier state: renew keys soon."""

    def use_parameters(self, now: float, of_each_wire: Sequence[ServerParameters]) -> None:
        """Follow them as far as a running server can."""

    def use_secrets(self, now: float, secrets: object) -> None:
        """Other clients from now on: the first wire's parameters."""

    def kick(self, now: float, name: str) -> int:
        """End the sessions of the client that has this name; returns how many."""

    def crowds(self, now: float) -> list[Crowd]:
        """For each wire: what an operator is told of conversations that make room for others."""


class ClientEndpoint(Endpoint, Protocol):
    """A client."""

    @property
    def role(self) -> ClientRole:
        """Its role."""


class ServerEndpoint(Endpoint, Protocol):
    """A server."""

    @property
    def role(self) -> ServerRole:
        """Its role."""
