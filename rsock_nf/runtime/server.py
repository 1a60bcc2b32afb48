"""The server's side of the driver: its ports, and one socket toward the target for each conversation."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Hashable
from ipaddress import ip_address

from rsock_firewall import FirewallError, Policy, PortRange
from rsock_nf.core.ends.server import Server
from rsock_nf.core.events import ConversationClosed, ConversationOpened, Event, Follow, Forget, Suspect
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.types import IPAddress, Run
from rsock_nf.errors import TunnelError
from rsock_nf.link import LinkError, LinkEvent, Match, PortSide, abroad, default_device, device_addresses
from rsock_nf.policy import carrier_ports, fake_tcp_ports, policy_for
from rsock_nf.runtime.both_servers import BothServers
from rsock_nf.runtime.driver import BATCH, ROUNDS, Driver
from rsock_nf.runtime.endpoints import server_core
from rsock_nf.settings import Settings
from rsock_nf.sockets.carriers import ServerCarrier, route_mtu, serve_ports
from rsock_nf.sockets.datagrams import DatagramCounters, TargetSocket
from rsock_nf.sockets.held_ports import hold_ports

NAME_AGAIN = 5.0
"""Seconds from one try to name new addresses in the rules to the next: each may wait for another iptables command."""


class ServerTunnel(Driver):
    """A running server."""

    core: Server | BothServers

    def __init__(self, settings: Settings, parameters: ServerParameters, log: logging.Logger) -> None:
        super().__init__(settings, log)
        self.parameters = parameters
        self.addresses: tuple[IPAddress, ...] = ()
        self._name_at = 0.0
        """When rules and filter are to name these again, since they could not; 0 = they do."""
        self._sockets: dict[Hashable, TargetSocket] = {}
        self._targets = parameters.targets + (settings.rsock.targets if settings.rsock else ())
        self._served: list[ServerCarrier] = []
        """Its UDP ports."""
        self._paused = False
        self._closed = Counter[str]()
        """What the sockets that are closed by now counted, summed: the names are those of ``DatagramCounters``."""
        self._refused = Counter[str]()
        """Refusals by target, of the sockets that are closed by now."""

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        if self.fake_tcp:
            self._prepare_fake_tcp(stack)
        else:
            self.device = self.settings.device or default_device() or ""
            self.addresses = self.settings.addresses
        self._served = serve_ports(carrier_ports(self.settings), self.settings.addresses, device=self.settings.device)
        for carrier in self._served:
            stack.callback(carrier.close)
        stack.callback(self._close_sockets)

    def _prepare_fake_tcp(self, stack: contextlib.ExitStack) -> None:
        """The device, our addresses on it, and the ports, which nobody else may have."""
        device = self.settings.device or default_device()
        if device is None:
            raise TunnelError(
                'neither a default route nor a single device with an address tells which device to use: set "device"'
            )
        self.device = device
        found = device_addresses(device)
        self.addresses = self.settings.addresses or found
        if not self.addresses:
            raise TunnelError(f'device {device} has no address: give it one, or set "device" or "addresses"')
        for address in set(self.settings.addresses).difference(found):
            self.log.warning(
                "addresses: %s is not an address of device %s: only what is routed here for it is served "
                "(behind a NAT, packets arrive with the address inside)",
                address,
                device,
            )
        for port in hold_ports(fake_tcp_ports(self.settings)):
            stack.callback(port.close)

    def _close_sockets(self) -> None:
        for peer in list(self._sockets):
            self._close_socket(peer)

    def _inherit(self, ports: tuple[PortRange, ...]) -> None:
        """Nothing: a server's ports are its configuration's."""

    def _policy(self) -> Policy:
        return policy_for(self.settings, device=self.device, local_addresses=self.addresses)

    def _match(self) -> Match:
        return Match(PortSide.DESTINATION, self.addresses, fake_tcp_ports(self.settings))

    def _make_core(self) -> Server | BothServers:
        return server_core(self.parameters, self.settings.rsock, *self._limits())

    def _begin(self) -> None:
        for carrier in self._served:
            self.carriers.add(carrier)
        self._is_ready()

    def _carrier_mtu(self) -> int:
        return route_mtu(abroad(), self.settings.device)

    # -- the targets

    def _resume_reading(self) -> None:
        self._paused = False
        for peer, socket in self._sockets.items():
            self._loop.add_reader(socket.fileno(), self._target_readable, peer, socket)

    def _stop_reading(self) -> None:
        self._paused = True
        for socket in self._sockets.values():
            self._loop.remove_reader(socket.fileno())

    def _target_readable(self, peer: Hashable, socket: TargetSocket) -> None:
        for _ in range(ROUNDS):
            runs = socket.receive(peer)
            if not runs:
                break
            self.core.receive_datagrams(self._now(), runs)
            self._drain()
            if self._congested or sum([len(run.datagrams) for run in runs]) < BATCH:
                break
        self._settle()

    def _deliver(self, runs: list[Run]) -> None:
        sockets = self._sockets
        for run in runs:
            socket = sockets.get(run.peer)
            if socket is not None:
                socket.send([run])

    def _event(self, event: Event) -> None:
        match event:
            case ConversationOpened(peer=peer, target=target):
                self._open_socket(peer, target)
            case ConversationClosed(peer=peer):
                self._close_socket(peer)
            case Follow(remote=remote):
                if self._link is not None:
                    self._link.follow(ip_address(remote))
            case Forget(remote=remote):
                if self._link is not None:
                    self._link.forget(ip_address(remote))
            case Suspect(remote=remote):
                self.log.debug("several flows went silent: asking for the next hop to %s again", ip_address(remote))
                if self._link is not None:
                    self._link.suspect(ip_address(remote))
            case _:
                super()._event(event)

    def _open_socket(self, peer: Hashable, target: int) -> None:
        try:
            socket = TargetSocket(self._targets[target])
        except LinkError as error:
            self._note_trouble(str(error))  # on wire rsock perhaps once a datagram
            self.core.socket_refused(self._now(), peer, str(error))
            return
        self._sockets[peer] = socket
        if not self._paused:
            self._loop.add_reader(socket.fileno(), self._target_readable, peer, socket)

    def _close_socket(self, peer: Hashable) -> None:
        socket = self._sockets.pop(peer, None)
        if socket is not None:
            self._loop.remove_reader(socket.fileno())
            socket.close()
            self._closed.update(dataclasses.asdict(socket.counters))
            if socket.counters.refused:
                self._refused[str(socket.target)] += socket.counters.refused

    def describe(self, peer: Hashable) -> str:
        """The local end of a conversation's socket, for people."""
        socket = self._sockets.get(peer)
        return f"{socket.local} → {socket.target}" if socket else "closed"

    # -- the link

    def _link_event(self, event: LinkEvent) -> None:
        if event is LinkEvent.ADDRESSES and not self.settings.addresses:
            self._follow_addresses()

    def _follow_addresses(self) -> None:
        """Rules and filter name our addresses: both follow them."""
        addresses: tuple[IPAddress, ...] = ()
        with contextlib.suppress(LinkError):  # the device is going: what becomes of it is the next event
            addresses = device_addresses(self.device)
        if not addresses and self.device_up:
            self.log.warning("device %s has no address now: no client gets through until it has one again", self.device)
        if addresses and set(addresses) != set(self.addresses):
            self.log.info("addresses are now %s", ", ".join(map(str, addresses)))
            self.addresses = addresses
            self._name_addresses()

    def _name_addresses(self) -> None:
        """In rules and filter.  What fails, as while another iptables command is at work, is tried again."""
        try:
            self._apply_policy()
            if self._link is not None:
                self._link.rematch(self._match())
        except (LinkError, FirewallError) as error:
            level = logging.DEBUG if self._name_at else logging.ERROR
            self.log.log(level, "rules or filter do not name the present addresses yet: %s", error)
            self._name_at = self._now() + NAME_AGAIN
        else:
            if self._name_at:
                self.log.info("rules and filter name the present addresses")
            self._name_at = 0.0

    def _tick(self, now: float) -> None:
        super()._tick(now)
        if self._name_at and now >= self._name_at:
            self._name_addresses()

    def _wanted_device(self) -> str:
        """Where the world comes in; that one client is reached through another device moves nothing."""
        if self.settings.device is not None:
            return self.settings.device
        with contextlib.suppress(LinkError):  # no descriptor left to ask with: nothing that ends a tunnel
            return default_device() or self.device
        return self.device

    def _link_renewed(self) -> None:
        if self._link is not None:
            for remote in self.core.followed():
                self._link.follow(ip_address(remote))

    def _reopen(self, device: str) -> bool:
        with contextlib.suppress(LinkError, FirewallError):
            if not self.settings.addresses:
                self.addresses = device_addresses(device) or self.addresses
        return super()._reopen(device)

    def reconnect(self) -> None:
        """A server dials nobody: nothing to do."""

    def socket_counters(self) -> list[DatagramCounters]:
        """See ``Driver``."""
        return [DatagramCounters(**self._closed), *(socket.counters for socket in self._sockets.values())]

    def refusals(self) -> dict[str, int]:
        """See ``Driver``."""
        found = Counter(self._refused)
        for socket in self._sockets.values():
            if socket.counters.refused:
                found[str(socket.target)] += socket.counters.refused
        return dict(found)

    @property
    def reason(self) -> str:
        """A server that runs has nothing to explain."""
        return ""
