"""A running client: its local ends, the ports and sockets of its flows, and what it does for the endpoint's events.

``build`` opens everything in the safe order; ``ClientSide`` is what it makes of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from os import urandom
from pathlib import Path
from typing import Any

from rsock_firewall import FirewallError, select
from rsock_nf.core.events import (
    CarrierReleased,
    CarrierWanted,
    Event,
    OwnRefused,
    PingAnswered,
    PortReleased,
    PortWanted,
    SessionUp,
    Suspect,
)
from rsock_nf.core.flows.session import Session
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.pump.state import PLAIN
from rsock_nf.core.types import ALL_PORTS, FlowKey, IPAddress, OwnPeer, Run, TransportAddress
from rsock_nf.errors import ControlError, NotYetError, TunnelError
from rsock_nf.link import (
    OWN_ADDRESS,
    Link,
    LinkError,
    LinkEvent,
    Match,
    Routes,
    Routing,
    device_addresses,
    device_to,
    open_link,
    open_routes,
    own_address,
    own_addresses,
    route_to,
    system,
)
from rsock_nf.link.ethernet import ETHERNET_MTU
from rsock_nf.link.kernel_routes import NO_ROUTES
from rsock_nf.native.path import HotPath
from rsock_nf.policy import carrier_ports
from rsock_nf.runtime.driver import Driver
from rsock_nf.runtime.endpoints import Limits, client_endpoint
from rsock_nf.runtime.host.clock_jumps import ClockJumps
from rsock_nf.runtime.host.device import Device, LinkedDevice, PlainDevice
from rsock_nf.runtime.host.local_ends import LocalEnds
from rsock_nf.runtime.host.loop_guard import LoopGuard
from rsock_nf.runtime.host.rules import Rules
from rsock_nf.runtime.host.server_addresses import ServerAddresses
from rsock_nf.runtime.host.server_cover import Cover
from rsock_nf.runtime.host.server_route import ServerRoute, configured_source
from rsock_nf.runtime.host.source_ports import SourcePorts
from rsock_nf.runtime.host.talkers import Talkers
from rsock_nf.runtime.pings import Pings
from rsock_nf.runtime.protocols import ClientEndpoint
from rsock_nf.runtime.pump_choice import hot_path
from rsock_nf.runtime.reports.event_log import log_event, log_suspect
from rsock_nf.runtime.reports.symptoms import WINDOW, Symptoms, look_for_symptoms
from rsock_nf.runtime.reports.view import View
from rsock_nf.runtime.speedtest.asking import Speedtest
from rsock_nf.runtime.tunnel import Start
from rsock_nf.settings import Settings
from rsock_nf.sockets.carriers import ClientCarrier, route_mtu
from rsock_nf.sockets.datagrams import DatagramCounters, Listener
from rsock_nf.wire.parameters import WireName
from rsock_nf.words import looped


@dataclass(frozen=True, slots=True)
class Parts:
    """What is open before there is a data path."""

    ends: LocalEnds
    ports: SourcePorts
    cover: Cover
    talkers: Talkers
    rules: Rules | None
    """None = no fake TCP, hence no link."""
    link: Link | None
    routes: Routes | None
    """Without a link: the ways of the UDP flows."""
    limits: Limits
    endpoint: ClientEndpoint
    hot: HotPath | None = None
    """The native data path."""


def build(
    settings: Settings,
    parameters: ClientParameters,
    start: Start,
    stack: contextlib.ExitStack,
    *,
    ends: Sequence[TransportAddress | Path | Listener],
) -> ClientSide:
    """Open everything, rules before the link.  See ``tunnel.Build``.  ``ends``: see ``LocalEnds.open``."""
    log, troubles = start.log, start.troubles
    local = LocalEnds.open(ends, log, stack)
    ports = SourcePorts(settings.client_ports, urandom, parameters.shard)
    stack.callback(ports.close)
    if parameters.kinds.tcp and (own := own_address(parameters.server)) is not None:
        raise TunnelError(f"server: {own} {OWN_ADDRESS}")
    if settings.device is not None:
        device_addresses(settings.device)  # which says so if it does not exist
    device = settings.device or device_to(parameters.server, settings.fwmark)
    _refuse_foreign(settings)
    cover = Cover(settings, parameters, ports, settings.device if system().taps_every_device else device)
    talkers = Talkers(local)
    routing = talkers.routing(settings, cover.device)
    rules, link, routes = None, None, None
    if parameters.kinds.tcp:
        firewall = select(settings.backend)
        ports.inherit(firewall.left_behind(settings.name), Driver.now())
        rules = Rules.install(firewall, cover.policy, stack, log=log, troubles=troubles)
        link = open_link(routing, cover.match())
        stack.callback(link.close)
        for remote in parameters.server:  # now, so that the next hop is known when the first SYN leaves
            link.routes.follow(remote, configured_source(settings.addresses, remote.version))
        limits = Limits(link.mtu, link.max_burst_bytes)
    else:
        routes = open_routes(routing)
        stack.callback(routes.close)
        limits = Limits(_route_mtu(settings, parameters) or ETHERNET_MTU, 0)
    hot = hot_path(start.loop, settings)
    states = hot.states if hot is not None else PLAIN
    if parameters.shard == ALL_PORTS:  # clients of a server that is several processes are to begin at different ones
        parameters = replace(parameters, first_port=int.from_bytes(urandom(2)))
    endpoint = client_endpoint(replace(parameters, local_ends=local.names), settings.wire, limits, states)
    talkers.endpoint = endpoint
    parts = Parts(local, ports, cover, talkers, rules, link, routes, limits, endpoint, hot)
    side = ClientSide(settings, parameters, start, parts)
    stack.callback(side.close)
    return side


def _refuse_foreign(settings: Settings) -> None:
    """Raise ``NotYetError`` if flows could not begin at one of ``addresses``: nothing would ever be answered there."""
    for address in settings.addresses:
        if not address.is_link_local and own_address((address,)) is None:
            present = own_addresses(settings.device)
            whose = f"device {settings.device}" if settings.device else "it"
            listed = ", ".join(map(str, present)) or "none"
            raise NotYetError(f"addresses: {address} is not an address of this host; {whose} has {listed}")


def _route_mtu(settings: Settings, parameters: ClientParameters) -> int:
    return route_mtu(parameters.server[:1], settings.device)


class ClientSide:
    """A client's parts, and what happens between them."""

    def __init__(self, settings: Settings, parameters: ClientParameters, start: Start, parts: Parts) -> None:
        self.endpoint = parts.endpoint
        self.rules = parts.rules
        self._settings = settings
        self._parameters = parameters
        self._log = start.log
        self._troubles = start.troubles
        self._symptoms = Symptoms(settings.device)
        self._clocks = ClockJumps()
        self._ready = start.ready
        self._was_ready = False
        self._loops = 0
        """How many datagrams the guard had dropped when that was last told."""
        self._looped_until = 0.0
        """Until then it is a reason."""
        self._ends = parts.ends
        self._ports = parts.ports
        self._cover = parts.cover
        self._talkers = parts.talkers
        self._sink = parts.ends.sink()
        self._loop = start.loop
        self._speedtest: Speedtest | None = None
        """From the first test on."""
        self.driver = Driver(
            start.loop,
            parts.endpoint,
            deliver=self._deliver,
            handle=self.handle,
            carrier_refused=self._carrier_refused,
            has_carriers=bool(carrier_ports(settings)),
            hot=parts.hot,
        )
        self.pings = Pings(start.loop, parts.endpoint, self.driver)
        self._guard = LoopGuard(parameters.ports)
        if parts.hot is not None:
            parts.hot.sift = self._guard.sift
        for source in parts.ends.sources():
            self.driver.add_source(replace(source, receive=_sifted(source.receive, self._guard)))
        self.device: Device
        if parts.rules is not None:
            self.device = LinkedDevice(parts.cover.device, parts.link, self.driver, parts.rules, self, log=start.log)
        else:
            mtu, routes = parts.limits.mtu, parts.routes or NO_ROUTES
            self.device = PlainDevice(
                mtu,
                self.driver,
                self._carrier_mtu,
                routes,
                moved=self._ways_changed,
                log=start.log,
            )
        self._route = ServerRoute(self.device, settings.addresses, start.log)
        self._server = ServerAddresses(start, parts.cover, self.driver, parts.endpoint, self._route, self._apply_cover)

    def close(self) -> None:
        """Close link and carriers."""
        if self._speedtest is not None:
            self._speedtest.close()
        self.driver.finish()
        self.device.close()
        self.driver.close()

    def begin(self) -> None:
        """See ``Side``."""
        self._follow()
        self.driver.start_reading()
        self.endpoint.role.start(self.driver.now())
        self.driver.settle()

    def stop(self) -> None:
        """See ``Side``."""
        self.endpoint.role.stop(self.driver.now())

    def reconnect(self) -> None:
        """See ``Side``."""
        self._server.renew(self.driver.now())
        self.endpoint.role.renew(self.driver.now())
        self.driver.settle()

    def wake(self) -> None:
        """See ``Side``."""
        self.endpoint.role.start(self.driver.now())
        self.driver.settle()

    def speedtest(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Side``."""
        if self._settings.wire.name is not WireName.NATIVE:
            raise ControlError("speedtest: wire rsock cannot name the server itself as a target")
        if self._speedtest is None:
            self._speedtest = Speedtest(self._loop, self.endpoint, self.driver, self.pings)
        return self._speedtest.command(question)

    def _deliver(self, runs: list[Run]) -> None:
        self._sink(runs if self._speedtest is None else self._speedtest.take(runs))

    def kick(self, name: str) -> int:
        """See ``Side``: a client has no clients."""
        del name
        return 0

    def adopt(self, settings: Settings) -> None:
        """See ``Side``."""
        if not isinstance(settings.tunnel, ClientParameters):
            raise TypeError("settings of a server")
        now, before, self._settings = self.driver.now(), self._settings, settings
        self.endpoint.role.use_parameters(now, settings.tunnel)
        if settings.wire != before.wire:
            self.endpoint.role.use_secrets(now, settings.wire)
        self.driver.settle()

    def _apply_cover(self) -> None:
        self._apply_rules()
        self.device.rematch()

    # -- the endpoint's events

    def handle(self, event: Event) -> None:
        """Do what it asks for."""
        match event:
            case PortWanted(request=request, remote=remote):
                self._hold_port(request, ip_address(remote))
            case CarrierWanted(request=request, remote=remote, port=port):
                self._open_carrier(request, ip_address(remote), port)
            case CarrierReleased(key=key):
                self.driver.carriers.drop(key)
            case PortReleased(port=port):
                self._log.debug("port %d is no longer used", port)
                self._ports.release(port, self.driver.now())
            case OwnRefused(peer=peer):
                if self._speedtest is not None:
                    self._speedtest.refused(peer)
            case PingAnswered():
                self.pings.answered(event)
            case Suspect(remote=remote):
                log_suspect(self._log, remote)
                self.device.routes.suspect(ip_address(remote))
            case _:
                log_event(self._log, event)
                if isinstance(event, SessionUp) and not self._was_ready:
                    self._was_ready = True
                    self._ready()

    def _hold_port(self, request: int, remote: IPAddress) -> None:
        """A source port for a flow; the rules cover it before its SYN leaves."""
        now = self.driver.now()
        source = self._route.source_for(remote)
        if source is None:
            reason = "; ".join(self._route.reasons()) or f"no route to {remote}"
            self.endpoint.role.port_refused(now, request, reason)
            return
        try:
            port = self._ports.take(self._apply_rules)
        except (LinkError, FirewallError) as error:
            self.endpoint.role.port_refused(now, request, str(error))
            self._troubles.note(f"no port for a flow: {error}")
            return
        self._log.debug("dialling %s from %s, port %d", remote, source, port)
        self.endpoint.role.receive_port(now, request, source.packed, port)

    def _apply_rules(self) -> None:
        if self.rules is not None:
            self.rules.apply()

    def _open_carrier(self, request: int, remote: IPAddress, port: int) -> None:
        """A UDP socket for a flow; source address and port are the kernel's choice unless configured."""
        now = self.driver.now()
        settings = self._settings
        try:
            carrier = ClientCarrier(
                TransportAddress(remote, port, getattr(remote, "scope_id", None) or settings.device or ""),
                source=configured_source(settings.addresses, remote.version),
                ports=settings.client_ports,
                device=settings.device,
                send_by=self.device.routes.device_for(remote),
                mark=settings.fwmark,
                rng=urandom,
            )
        except LinkError as error:
            self.endpoint.role.port_refused(now, request, str(error))
            self._troubles.note(f"no socket for a flow: {error}")
            return
        self.driver.carriers.add(carrier)
        self._route.source_for(remote)  # so that it is noticed when the route prefers another address
        self._log.debug("dialling %s, UDP port %d, from port %d", remote, port, carrier.key.local_port)
        self.endpoint.role.receive_carrier(now, request, carrier.key)

    def _carrier_refused(self, key: FlowKey) -> None:
        self.endpoint.role.carrier_refused(self.driver.now(), key)

    def _carrier_mtu(self) -> int:
        return (
            self.device.routes.path_mtu()
            or self.driver.carriers.mtu()
            or _route_mtu(self._settings, self._cover.parameters)
        )

    # -- the device's events: see ``device.Owner``

    def match(self) -> Match:
        """The server's packets."""
        return self._cover.match()

    def routing(self, name: str | None) -> Routing:
        """How its packets find their ways."""
        return self._talkers.routing(self._settings, name)

    def wanted_device(self) -> str:
        """The one that the route to the server takes."""
        if self._settings.device is None:
            with contextlib.suppress(LinkError):
                return route_to(self._remote, self._settings.fwmark).device
        return self.device.name

    def device_changes(self, name: str) -> None:
        """The rules name the device."""
        self._cover.device = name

    def device_event(self, event: LinkEvent) -> None:
        """Our source address may have changed; a device that is up again has forgotten its neighbours."""
        if event in (LinkEvent.ADDRESSES, LinkEvent.NEXT_HOP):
            self._ways_changed()
        elif event is LinkEvent.UP:
            with contextlib.suppress(FirewallError):  # a device that was made anew has lost its rules (Linux < 6.16)
                self._apply_rules()
            self._follow()
            self.endpoint.role.hurry(self.driver.now())

    def link_renewed(self) -> None:
        """Flows of before lead nowhere."""
        self._follow()
        self.endpoint.role.reconnect(self.driver.now())

    def _follow(self) -> None:
        self._route.follow(self._cover.server)

    @property
    def _remote(self) -> IPAddress:
        """The server's address in use."""
        return ip_address(self.endpoint.role.remote_text)

    def _own_ends(self) -> list[bytes]:
        """Source and destination of our packets, for each address of the server."""
        return [
            source.packed + remote.packed
            for remote in self._cover.server
            if (source := self._route.preferred(remote)) is not None
        ]

    def _ways_changed(self) -> None:
        """UDP flows follow their way; flows from an address that is no longer ours are dead, the session is not."""
        routes = self.device.routes
        for remote in self._cover.server:
            self.driver.carriers.steer(remote.packed, routes.device_for(remote))
        self._watch_for_loops()
        if self._route.moved(self._remote):
            self._route.source_for(self._remote)  # the sockets take it by themselves, those of open flows, too
            self.endpoint.role.reconnect(self.driver.now())
        else:
            self.endpoint.role.hurry(self.driver.now())

    # -- once a second

    def tick(self, now: float) -> None:
        """See ``Side``."""
        look_for_symptoms(self._symptoms, now, self)
        if self._clocks.jumped(now):
            self.endpoint.role.want_keys(now)
        if self._ports.tick(now):
            with contextlib.suppress(FirewallError):
                self._apply_rules()
        self._ends.tick()
        self._note_loops(now)
        for key, mtu in self.driver.carriers.too_big():
            self.endpoint.role.carrier_too_big(now, key, mtu)
        self._server.tick(now)
        if not self.endpoint.role.idle:
            self._route.tick(now, self._remote, connected=self._connected)

    def _watch_for_loops(self) -> None:
        """Only packets that leave by a VPN's device can come back."""
        through_vpn = self.device.routes.through_vpn
        self._guard.watch(self._own_ends() if through_vpn else ())
        if self.driver.hot is not None:
            self.driver.hot.look_at_each(wanted=through_vpn)

    def _note_loops(self, now: float) -> None:
        self._watch_for_loops()
        if self._guard.dropped > self._loops:
            self._loops, self._looped_until = self._guard.dropped, now + WINDOW
            self._troubles.note(looped(self._remote))

    @property
    def _connected(self) -> bool:
        return any(session.flows for session in self.endpoint.sessions)

    # -- what an operator sees

    def view(self) -> View:
        """See ``Side``."""
        role = self.endpoint.role
        sessions = self.endpoint.sessions
        reasons = [role.reason, *self._server.reasons()] if role.reason else []
        if self.driver.now() < self._looped_until:
            reasons.append(looped(self._remote))
        around = self._route.notes()
        return View(
            self._settings,
            state="idle" if role.idle else "connected" if self._connected else "connecting",
            reason="; ".join(dict.fromkeys([*self._route.reasons(), *reasons, *self._symptoms.reasons()])),
            hopeless=role.hopeless,
            turned_away=role.turned_away,
            notes=around,
            detoured=bool(around),
            looped=self._guard.dropped,
            remote=role.remote_text,
            sessions=sessions,
            describe=self._describe,
            counters=self.endpoint.counters,
            troubles=self._troubles.counts,
            versions=frozenset(address.version for address in self._cover.server),
            dialled=role.ports(),
        )

    def _describe(self, _: Session, peer: Hashable) -> str:
        if isinstance(peer, OwnPeer):
            return "speed test"
        return self._ends.describe(peer)

    @property
    def held_ports(self) -> list[int]:
        """See ``Side``."""
        return self._ports.held

    def reached(self) -> int:
        """See ``Counting``."""
        return self._ports.reached()

    def socket_counters(self) -> list[DatagramCounters]:
        """See ``Side``."""
        return self._ends.counters()


def _sifted(receive: Callable[[], list[Run]], guard: LoopGuard) -> Callable[[], list[Run]]:
    def receive_and_sift() -> list[Run]:
        return guard.sift(receive())

    return receive_and_sift
