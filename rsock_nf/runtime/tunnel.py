"""The life of a running instance: built in a safe order, carrying until it is told to stop, and taken down.

The order is: rules first, then sockets.  At the end the sockets close, then the rules go.  While it runs, a ``Tunnel``
has a ``Side``: the parts of a client or of a server, complete, as ``client.build`` or ``server.build`` made them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

from rsock_firewall import FirewallError
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.errors import ControlError, NotYetError, TunnelError
from rsock_nf.link import AbsentError, LinkError
from rsock_nf.policy import carrier_ports, fake_tcp_ports
from rsock_nf.runtime.host.descriptors import TOO_FEW_LEFT, too_few_left
from rsock_nf.runtime.pings import PingQuestion, Pings
from rsock_nf.runtime.protocols import Endpoint
from rsock_nf.runtime.reports.frame_keys import frame_keys
from rsock_nf.runtime.reports.headline import headline
from rsock_nf.runtime.reports.journal import Journal
from rsock_nf.runtime.reports.snapshot import snapshot, steps
from rsock_nf.runtime.reports.symptoms import Counting
from rsock_nf.runtime.reports.troubles import Troubles
from rsock_nf.runtime.reports.view import HostView, View
from rsock_nf.settings import Settings

TICK = 1.0
FAREWELL = 0.3
"""Seconds in which closing flows may still be answered; two round trips where those are longer."""
MAX_FAREWELL = 2.0


class Side(Counting, Protocol):
    """The client's or the server's parts, complete."""

    @property
    def endpoint(self) -> Endpoint:
        """What it drives."""

    def begin(self) -> None:
        """Read the sockets from now on."""

    def stop(self) -> None:
        """Have the endpoint close every flow."""

    def reconnect(self) -> None:
        """Replace every flow; a server does nothing."""

    def wake(self) -> None:
        """Dial, if nothing was left to carry; a server does nothing."""

    def speedtest(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """See ``speedtest.asking.Speedtest.command``.  Raises ``ControlError``, as a server does."""

    @property
    def pings(self) -> Pings:
        """Asks the other end for answers."""

    def kick(self, name: str) -> int:
        """End the sessions of the client that has this name; returns how many."""

    def adopt(self, settings: Settings) -> None:
        """Follow these settings, which differ from those before only in what a running instance can change."""

    def tick(self, now: float) -> None:
        """Once a second, after device and rules."""

    def view(self) -> View:
        """What it carries."""

    @property
    def held_ports(self) -> list[int]:
        """The local ports that the rules cover beyond the configuration's."""


class Start(NamedTuple):
    """What a side begins with."""

    loop: asyncio.AbstractEventLoop
    log: logging.Logger
    troubles: Troubles
    ready: Callable[[], None]
    """To be called once, when traffic is carried."""


Build: TypeAlias = Callable[[Start, contextlib.ExitStack], Side]
"""Makes a side; what it opens, the stack closes.  Raises ``TunnelError``, ``LinkError`` or ``FirewallError``."""


