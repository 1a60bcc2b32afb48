"""Asking the server of a client's configuration: by the instance that runs, or by a tunnel for a few seconds.

That tunnel is a real one (``runtime``), with a name, source ports and rules of its own, but it takes no application.
It dials every port of the server.  Whatever ends it, its session is closed and its rules go.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from rsock_nf.core.parameters import ClientParameters
from rsock_nf.errors import RsockError
from rsock_nf.ops.control_socket.ask import ask
from rsock_nf.ops.instances.instance import Instance
from rsock_nf.ops.signals import leaving_in_order
from rsock_nf.settings import Settings

MOST_PORTS = 64
"""Of the server that are asked, and of each kind."""
_SILENT = 5.5
"""Seconds without a word from an address: it has had three SYNs on each port, or two hellos over UDP; and a VPN that
has the route has been given up (``runtime.host.server_route``)."""
_MOST = 10.0
"""Seconds for all addresses together."""
_SETTLE = 5.0
"""Seconds from the first flow on: in this time a narrow path is found out, in both directions."""
SMALLEST_SOUGHT = 536
"""Bytes of the smallest segment that a search for the path MTU tries."""
_LOOK_AGAIN = 0.1
_ROUNDS = 10
_APART = 0.05
"""Seconds between two rounds of pings."""
_PATIENCE = 1.0
_UNDECIDED = ("dialled", "open", "answered")


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen."""

    snapshot: dict[str, Any]
    """See ``runtime.reports.snapshot``.  Empty = there was no tunnel to ask."""
    replies: list[dict[str, Any]] = field(default_factory=list)
    """Of all pings: see ``runtime.pings``."""
    failure: str = ""
    """Why no tunnel could be made, or asked."""
    runs: bool = False
    """The instance that runs was asked."""
    asked: int = 0
    """How many of the server's ports were asked; 0 = all."""


class Tunnel(Protocol):
    """What is asked here of ``runtime.Tunnel``, or of an instance."""

    def snapshot(self) -> dict[str, Any]:
        """Its state."""

    async def ping(self, question: dict[str, Any]) -> dict[str, Any]:
        """A round of pings."""


def ask_instance(instance: Instance) -> Look:
    """What the running instance knows, and what it finds out by pings."""
    replies: list[dict[str, Any]] = []
    try:
        for _ in range(_ROUNDS):
            question = {"flows": True, "patience": _PATIENCE}
            found = ask(instance, "ping", question, timeout=_PATIENCE + 3)["replies"]
            replies += found
            if not found:
                break
    except RsockError as error:
        refused = str(error)
    else:
        refused = ""
    try:
        return Look(ask(instance, "status"), replies, runs=True)
    except RsockError as error:
        return Look({}, failure=refused or str(error), runs=True)


def dial(settings: Settings, parameters: ClientParameters) -> Look:
    """What a tunnel of this configuration meets.  Ctrl-C and SIGTERM end it in order."""
    ports = sum(map(len, parameters.ports))
    own_ports = sum(map(len, settings.client_ports))
    flows = min(ports, own_ports or ports, MOST_PORTS)
    settings = replace(
        settings,
        name=f"doctor-{os.getpid()}",
        tunnel=replace(parameters, flows=flows, idle_timeout=0.0),
    )
    with leaving_in_order():
        return asyncio.run(_dial(settings, len(parameters.server), flows if flows < ports else 0))


async def _dial(settings: Settings, addresses: int, asked: int) -> Look:
    from rsock_nf.runtime import make_tunnel

    log = logging.getLogger("rsock-nf.doctor")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    tunnel = make_tunnel(settings, log, applications=False)
    stop, up = asyncio.Event(), asyncio.Event()
    running = asyncio.ensure_future(tunnel.run(ready=up.set, stop=stop))
    watching = asyncio.ensure_future(_watch(tunnel, up, min(_SILENT * addresses, _MOST)))
    try:
        await asyncio.wait([running, watching], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        replies = await watching
        return Look(tunnel.snapshot(), replies, asked=asked)
    except RsockError as error:
        return Look({}, failure=str(error), asked=asked)
    finally:
        watching.cancel()
        stop.set()
        await asyncio.wait([running])


async def _watch(tunnel: Tunnel, up: asyncio.Event, patience: float) -> list[dict[str, Any]]:
    """Until nothing new is to be expected; the replies to pings."""
    loop = asyncio.get_running_loop()
    await _until(loop.time() + patience, lambda: up.is_set() or _turned_away(tunnel.snapshot()))
    if not up.is_set() and _has_gone_around(tunnel.snapshot()):
        await _until(loop.time() + patience, up.is_set)
    end = loop.time() + patience
    if not up.is_set():
        return []
    await _until(end, lambda: not any(port["outcome"] in _UNDECIDED for port in tunnel.snapshot()["dialled"]))
    end = loop.time() + _SETTLE
    replies = await _pings(tunnel)
    await _until(end, lambda: _is_settled(tunnel.snapshot()))
    return replies


async def _until(end: float, condition: Callable[[], bool]) -> None:
    """Wait for ``condition``, until ``end`` at the latest."""
    loop = asyncio.get_running_loop()
    while not condition() and loop.time() < end:  # noqa: ASYNC110 - a tunnel is asked, it calls nobody
        await asyncio.sleep(_LOOK_AGAIN)


async def _pings(tunnel: Tunnel) -> list[dict[str, Any]]:
    replies: list[dict[str, Any]] = []
    for _ in range(_ROUNDS):
        try:
            found = await tunnel.ping({"flows": True, "patience": _PATIENCE})
        except RsockError:  # wire rsock
            return replies
        replies += found["replies"]
        await asyncio.sleep(_APART)
    return replies


def _has_gone_around(snapshot: dict[str, Any]) -> bool:
    """A VPN had the route to the server, and nothing was answered: another way is tried from now on."""
    return bool(snapshot["detoured"])


def _turned_away(snapshot: dict[str, Any]) -> bool:
    """The server has said why it does not serve us: nothing else will come of it."""
    return bool(snapshot["turned_away"])


def _is_settled(snapshot: dict[str, Any]) -> bool:
    """Whether the path MTU is known, on every flow and in both directions.

    The first large probe that comes is the one of full size, or the largest that passes of a search.
    """
    flows = [flow for session in snapshot["sessions"] for flow in session["flows"]]
    return bool(flows) and all(flow["path_known"] and flow["largest_in"] >= SMALLEST_SOUGHT for flow in flows)
