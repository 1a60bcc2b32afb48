"""A running server: its ports, its sockets toward targets, and what it does for the endpoint's events.

``build`` opens everything in the safe order; ``ServerSide`` is what it makes of it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from rsock_firewall import FirewallError, Policy, select
from rsock_nf.core.events import (
    ConversationClosed,
    ConversationOpened,
    Event,
    Follow,
    Forget,
    PingAnswered,
    Suspect,
)
from rsock_nf.core.flows.session import Session
from rsock_nf.core.identity import Identity
from rsock_nf.core.parameters import SPEEDTEST_TARGET, ServerParameters
from rsock_nf.core.pump.state import PLAIN
from rsock_nf.core.types import FlowKey, IPAddress, Run, TransportAddress
from rsock_nf.errors import ControlError, NotYetError
from rsock_nf.link import (
    Link,
    LinkError,
    LinkEvent,
    Match,
    PortSide,
    Routing,
    abroad,
    default_device,
    device_addresses,
    open_link,
    own_addresses,
    system,
)
from rsock_nf.link.ethernet import ETHERNET_MTU
from rsock_nf.link.kernel_routes import KernelRoutes
from rsock_nf.link.port_use import overlap_warning
from rsock_nf.native.path import HotPath
from rsock_nf.policy import carrier_ports, fake_tcp_ports, own_ports, policy_for, served_ports
from rsock_nf.runtime.driver import Driver
from rsock_nf.runtime.endpoints import Limits, outer_peer, server_endpoint
from rsock_nf.runtime.host import conversation_limit
from rsock_nf.runtime.host.clock_jumps import ClockJumps
from rsock_nf.runtime.host.descriptors import RulesPlace, too_few_left
from rsock_nf.runtime.host.device import Device, LinkedDevice, PlainDevice
from rsock_nf.runtime.host.names import Questions
from rsock_nf.runtime.host.rates import Rates
from rsock_nf.runtime.host.rules import Rules
from rsock_nf.runtime.host.target_names import TargetNames
from rsock_nf.runtime.host.targets import Targets
from rsock_nf.runtime.pings import Pings
from rsock_nf.runtime.protocols import ServerEndpoint
from rsock_nf.runtime.pump_choice import hot_path
from rsock_nf.runtime.reports.detours import notes, reasons
from rsock_nf.runtime.reports.event_log import log_event, log_suspect
from rsock_nf.runtime.reports.symptoms import Symptoms, look_for_symptoms
from rsock_nf.runtime.reports.view import View
from rsock_nf.runtime.speedtest.serving import SpeedServer
from rsock_nf.runtime.tunnel import Start
from rsock_nf.settings import Settings
from rsock_nf.shares import instance_of
from rsock_nf.sockets.carriers import ServerCarrier, route_mtu, serve_ports
from rsock_nf.sockets.datagrams import DatagramCounters
from rsock_nf.sockets.held_ports import HeldPort, hold_ports

_TOLD = 8
"""Addresses in one log line."""
NAME_AGAIN = 5.0
"""Seconds from one try to name new addresses in the rules to the next: each may wait for another iptables command."""


@dataclass(slots=True)
class Cover:
    """What the rules and the link's filter of a server cover at this moment."""

    settings: Settings
    device: str | None
    """None = every device."""
    addresses: tuple[IPAddress, ...]
    """Our own."""
    place: RulesPlace = field(default_factory=RulesPlace)

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions that are served."""
        served = self.settings.addresses or self.addresses
        return frozenset(address.version for address in served if not address.is_link_local) or frozenset({4})

    def policy(self) -> Policy:
        """What the kernel must not see."""
        at_input = self.place.at_input()
        return policy_for(self.settings, device=self.device, local_addresses=self.addresses, at_input=at_input)

    def match(self) -> Match:
        """What the link is to receive."""
        return Match(PortSide.DESTINATION, self.addresses, fake_tcp_ports(self.settings), self.settings.tunnel.shard)


@dataclass(frozen=True, slots=True)
class Parts:
    """What is open before there is a data path."""

    served: Sequence[ServerCarrier]
    """Its UDP ports."""
    targets: Targets
    cover: Cover
    routing: Routing
    rules: Rules | None
    """None = no fake TCP, hence no link."""
    link: Link | None
    limits: Limits
    endpoint: ServerEndpoint
    held: Sequence[HeldPort]
    """Its TCP ports."""
    hot: HotPath | None = None
    """The native data path."""


def build(settings: Settings, parameters: ServerParameters, start: Start, stack: contextlib.ExitStack) -> ServerSide:
    """Open everything, rules before the link.  See ``tunnel.Build``."""
    fake_tcp = fake_tcp_ports(settings)
    shard = parameters.shard
    if shard.number == 0 and (warning := overlap_warning(served_ports(settings), system())):
        start.log.warning("%s", warning)
    held: list[HeldPort] = []
    if fake_tcp:
        cover = _cover_fake_tcp(settings, start.log)
        held = hold_ports(own_ports(fake_tcp, shard), settings.addresses)  # which nobody else may have
        for port in held:
            stack.callback(port.close)
    else:
        cover = Cover(settings, settings.device, settings.addresses)
    carried = own_ports(carrier_ports(settings), shard)
    served = serve_ports(carried, settings.addresses, device=settings.device, mark=settings.fwmark)
    for carrier in served:
        stack.callback(carrier.close)
    targets = Targets(all_targets(settings))
    stack.callback(targets.close_all)
    routing = Routing(cover.device, settings.fwmark, applications=targets.addresses)
    rules, link = None, None
    if fake_tcp:
        rules = Rules.install(select(settings.backend), cover.policy, stack, log=start.log, troubles=start.troubles)
        link = open_link(routing, cover.match())
        stack.callback(link.close)
        limits = Limits(link.mtu, link.max_burst_bytes)
    else:
        limits = Limits(_route_mtu(settings) or ETHERNET_MTU, 0)
    parameters, second = conversation_limit.fit(parameters, settings.second, start.log)
    hot = hot_path(start.loop, settings)
    states = hot.states if hot is not None else PLAIN
    endpoint = server_endpoint(parameters, settings.wire, second, limits, states)
    side = ServerSide(settings, start, Parts(served, targets, cover, routing, rules, link, limits, endpoint, held, hot))
    stack.callback(side.close)
    return side


def all_targets(settings: Settings) -> tuple[TransportAddress, ...]:
    """Of each wire, those of the second one last."""
    tunnels = [tunnel for tunnel in settings.tunnels if isinstance(tunnel, ServerParameters)]
    return tuple(target for tunnel in tunnels for target in tunnel.targets)


def _cover_fake_tcp(settings: Settings, log: logging.Logger) -> Cover:
    """The devices, and our addresses on them.  Raises ``NotYetError`` when there are none."""
    device = settings.device
    if device is None and not system().taps_every_device:
        device = default_device()
        if device is None:
            raise NotYetError(
                'neither a default route nor a single device with an address tells which device to use: set "device"'
            )
    found = own_addresses(device)
    addresses = settings.addresses or found
    where = f"device {device}" if device is not None else "this host"
    if not addresses:
        raise NotYetError(f'{where} has no address: give it one, or set "device" or "addresses"')
    for address in set(settings.addresses).difference(found):
        log.warning(
            "addresses: %s is not an address of %s: only what is routed here for it is served "
            "(behind a NAT, packets arrive with the address inside)",
            address,
            where,
        )
    return Cover(settings, device, addresses)


def _route_mtu(settings: Settings) -> int:
    return route_mtu(abroad(), settings.device)


class ServerSide:
    """A server's parts, and what happens between them."""

    def __init__(self, settings: Settings, start: Start, parts: Parts) -> None:
        self.endpoint = parts.endpoint
        self.rules = parts.rules
        self._settings = settings
        self._log = start.log
        self._troubles = start.troubles
        self._symptoms = Symptoms(settings.device)
        self._held = parts.held
        self._clocks = ClockJumps()
        self._ready = start.ready
        self._targets = parts.targets
        self._rates = Rates()
        self._questions = Questions(start.loop)
        self._target_names = self._names_of_targets(settings)
        self._cover = parts.cover
        self._routing = parts.routing
        self._name_at = 0.0
        """When rules and filter are to name our addresses again, since they could not; 0 = they do."""
        self._ask_again = False
        """Our addresses have changed, and there was no descriptor to ask for them with."""
        self.driver = Driver(
            start.loop,
            parts.endpoint,
            deliver=self._deliver,
            handle=self.handle,
            carrier_refused=_none_dialled,
            has_carriers=bool(carrier_ports(settings)),
            hot=parts.hot,
        )
        for carrier in parts.served:
            self.driver.carriers.add(carrier)
        self.device: Device
        if parts.rules is not None:
            self.device = LinkedDevice(parts.cover.device, parts.link, self.driver, parts.rules, self, log=start.log)
        else:
            mtu = parts.limits.mtu
            self.device = PlainDevice(
                mtu,
                self.driver,
                lambda: _route_mtu(settings),
                KernelRoutes(settings.device),
                moved=_never_moved,
                log=start.log,
            )

        self._speed: SpeedServer | None = None
        if isinstance(settings.tunnel, ServerParameters) and settings.tunnel.speedtest:
            self._speed = SpeedServer(start.loop, parts.endpoint, self.driver, settings.tunnel.speedtest)
        self.pings = Pings(start.loop, parts.endpoint, self.driver)

    def close(self) -> None:
        """Close link and carriers."""
        if self._speed is not None:
            self._speed.close()
        self.driver.finish()
        self.device.close()
        self.driver.close()

    def begin(self) -> None:
        """See ``Side``."""
        self.driver.start_reading()
        self._ready()

    def stop(self) -> None:
        """See ``Side``."""
        self.endpoint.role.stop(self.driver.now())

    def reconnect(self) -> None:
        """See ``Side``: a server dials nobody."""

    def wake(self) -> None:
        """See ``Side``: a server never sleeps."""

    def speedtest(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Side``."""
        del question
        raise ControlError(f"speedtest: {instance_of(self._settings.name)} is a server: run it at a client")

    def kick(self, name: str) -> int:
        """See ``Side``."""
        ended = self.endpoint.role.kick(self.driver.now(), name)
        self.driver.settle()
        return ended

    def adopt(self, settings: Settings) -> None:
        """See ``Side``."""
        if not isinstance(settings.tunnel, ServerParameters):
            raise TypeError("settings of a client")
        now, targets = self.driver.now(), all_targets(settings)
        parameters, second = conversation_limit.fit(
            settings.tunnel, settings.second, self._log, open_now=len(self._targets)
        )
        self._settings, before = settings, self._settings
        if settings.wire != before.wire:
            self.endpoint.role.use_secrets(now, settings.wire)
        self.endpoint.role.use_parameters(now, [parameters, second.tunnel] if second else [parameters])
        self.driver.settle()  # conversations with targets that are gone have no sockets any more
        if targets != all_targets(before):
            self._target_names.forget()
            self._target_names = self._names_of_targets(settings)
            for peer in self._targets.replace(targets):
                self._move_socket(peer)
        self._follow_rates()

    def _follow_rates(self) -> None:
        """Clients may have other rates from now on."""
        for session in self.endpoint.sessions:
            rate = self._rates.of(session.identity)
            for conversation in session.group.conversations.values():
                peer = outer_peer(self.endpoint, session, conversation.peer)
                descriptor = self._targets.descriptor(peer)
                if descriptor is not None and self._targets.rate(peer) is not rate:
                    self.driver.remove_source(descriptor)
                    self.driver.add_source(self._targets.limit(peer, rate))

    def _names_of_targets(self, settings: Settings) -> TargetNames:
        return TargetNames(settings.target_hosts, self._questions.ask, use=self._targets.use, log=self._log)

    # -- the endpoint's events

    def handle(self, event: Event) -> None:
        """Do what it asks for."""
        match event:
            case ConversationOpened(peer=peer, target=target, client=client):
                self._open_socket(peer, target, client)
            case ConversationClosed(peer=peer):
                self._close_socket(peer)
            case Follow(remote=remote, local=local):
                self.device.routes.follow(ip_address(remote), ip_address(local))
            case Forget(remote=remote, local=local):
                self.device.routes.forget(ip_address(remote), ip_address(local))
            case PingAnswered():
                self.pings.answered(event)
            case Suspect(remote=remote):
                log_suspect(self._log, remote)
                self.device.routes.suspect(ip_address(remote))
                self.device.routes.unanswered(ip_address(remote))
            case _:
                log_event(self._log, event)

    def _deliver(self, runs: list[Run]) -> None:
        self._targets.send(runs if self._speed is None else self._speed.take(runs))

    def _open_socket(self, peer: Hashable, target: int, client: Identity) -> None:
        rate = self._rates.of(client)
        if target == SPEEDTEST_TARGET and self._speed is not None:
            if rate is None:
                self._speed.opened(peer)
            else:
                self.endpoint.role.socket_refused(self.driver.now(), peer, "a client with a rate tests no speed")
            return
        try:
            source = self._targets.open(peer, target, rate)
        except LinkError as error:
            self._troubles.note(str(error))  # on wire rsock perhaps once a datagram
            self.endpoint.role.socket_refused(self.driver.now(), peer, str(error))
            self._target_names.troubled(target, self.driver.now(), refused=True)
            return
        self.driver.add_source(source)
        self._target_names.begun(target, self.driver.now())

    def _tick_targets(self, now: float) -> None:
        """Targets that have names: ask for those that are in trouble, and move conversations that get no answer."""
        for number in self._target_names.numbers:
            heard, refused, silent = self._targets.look(now, number)
            if refused or (silent and not heard):
                self._target_names.troubled(number, now, refused=refused)
            elif heard:
                self._target_names.well(number)
            for peer in self._targets.astray(now, number):
                self._move_socket(peer)

    def _move_socket(self, peer: Hashable) -> None:
        try:
            old, source = self._targets.move(peer)
        except LinkError as error:
            self._troubles.note(str(error))
            return
        self.driver.remove_source(old)
        self._targets.drop(old)
        self.driver.add_source(source)

    def _close_socket(self, peer: Hashable) -> None:
        if self._speed is not None:
            self._speed.closed(peer)
        descriptor = self._targets.descriptor(peer)
        if descriptor is not None:
            self.driver.remove_source(descriptor)
            self._targets.close(peer)

    # -- the device's events: see ``device.Owner``

    def match(self) -> Match:
        """What comes to our ports at our addresses."""
        return self._cover.match()

    def routing(self, name: str | None) -> Routing:
        """How its packets find their ways."""
        return replace(self._routing, device=name)

    def wanted_device(self) -> str:
        """Where the world comes in; that one client is reached through another device moves nothing."""
        if self._settings.device is not None:
            return self._settings.device
        with contextlib.suppress(LinkError):  # no descriptor left to ask with: nothing that ends a tunnel
            return default_device() or self.device.name
        return self.device.name

    def device_changes(self, name: str) -> None:
        """Rules and filter name the device and its addresses."""
        with contextlib.suppress(LinkError):
            if not self._settings.addresses:
                self._cover.addresses = device_addresses(name) or self._cover.addresses
        self._cover.device = name

    def device_event(self, event: LinkEvent) -> None:
        """Our addresses may have changed, or the device is another one of the same name."""
        if event is LinkEvent.ADDRESSES and not self._settings.addresses:
            self._follow_addresses()
        elif event is LinkEvent.UP and self._settings.device is not None:
            self._name_addresses()  # a device that was made anew has lost its rules (Linux < 6.16)

    def link_renewed(self) -> None:
        """The new link has to know the next hops of flows, too."""
        for remote, local in self.endpoint.role.followed():
            self.device.routes.follow(ip_address(remote), ip_address(local))

    def _follow_addresses(self) -> None:
        """Rules and filter name our addresses: both follow them."""
        addresses: tuple[IPAddress, ...] = ()
        self._ask_again = too_few_left()
        if self._ask_again:
            return
        with contextlib.suppress(LinkError):  # the device is going: what becomes of it is the next event
            addresses = own_addresses(self._cover.device)
        if not addresses and self.device.up:
            where = f"device {self._cover.device}" if self._cover.device is not None else "this host"
            self._log.warning("%s has no address now: no client gets through until it has one again", where)
        if addresses and set(addresses) != set(self._cover.addresses):
            self._log.info("addresses are now %s", _listed(addresses))
            self._cover.addresses = addresses
            self._name_addresses()

    def _name_addresses(self) -> None:
        """In rules and filter.  What fails, as while another iptables command is at work, is tried again."""
        try:
            if self.rules is not None:
                self.rules.apply()
            self.device.rematch()
        except (LinkError, FirewallError) as error:
            level = logging.DEBUG if self._name_at else logging.ERROR
            self._log.log(level, "rules or filter do not name the present addresses yet: %s", error)
            self._name_at = self.driver.now() + NAME_AGAIN
        else:
            if self._name_at:
                self._log.info("rules and filter name the present addresses")
            self._name_at = 0.0

    # -- once a second

    def tick(self, now: float) -> None:
        """See ``Side``."""
        look_for_symptoms(self._symptoms, now, self)
        if self._clocks.jumped(now):
            self.endpoint.role.want_keys(now)
        self._tick_targets(now)
        for number, refuses in self._targets.tick(now):
            self.endpoint.role.tell_target(now, number, refuses=refuses)
        if self._ask_again:
            self._follow_addresses()
        if self._name_at and now >= self._name_at:
            self._name_addresses()

    # -- what an operator sees

    def view(self) -> View:
        """See ``Side``."""
        detours = self.device.routes.detours()
        return View(
            self._settings,
            state="serving",
            reason="; ".join([*reasons(detours), *self._symptoms.reasons()]),
            notes=notes(detours),
            sessions=self.endpoint.sessions,
            describe=self._describe,
            counters=self._counters(),
            targets=self._targets.refusals(),
            strangers=self.endpoint.role.strangers,
            troubles=self._troubles.counts,
            versions=self._cover.versions,
            crowds=self.endpoint.role.crowds(self.driver.now()),
        )

    def _counters(self) -> Mapping[str, int]:
        above = self._rates.dropped
        return {**self.endpoint.counters, "datagrams above a client's rate": above} if above else self.endpoint.counters

    def _describe(self, session: Session, peer: Hashable) -> str:
        outer = outer_peer(self.endpoint, session, peer)
        return "speed test" if self._speed is not None and self._speed.has(outer) else self._targets.describe(outer)

    def reached(self) -> int:
        """See ``Counting``."""
        return sum(port.reached for port in self._held)

    @property
    def held_ports(self) -> list[int]:
        """See ``Side``: the rules cover no port beyond the configuration's."""
        return []

    def socket_counters(self) -> list[DatagramCounters]:
        """See ``Side``."""
        return self._targets.counters()


def _listed(addresses: Sequence[IPAddress]) -> str:
    more = f" and {len(addresses) - _TOLD} more" if len(addresses) > _TOLD else ""
    return ", ".join(map(str, addresses[:_TOLD])) + more


def _never_moved() -> None:
    raise AssertionError("a server's UDP sockets follow no route")


def _none_dialled(key: FlowKey) -> None:
    raise AssertionError(f"a server dials no carrier, and {key} is one")
