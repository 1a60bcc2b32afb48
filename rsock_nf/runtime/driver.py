"""What both roles drive: the link, the firewall's rules, the core's timer and its events.

The order is the safe one: rules first, then sockets; at the end sockets close, then the rules go.

A packet's way in: ``_link_readable`` → ``core.receive_packets`` → ``_deliver`` (the role's sockets)
and ``_transmit``; over UDP carriers ``_carrier_readable`` → ``core.receive_carried``, and the same.  When the link's or a
carrier's send buffer is full, what is left waits, and the application's sockets are not read until it is gone: their buffers
are where overload shows.  Without fake TCP there is neither link nor rule.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from rsock_firewall import Counters, FirewallError, Held, Policy, PortRange, select
from rsock_nf.core.both_servers import BothServers
from rsock_nf.core.client import Client
from rsock_nf.core.events import Event, FlowClosed, FlowOpened, FlowSick, SessionDown, SessionUp
from rsock_nf.core.flow import Flow
from rsock_nf.core.server import Server
from rsock_nf.core.session import Session
from rsock_nf.core.types import FlowKey, Outgoing, Run
from rsock_nf.errors import TunnelError
from rsock_nf.link import Link, LinkError, LinkEvent, Match, open_link
from rsock_nf.link.carrier import DialledCarrier
from rsock_nf.link.datagram import DatagramCounters
from rsock_nf.policy import fake_tcp_ports
from rsock_nf.runtime.carriers import Carrier, Carriers
from rsock_nf.runtime.journal import Journal
from rsock_nf.settings import Settings

BATCH = 64
"""Packets or datagrams of one read."""
ROUNDS = 8
"""Reads of one socket before the others get their turn."""
TICK = 1.0
MAX_BACKLOG = 1024
"""Bursts that may wait for the link; control traffic beyond that is dropped."""
FAREWELL = 0.3
"""Seconds in which closing flows may still be answered; two round trips where those are longer."""
MAX_FAREWELL = 2.0
ETHERNET_MTU = 1500
"""What is assumed of a device that tells nothing; the probes find out."""
_LEVELS = {LinkEvent.UP: logging.INFO, LinkEvent.DOWN: logging.WARNING}
"""Of the log lines about the device; of all others: debug."""


class Driver:
    """One running instance; ``ClientTunnel`` and ``ServerTunnel`` complete it."""

    core: Client | Server | BothServers

    def __init__(self, settings: Settings, log: logging.Logger) -> None:
        self.settings = settings
        self.log = log
        self.device = ""
        self.backend = ""
        self.device_up = True
        self.started = time.monotonic()
        self._link: Link | None = None
        self._held: Held | None = None
        self.fake_tcp = bool(fake_tcp_ports(settings))
        self.carriers: Carriers
        self.udp_mtu = 0
        """Without a link: the largest IP packet that the carriers' devices take."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._backlog: list[Outgoing] = []
        self._stopping = False
        self.backlog_dropped = 0
        self.repairs = 0
        self._journal = Journal(log)
        self._failure: asyncio.Future[Any]

    # -- the life of an instance

    async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Until ``stop`` is set; ``ready`` is called once, when the tunnel stands.

        Raises ``TunnelError``, one line.  Whatever happens, no socket, rule or port is left behind.
        """
        self._ready: Callable[[], None] | None = ready
        self._loop = asyncio.get_running_loop()
        self._failure = self._loop.create_future()
        self._loop.set_exception_handler(self._failed)
        try:
            with contextlib.ExitStack() as stack:
                self._prepare(stack)
                self.carriers = Carriers(
                    self._loop, self._carrier_readable, blocked=self._stop_reading, free=self._let_go
                )
                stack.callback(self.carriers.close)
                if self.fake_tcp:
                    self._install_rules(stack)
                    stack.callback(self._close_link)
                    self._open_link()
                self.core = self._make_core()
                self._watch_rules(stack)
                _quieten_collector()
                self._begin()
                try:
                    await self._until(stop)
                finally:
                    await self._farewell()
        except (LinkError, FirewallError) as error:
            raise TunnelError(str(error)) from error

    async def _until(self, stop: asyncio.Event) -> None:
        ticker: asyncio.Future[Any] = self._loop.create_task(self._tick_forever())
        stopping: asyncio.Future[Any] = self._loop.create_task(stop.wait())
        failure = self._failure
        try:
            await asyncio.wait([stopping, ticker, failure], return_when=asyncio.FIRST_COMPLETED)
            for ended in (ticker, failure):
                if ended.done():
                    ended.result()
        finally:
            ticker.cancel()
            stopping.cancel()

    async def _farewell(self) -> None:
        """Close every flow in order; do not wait for a peer that is gone."""
        self._journal.tick(self, self._now())  # the last word on why nothing was carried
        self._stopping = True
        self._stop_reading()
        trips = [flow.health.srtt or 0.0 for flow in self._live_flows() if not flow.health.unanswered]
        self.core.stop(self._now())
        self._settle()
        end = self._now() + min(max(FAREWELL, 2 * max(trips, default=0.0)), MAX_FAREWELL)
        while self.core.closing and self._now() < end:  # noqa: ASYNC110 - the core is polled, it calls nobody
            await asyncio.sleep(0.01)
        if self._timer:
            self._timer.cancel()

    def _is_ready(self) -> None:
        if self._ready is not None:
            ready, self._ready = self._ready, None
            ready()

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception in a callback of ours ends ``run`` instead of vanishing; of anybody else's it is logged."""
        error = context.get("exception")
        if "handle" in context and isinstance(error, Exception) and not self._failure.done():
            self._failure.set_exception(error)
        else:
            self.log.error("%s: %s", context.get("message"), error)

    @staticmethod
    def _now() -> float:
        return time.monotonic()

    # -- rules

    def _install_rules(self, stack: contextlib.ExitStack) -> None:
        firewall = select(self.settings.backend)
        self.backend = firewall.name
        self._inherit(firewall.left_behind(self.settings.name))
        self._held = stack.enter_context(firewall.hold(self._policy()))

    def _watch_rules(self, stack: contextlib.ExitStack) -> None:
        held = self._held
        if held is not None and held.fileno() >= 0:
            descriptor = held.fileno()
            self._loop.add_reader(descriptor, self._repair)
            stack.callback(self._loop.remove_reader, descriptor)

    def _repair(self) -> None:
        try:
            if self._held is not None and self._held.repair():
                self.repairs += 1
                self.log.warning("the firewall rules were changed by somebody else: put back")
        except FirewallError as error:
            self.log.error("cannot put the firewall rules back: %s", error)  # noqa: TRY400 - one line says it all

    def _apply_policy(self) -> None:
        if self._held is not None:
            self._held.update(self._policy())

    # -- the link

    def _open_link(self) -> None:
        link = open_link(self.device, self._match())
        self._link, self.device_up = link, True
        self._loop.add_reader(link.fileno(), self._link_readable)
        if link.event_fileno() >= 0:
            self._loop.add_reader(link.event_fileno(), self._link_events)

    def _close_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(ValueError, OSError):
                self._loop.remove_reader(link.fileno())
                self._loop.remove_writer(link.fileno())
                self._loop.remove_reader(link.event_fileno())
            link.close()
        if self._backlog:
            self._backlog.clear()
            self._let_go()  # nothing is left to wait for

    def _reopen(self, device: str) -> bool:
        """The link goes to ``device``, which may be the same one come back; rules first.  False = not yet."""
        self._close_link()
        self.device = device
        try:
            self._apply_policy()
            self._open_link()
        except (LinkError, FirewallError) as error:
            self.log.debug("device %s: %s", device, error)
            self._close_link()
            return False
        link = self._link
        if link is not None:
            self.core.receive_mtu(self._now(), link.mtu, link.max_burst_bytes)
        self.log.info("using device %s", device)
        self._link_renewed()
        self._settle()
        return True

    def _link_events(self) -> None:
        link = self._link
        if link is None:
            return
        for event in link.events():
            self.log.log(
                _LEVELS.get(event, logging.DEBUG), "device %s (MTU %d): %s", self.device, link.mtu, event.value
            )
            if event in _LEVELS:
                self.device_up = event is LinkEvent.UP
            if event is LinkEvent.MTU:
                self.core.receive_mtu(self._now(), link.mtu, link.max_burst_bytes)
            elif event is LinkEvent.GONE:
                self.log.warning("device %s is gone: waiting for it", self.device)
                self._close_link()
                return
            elif event is LinkEvent.MOVED:
                device = self._wanted_device()
                if device != self.device:
                    self.log.info("the route has moved from device %s to %s", self.device, device)
                    self._reopen(device)
                    return
            else:
                self._link_event(event)
        self._settle()

    def _link_readable(self) -> None:
        link = self._link
        core = self.core
        for _ in range(ROUNDS):
            if link is None or link is not self._link:
                return
            packets = link.receive(BATCH)
            if not packets:
                break
            core.receive_packets(time.monotonic(), packets)
            runs = core.poll_runs()
            if runs:
                self._deliver(runs)
            self._transmit()
            if len(packets) < BATCH:
                break
        self._settle()

    def _carrier_readable(self, carrier: Carrier) -> None:
        core = self.core
        for _ in range(ROUNDS):
            received = carrier.receive()
            if isinstance(carrier, DialledCarrier) and carrier.refusals:
                carrier.refusals = 0
                self._carrier_refused(carrier.key)
            if not received:
                break
            core.receive_carried(time.monotonic(), received)
            runs = core.poll_runs()
            if runs:
                self._deliver(runs)
            self._transmit()
            if len(received) < BATCH:
                break
        self._settle()

    def _transmit(self) -> None:
        """Send what the core has; what the link does not take now waits, with its buffers copied."""
        bursts = self.core.poll_transmit()
        if bursts and len(self.carriers):
            bursts = self.carriers.send(bursts)
        if not bursts:
            return
        link = self._link
        if link is None:
            return
        if self._backlog:
            self._keep(bursts)
            return
        done = link.send(bursts)
        if done < len(bursts):
            self._keep(bursts[done:])
            self._loop.add_writer(link.fileno(), self._link_writable)
            self._stop_reading()

    def _keep(self, bursts: Sequence[Outgoing]) -> None:
        room = MAX_BACKLOG - len(self._backlog)
        self.backlog_dropped += max(len(bursts) - room, 0)
        self._backlog += [burst._replace(payload=[b"".join(burst.payload)]) for burst in bursts[: max(room, 0)]]

    def _link_writable(self) -> None:
        link = self._link
        if link is None:
            return
        del self._backlog[: link.send(self._backlog)]
        if not self._backlog:
            self._loop.remove_writer(link.fileno())
            self._let_go()

    @property
    def _congested(self) -> bool:
        """Something waits for a full send buffer."""
        return bool(self._backlog) or self.carriers.waiting

    def _let_go(self) -> None:
        """Read the application's sockets again, unless something else still waits."""
        if not self._congested and not self._stopping:
            self._resume_reading()

    # -- the core's outputs

    def _settle(self) -> None:
        """After anything that was put into the core: deliver, send, obey its events, re-arm its timer."""
        core = self.core
        runs = core.poll_runs()
        if runs:
            self._deliver(runs)
        while (event := core.poll_event()) is not None:
            self._event(event)
        self._transmit()
        due = core.next_timeout()
        if due is not None and (self._timer is None or due < self._timer_at):
            if self._timer:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self._loop.call_at(due, self._timeout)

    def _timeout(self) -> None:
        self._timer = None
        self.core.handle_timeout(self._now())
        self._settle()

    def _event(self, event: Event) -> None:
        """Events that both roles only log."""
        match event:
            case SessionUp(session_id=session_id, peer=peer):
                self.log.info("session %016x with %s is up", session_id, peer)
            case SessionDown(session_id=session_id, reason=reason):
                self.log.info("session %016x has ended: %s", session_id, reason)
            case FlowOpened(flow_id=flow_id, key=key):
                self.log.debug("flow %d, %s, is up", flow_id, _ports(key))
            case FlowClosed(flow_id=flow_id, key=key, reason=reason, orderly=orderly):
                level = logging.DEBUG if orderly else logging.INFO
                self.log.log(level, "flow %d, %s, has ended: %s", flow_id, _ports(key), reason)
            case FlowSick(flow_id=flow_id, key=key, reason=reason):
                self.log.info("flow %d, %s, will be replaced: it %s", flow_id, _ports(key), reason)
            case _:
                raise AssertionError(f"unhandled {event!r}")

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._tick(self._now())
            self._settle()

    def _tick(self, now: float) -> None:
        """Once a second."""
        if self._link is not None:
            self._link.tick(now)
            self._link_events()
        elif self.fake_tcp:
            self._reopen(self._wanted_device())
        elif (mtu := self._carrier_mtu()) not in (0, self.udp_mtu):
            self.log.debug("the carriers' MTU is %d now", mtu)
            self.udp_mtu = mtu
            self.core.receive_mtu(now, mtu, 0)
        if self._held is not None and self._held.fileno() < 0:
            self._repair()
        self._journal.tick(self, now)

    # -- what an operator sees

    @property
    def link(self) -> Link | None:
        """None = not open: it has not started, or its device is gone."""
        return self._link

    def rule_counters(self) -> Counters | None:
        """What the firewall's rules dropped; None = there are none, or somebody changes them at this moment."""
        with contextlib.suppress(FirewallError):
            return self._held.counters() if self._held is not None else None
        return None

    @property
    def sessions(self) -> list[Session]:
        """Those that stand; a client has at most one."""
        core = getattr(self, "core", None)
        if core is None:
            return []
        found = [core.session] if isinstance(core, Client) else list(core.sessions.values())
        return [session for session in found if session is not None]

    @property
    def reason(self) -> str:
        """Why the tunnel carries nothing; empty when it does."""
        raise NotImplementedError

    @property
    def held_ports(self) -> list[int]:
        """The local ports that the rules cover, beyond the configuration's."""
        return []

    def socket_counters(self) -> list[DatagramCounters]:
        """Of every open socket toward applications or targets."""
        raise NotImplementedError

    def refusals(self) -> dict[str, int]:
        """How often each target said that nobody listens there, since the start; only those that did."""
        return {}

    def snapshot(self) -> dict[str, Any]:
        """The state of the instance as plain JSON types."""
        from rsock_nf.runtime.snapshot import snapshot

        return snapshot(self, self._now())

    def _live_flows(self) -> list[Flow]:
        return [flow for session in self.sessions for flow in session.flows.values()]

    # -- what the roles define

    def _wanted_device(self) -> str:
        """The device that this instance belongs on now; the present one when nothing tells of another."""
        raise NotImplementedError

    def describe(self, peer: Hashable) -> str:
        """One end of a conversation, for people."""
        raise NotImplementedError

    def _carrier_refused(self, key: FlowKey) -> None:
        """ICMP port unreachable came back on a carrier."""

    def _carrier_mtu(self) -> int:
        """Without a link: the largest IP packet that the carriers' devices take now; 0 = it cannot be told."""
        raise NotImplementedError

    def _limits(self) -> tuple[int, int]:
        """(MTU, burst size) that the core begins with."""
        if self._link is not None:
            return self._link.mtu, self._link.max_burst_bytes
        self.udp_mtu = self._carrier_mtu() or ETHERNET_MTU
        return self.udp_mtu, 0

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        raise NotImplementedError

    def _inherit(self, ports: tuple[PortRange, ...]) -> None:
        """The rules of a killed predecessor cover these local ports."""

    def _policy(self) -> Policy:
        raise NotImplementedError

    def _match(self) -> Match:
        raise NotImplementedError

    def _make_core(self) -> Client | Server | BothServers:
        raise NotImplementedError

    def _begin(self) -> None:
        raise NotImplementedError

    def _deliver(self, runs: list[Run]) -> None:
        raise NotImplementedError

    def _stop_reading(self) -> None:
        raise NotImplementedError

    def _resume_reading(self) -> None:
        raise NotImplementedError

    def _link_event(self, event: LinkEvent) -> None:
        raise NotImplementedError

    def _link_renewed(self) -> None:
        raise NotImplementedError


def _ports(key: FlowKey) -> str:
    return f"{'UDP ' if key.udp else ''}port {key.local_port} to {key.remote_port}"


def _quieten_collector() -> None:
    """Packets are tuples and views by the thousand, freed by their reference counts, but counted as garbage to look
    through: without this the cycle collector takes a sixth of the time.  What exists by now stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


random_bytes = os.urandom
