"""What both roles drive: packets and datagrams between link, carriers, core and sockets; the core's timer and events.

The order is the safe one: rules first, then sockets; at the end sockets close, then the rules go.

A packet's way in: ``_link_readable`` → ``core.receive_packets`` → ``_drain``, which is ``_deliver`` (the role's sockets)
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
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from rsock_firewall import FirewallError
from rsock_nf.core.ends.client import Client
from rsock_nf.core.ends.server import Server
from rsock_nf.core.events import Event, FlowClosed, FlowOpened, FlowSick, SessionDown, SessionUp
from rsock_nf.core.flows.flow import Flow
from rsock_nf.core.flows.session import Session
from rsock_nf.core.outbox import Deliver, Transmit
from rsock_nf.core.types import FlowKey, Outgoing, Run
from rsock_nf.errors import TunnelError
from rsock_nf.link import LinkError
from rsock_nf.policy import carrier_ports
from rsock_nf.runtime.attachment import Attachment
from rsock_nf.runtime.both_servers import BothServers
from rsock_nf.runtime.carriers import Carrier, Carriers
from rsock_nf.runtime.journal import Journal
from rsock_nf.settings import Settings
from rsock_nf.sockets.carriers import ClientCarrier
from rsock_nf.sockets.datagrams import DatagramCounters

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


class Driver(Attachment):
    """One running instance; ``ClientTunnel`` and ``ServerTunnel`` complete it."""

    def __init__(self, settings: Settings, log: logging.Logger) -> None:
        super().__init__(settings, log)
        self.started = time.monotonic()
        self.carriers: Carriers
        self.udp_mtu = 0
        """Without a link: the largest IP packet that the carriers' devices take."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._backlog: list[Outgoing] = []
        self._has_carriers = bool(carrier_ports(settings))
        self._stopping = False
        self.backlog_dropped = 0
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

    # -- packets

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
            self._drain()
            if len(packets) < BATCH:
                break
        self._settle()

    def _carrier_readable(self, carrier: Carrier) -> None:
        core = self.core
        for _ in range(ROUNDS):
            received = carrier.receive()
            if isinstance(carrier, ClientCarrier) and carrier.refused():
                self._carrier_refused(carrier.key)
            if not received:
                break
            core.receive_carried(time.monotonic(), received)
            self._drain()
            if len(received) < BATCH:
                break
        self._settle()

    def _drain(self) -> None:
        """Do what the core wants done, in its order."""
        core = self.core
        while outputs := core.poll():
            for output in outputs:
                if isinstance(output, Transmit):
                    self._transmit(output.bursts)
                elif isinstance(output, Deliver):
                    self._deliver(output.runs)
                else:
                    self._event(output)

    def _transmit(self, bursts: Sequence[Outgoing]) -> None:
        """Send; what the link does not take now waits, with its buffers copied."""
        if bursts and self._has_carriers:
            # Also what was meant for a carrier that is closed by now: the link could not send it.
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

    def _link_closed(self) -> None:
        if self._backlog:
            self._backlog.clear()
            self._let_go()

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
        self._drain()
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
    def sessions(self) -> list[Session]:
        """Those that stand; a client has at most one."""
        core = getattr(self, "core", None)
        if core is None:
            return []
        found = [core.session] if isinstance(core, Client) else list(core.sessions.values())
        return [session for session in found if session is not None]

    @property
    @abstractmethod
    def reason(self) -> str:
        """Why the tunnel carries nothing; empty when it does."""

    @property
    def held_ports(self) -> list[int]:
        """The local ports that the rules cover, beyond the configuration's."""
        return []

    @abstractmethod
    def socket_counters(self) -> list[DatagramCounters]:
        """Of every open socket toward applications or targets."""

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

    @abstractmethod
    def describe(self, peer: Hashable) -> str:
        """One end of a conversation, for people."""

    def _carrier_refused(self, key: FlowKey) -> None:
        """ICMP port unreachable came back on a carrier."""

    @abstractmethod
    def _carrier_mtu(self) -> int:
        """Without a link: the largest IP packet that the carriers' devices take now; 0 = it cannot be told."""

    def _limits(self) -> tuple[int, int]:
        """(MTU, burst size) that the core begins with."""
        if self._link is not None:
            return self._link.mtu, self._link.max_burst_bytes
        self.udp_mtu = self._carrier_mtu() or ETHERNET_MTU
        return self.udp_mtu, 0

    @abstractmethod
    def _prepare(self, stack: contextlib.ExitStack) -> None:
        """Everything that comes before rules and link; what it opens, ``stack`` closes."""

    @abstractmethod
    def _make_core(self) -> Client | Server | BothServers:
        """The core, which begins with ``_limits``."""

    @abstractmethod
    def _begin(self) -> None:
        """Rules, link and core stand: sockets may be read."""

    @abstractmethod
    def _deliver(self, runs: list[Run]) -> None:
        """Give datagrams to applications or targets."""

    @abstractmethod
    def _stop_reading(self) -> None:
        """Read no more datagrams for the time being."""

    @abstractmethod
    def _resume_reading(self) -> None:
        """Read them again."""


def _ports(key: FlowKey) -> str:
    return f"{'UDP ' if key.udp else ''}port {key.local_port} to {key.remote_port}"


def _quieten_collector() -> None:
    """Packets are tuples and views by the thousand, freed by their reference counts, but counted as garbage to look
    through: without this the cycle collector takes a sixth of the time.  What exists by now stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


random_bytes = os.urandom