class Tunnel:
    """One instance; ``run`` is called once."""

    def __init__(self, settings: Settings, build: Build, log: logging.Logger) -> None:
        self._settings = settings
        self._build = build
        self._log = log
        self._started = time.monotonic()
        self._troubles = Troubles()
        self._journal = Journal(log)
        self._side: Side | None = None
        """While it runs."""

    async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Until ``stop`` is set; ``ready`` is called once, when traffic is carried.

        Raises ``TunnelError``, one line; ``NotYetError`` if another tunnel may succeed later.  Whatever happens, no
        socket, rule or port is left behind.
        """
        loop = asyncio.get_running_loop()
        failure: asyncio.Future[None] = loop.create_future()
        loop.set_exception_handler(lambda _, context: self._callback_failed(failure, context))
        try:
            with contextlib.ExitStack() as stack:
                side = self._build(Start(loop, self._log, self._troubles, ready), stack)
                self._side = side
                if side.rules is not None:
                    side.rules.watch(loop, stack)
                _quieten_collector()
                side.begin()
                try:
                    await self._until(side, stop, failure)
                finally:
                    await self._farewell(side)
        except AbsentError as error:
            raise NotYetError(str(error)) from error
        except (LinkError, FirewallError) as error:
            raise TunnelError(str(error)) from error

    def _callback_failed(self, failure: asyncio.Future[None], context: dict[str, Any]) -> None:
        """An exception in a callback of ours ends ``run`` instead of vanishing; of anybody else's it is logged."""
        error = context.get("exception")
        if "handle" in context and isinstance(error, Exception) and not failure.done():
            failure.set_exception(error)
        else:
            self._log.error("%s: %s", context.get("message"), error)

    async def _until(self, side: Side, stop: asyncio.Event, failure: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        ticker: asyncio.Future[Any] = loop.create_task(self._tick_forever(side))
        stopping: asyncio.Future[Any] = loop.create_task(stop.wait())
        try:
            await asyncio.wait([stopping, ticker, failure], return_when=asyncio.FIRST_COMPLETED)
            for ended in (ticker, failure):
                if ended.done():
                    ended.result()
        finally:
            ticker.cancel()
            stopping.cancel()

    async def _tick_forever(self, side: Side) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._tick(side, side.driver.now())
            side.driver.settle()

    def _tick(self, side: Side, now: float) -> None:
        """Once a second."""
        side.driver.fold()
        if too_few_left():
            self._troubles.note(TOO_FEW_LEFT)
        side.device.tick(now)
        if side.rules is not None:
            side.rules.tick()
        self._journal.tick(side.view(), now)
        side.tick(now)

    async def _farewell(self, side: Side) -> None:
        """Close every flow in order; do not wait for a peer that is gone."""
        now = side.driver.now
        self._journal.tick(side.view(), now())  # the last word on why nothing was carried
        side.driver.finish()
        flows = [flow for session in side.endpoint.sessions for flow in session.flows.values()]
        trips = [flow.health.srtt or 0.0 for flow in flows if not flow.health.unanswered]
        side.stop()
        side.driver.settle()
        end = now() + min(max(FAREWELL, 2 * max(trips, default=0.0)), MAX_FAREWELL)
        while side.endpoint.closing and now() < end:  # noqa: ASYNC110 - the endpoint is polled, it calls nobody
            await asyncio.sleep(0.01)

    # -- what an operator asks: of several processes, whoever answers has to ask them (``workers.team``), hence async

    async def reconnect(self) -> None:
        """A client replaces every flow, while traffic goes on."""
        if self._side is not None:
            self._side.reconnect()

    async def keys(self) -> list[dict[str, Any]]:
        """What opens the frames of its flows now."""
        return frame_keys(self._side.endpoint.sessions) if self._side is not None else []

    async def ping(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the other end, on one flow or on all (``pings.PingQuestion``).  Raises ``ControlError``."""
        asked = PingQuestion.parse(question)
        side = self._side
        if side is None:
            return {"replies": [], "reason": "starting"}
        side.wake()
        replies = await side.pings.ask(asked)
        return {"replies": replies, "reason": "" if replies else side.view().reason}

    async def speedtest(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a speed test, or tell how it goes.  Raises ``ControlError``."""
        if self._side is None:
            raise ControlError("speedtest: it is still starting")
        self._side.wake()
        return self._side.speedtest(question)

    async def kick(self, name: str) -> int:
        """End the sessions of the client that has this name; returns how many."""
        return self._side.kick(name) if self._side is not None else 0

    async def adopt(self, settings: Settings) -> None:
        """Follow these settings, which differ from those before only in what a running instance can change.

        Raises ``TunnelError`` if it has not begun yet.
        """
        if self._side is None:
            raise TunnelError("the instance has not begun yet: down and up make it take its file anew")
        self._settings = settings
        self._side.adopt(settings)

    def snapshot(self) -> dict[str, Any]:
        """The state of the instance as plain JSON types."""
        return snapshot(*self._views(), now=time.monotonic(), started=self._started)

    async def snapshot_in_steps(self) -> dict[str, Any]:
        """The same.  Traffic goes on meanwhile: with thousands of flows it takes a tenth of a second."""
        made = steps(*self._views(), now=time.monotonic(), started=self._started)
        while True:
            try:
                next(made)
            except StopIteration as end:
                return dict(end.value)
            await asyncio.sleep(0)

    def _views(self) -> tuple[View, HostView]:
        side = self._side
        if side is not None:
            side.driver.fold()
        view = side.view() if side is not None else _view_at_first(self._settings)
        host = self._host(side) if side is not None else HostView(device_up=not fake_tcp_ports(self._settings))
        return view, host

    def headline(self) -> str:
        """Its state in one line."""
        return headline(self._side.view() if self._side is not None else _view_at_first(self._settings))

    def _host(self, side: Side) -> HostView:
        carriers = side.driver.carriers
        rules = side.rules
        return HostView(
            device=side.device.name,
            device_up=side.device.up,
            mtu=side.device.mtu,
            link_counters=side.device.link_counters(),
            carriers={"sockets": len(carriers), **carriers.counters()} if carrier_ports(self._settings) else {},
            backend=rules.backend if rules is not None else "",
            dropped=rules.counters() if rules is not None else None,
            repairs=rules.repairs if rules is not None else 0,
            held_ports=side.held_ports,
            sockets=side.socket_counters(),
            backlog_dropped=side.driver.backlog_dropped,
        )


def _view_at_first(settings: Settings) -> View:
    """Before there are any parts."""
    return View(settings, reason="starting" if isinstance(settings.tunnel, ClientParameters) else "")


def _quieten_collector() -> None:
    """Have the cycle collector look seldom, and not at what exists by now.

    Packets are tuples and views by the thousand, freed by their reference counts, but they count as garbage to look
    through: without this the collector takes a sixth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
