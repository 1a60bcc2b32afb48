"""The client's side of the driver: the application's sockets, and the local ports of its flows."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Hashable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from rsock_firewall import FirewallError, Policy
from rsock_firewall import PortRange as FirewallPorts
from rsock_nf.core.ends.client import Client
from rsock_nf.core.events import (
    CarrierReleased,
    CarrierWanted,
    Event,
    PortReleased,
    PortWanted,
    SessionUp,
    Suspect,
)
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.types import Endpoint, FlowKey, IPAddress, PortRange, Run
from rsock_nf.errors import TunnelError
from rsock_nf.link import OWN_ADDRESS, LinkError, LinkEvent, Match, PortSide, device_to, own_address, route_to
from rsock_nf.policy import policy_for
from rsock_nf.runtime.driver import BATCH, ROUNDS, Driver, random_bytes
from rsock_nf.runtime.endpoints import client_core
from rsock_nf.settings import Settings
from rsock_nf.sockets.carriers import ClientCarrier, route_mtu
from rsock_nf.sockets.datagrams import DatagramCounters, Listener
from rsock_nf.sockets.held_ports import HeldPort, hold_any, hold_port
from rsock_nf.sockets.unix_datagrams import UnixListener

PORT_LINGER = 60.0
"""Seconds that the port of an ended flow stays held and covered by the rules: its server may still send."""


class ClientTunnel(Driver):
    """A running client."""

    core: Client

    def __init__(self, settings: Settings, parameters: ClientParameters, log: logging.Logger) -> None:
        super().__init__(settings, log)
        self.parameters = parameters
        self._listeners: list[Listener | UnixListener] = []
        self._unanswerable = False
        """Said once."""
        self._ports: dict[int, HeldPort] = {}
        self._released: dict[int, float] = {}
        """Port → when its flow ended; it lingers in ``_ports``."""
        self._sources: dict[IPAddress, IPAddress] = {}
        """Server address → the source address of the flows to it."""

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        for endpoint in self.settings.listen:
            listener = UnixListener(endpoint) if isinstance(endpoint, Path) else Listener(endpoint)
            stack.callback(listener.close)
            self._listeners.append(listener)
        stack.callback(self._close_ports)
        server = self.parameters.server
        if self.parameters.carriers.tcp and (own := own_address(server)) is not None:
            raise TunnelError(f"server: {own} {OWN_ADDRESS}")
        self.device = self.settings.device or device_to(server)

    def _inherit(self, ports: tuple[FirewallPorts, ...]) -> None:
        """Flows of a killed predecessor: its server still probes them, and the kernel must not answer."""
        now = self._now()
        for port in (port for span in ports for port in range(span.first, span.last + 1)):
            with contextlib.suppress(LinkError):  # somebody else has it by now: it is theirs
                self._ports[port] = hold_port(port)
                self._released[port] = now

    def _close_ports(self) -> None:
        for port in self._ports.values():
            port.close()
        self._ports.clear()

    def _policy(self) -> Policy:
        held = tuple(PortRange(port, port) for port in sorted(self._ports))
        return policy_for(self.settings, device=self.device, local_addresses=(), held_ports=held)

    def _match(self) -> Match:
        return Match(PortSide.SOURCE, self.parameters.server, self.parameters.ports)

    def _make_core(self) -> Client:
        ends = tuple(f"unix:{end}" if isinstance(end, Path) else str(end) for end in self.listening)
        return client_core(replace(self.parameters, local_ends=ends), *self._limits())

    def _begin(self) -> None:
        self._follow()
        self._resume_reading()
        self.core.start(self._now())
        self._settle()

    def _follow(self) -> None:
        if self._link is not None:
            for address in self.parameters.server:
                self._link.follow(address)

    # -- the application

    def _resume_reading(self) -> None:
        for index, listener in enumerate(self._listeners):
            self._loop.add_reader(listener.fileno(), self._app_readable, index, listener)

    def _stop_reading(self) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())

    def _app_readable(self, index: int, listener: Listener | UnixListener) -> None:
        for _ in range(ROUNDS):
            runs = listener.receive()
            if not runs:
                break
            if len(self._listeners) > 1:
                runs = [Run((index, run.peer), run.datagrams, run.size) for run in runs]
            self.core.receive_datagrams(self._now(), runs)
            self._drain()
            if self._congested or sum([len(run.datagrams) for run in runs]) < BATCH:
                break
        self._settle()

    def _deliver(self, runs: list[Run]) -> None:
        if len(self._listeners) == 1:
            self._listeners[0].send(runs)
            return
        for run in runs:
            index, peer = self._split(run.peer)
            self._listeners[index].send([Run(peer, run.datagrams, run.size)])

    @staticmethod
    def _split(peer: Hashable) -> tuple[int, Hashable]:
        if not isinstance(peer, tuple):
            raise TypeError(f"not a peer of several listeners: {peer!r}")
        return peer[0], peer[1]

    def describe(self, peer: Hashable) -> str:
        """An application's address, for people."""
        index, inner = self._split(peer) if len(self._listeners) > 1 else (0, peer)
        return self._listeners[index].describe(inner)

    @property
    def listening(self) -> list[Endpoint | Path]:
        """Where applications may send."""
        return [listener.local for listener in self._listeners]

    # -- the core's events

    def _event(self, event: Event) -> None:
        match event:
            case PortWanted(request=request, remote=remote):
                self._hold_port(request, ip_address(remote))
            case CarrierWanted(request=request, remote=remote, port=port):
                self._open_carrier(request, ip_address(remote), port)
            case CarrierReleased(key=key):
                self.carriers.drop(key)
            case PortReleased(port=port):
                self.log.debug("port %d is no longer used", port)
                self._released[port] = self._now()
            case Suspect(remote=remote):
                self.log.debug("several flows went silent: asking for the next hop to %s again", ip_address(remote))
                if self._link is not None:
                    self._link.suspect(ip_address(remote))
            case SessionUp():
                super()._event(event)
                self._is_ready()
            case _:
                super()._event(event)

    def _hold_port(self, request: int, remote: IPAddress) -> None:
        """A source port for a flow; the rules cover it before its SYN leaves."""
        now = self._now()
        source = self._source_for(remote)
        if source is None:
            self.core.port_refused(now, request, f"no route to {remote}")
            return
        self._sources[remote] = source
        try:
            port = self._any_port()
            self._ports[port.port] = port
            try:
                self._apply_policy()
            except FirewallError:
                del self._ports[port.port]
                port.close()
                raise
        except (LinkError, FirewallError) as error:
            self.core.port_refused(now, request, str(error))
            self._note_trouble(f"no port for a flow: {error}")
            return
        self.log.debug("dialling %s from %s, port %d", remote, source, port.port)
        self.core.receive_port(now, request, source.packed, port.port)

    def _open_carrier(self, request: int, remote: IPAddress, port: int) -> None:
        """A UDP socket for a flow; source address and port are the kernel's choice unless configured."""
        now = self._now()
        try:
            carrier = ClientCarrier(
                Endpoint(remote, port, self.device if remote.is_link_local else ""),
                source=next((own for own in self.settings.addresses if own.version == remote.version), None),
                ports=self.settings.client_ports,
                device=self.settings.device,
                rng=random_bytes,
            )
        except LinkError as error:
            self.core.port_refused(now, request, str(error))
            self._note_trouble(f"no socket for a flow: {error}")
            return
        self.carriers.add(carrier)
        self.log.debug("dialling %s, UDP port %d, from port %d", remote, port, carrier.key.local_port)
        self.core.receive_carrier(now, request, carrier.key)

    def _carrier_refused(self, key: FlowKey) -> None:
        self.core.carrier_refused(self._now(), key)

    def _carrier_mtu(self) -> int:
        return self.carriers.mtu() or route_mtu(self.parameters.server[:1], self.settings.device)

    def _source_for(self, remote: IPAddress) -> IPAddress | None:
        for address in self.settings.addresses:
            if address.version == remote.version:
                return address
        return self._link.source_for(remote) if self._link is not None else None

    def _any_port(self) -> HeldPort:
        try:
            return hold_any(self.settings.client_ports, rng=random_bytes)
        except LinkError:
            if not self._released:
                raise
            self._drop_ports(list(self._released))  # a narrow range: those that linger give way
            return hold_any(self.settings.client_ports, rng=random_bytes)

    def _drop_ports(self, ports: list[int]) -> None:
        for port in ports:
            del self._released[port]
            held = self._ports.pop(port, None)
            if held is not None:
                held.close()

    def _tick(self, now: float) -> None:
        super()._tick(now)
        over = [port for port, since in self._released.items() if now - since >= PORT_LINGER]
        if over:
            self._drop_ports(over)
            with contextlib.suppress(FirewallError):
                self._apply_policy()
        self._note_unanswerable()

    def _note_unanswerable(self) -> None:
        """Once: an application that waits for answers in vain looks like a tunnel that carries nothing."""
        if self._unanswerable:
            return
        for listener in self._listeners:
            if listener.counters.unanswerable:
                self._unanswerable = True
                remedy = "it must bind its socket to an absolute path or an abstract name"
                self.log.warning("unix:%s: an application cannot be answered: %s", listener.local, remedy)

    # -- the link

    def _link_event(self, event: LinkEvent) -> None:
        if event in (LinkEvent.ADDRESSES, LinkEvent.NEXT_HOP):
            self._check_source()
        elif event is LinkEvent.UP:
            self._follow()

    def _check_source(self) -> None:
        """Flows from an address that is no longer ours are dead; the session is not."""
        remote = ip_address(self.core.remote_text)
        source, used = self._source_for(remote), self._sources.get(remote)
        if source is not None and used is not None and source != used:
            self.log.info("our address has changed from %s to %s", used, source)
            self._sources[remote] = source
            self.core.reconnect(self._now())

    def _wanted_device(self) -> str:
        if self.settings.device is None:
            with contextlib.suppress(LinkError):
                return route_to(ip_address(self.core.remote_text)).device
        return self.device

    def _link_renewed(self) -> None:
        self._follow()
        self.core.reconnect(self._now())

    def reconnect(self) -> None:
        """Give up every flow and dial anew."""
        self.core.reconnect(self._now())
        self._settle()

    def socket_counters(self) -> list[DatagramCounters]:
        """See ``Driver``."""
        return [listener.counters for listener in self._listeners]

    @property
    def held_ports(self) -> list[int]:
        """The source ports of its flows, and of those that ended a moment ago."""
        return sorted(self._ports)

    @property
    def reason(self) -> str:
        """Why the tunnel carries nothing; empty when it does."""
        return self.core.reason if hasattr(self, "core") else "starting"
