"""The local TCP ports of a client's flows: held, so that no other program gets them.

A port stays held for a while after its flow has ended: the server may still send to it, and the kernel must not
answer.  The rules cover every port that is held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

from rsock_firewall import FirewallError
from rsock_firewall import PortRange as FirewallPorts
from rsock_nf.core.types import ALL_PORTS, PortRange, Shard, ports_of
from rsock_nf.link import LinkError
from rsock_nf.sockets.held_ports import HeldPort, hold_any, hold_port

PORT_LINGER = 60.0
"""Seconds that the port of an ended flow stays held and covered by the rules."""


class SourcePorts:
    """See the module."""

    def __init__(self, ranges: Sequence[PortRange], rng: Callable[[int], bytes], shard: Shard = ALL_PORTS) -> None:
        """``ranges``: where ports come from; empty = the kernel chooses.  ``shard``: which of them it may take."""
        self._ranges = tuple(ranges) if shard == ALL_PORTS else ports_of(ranges, shard)
        self._shard = shard
        self._rng = rng
        self._held: dict[int, HeldPort] = {}
        self._released: dict[int, float] = {}
        """Port → when its flow ended; it lingers in ``_held``."""

    @property
    def held(self) -> list[int]:
        """The ports of flows, and of those that ended a moment ago."""
        return sorted(self._held)

    @property
    def held_ranges(self) -> tuple[PortRange, ...]:
        """The same, as a policy wants them."""
        return tuple(PortRange(port, port) for port in self.held)

    def reached(self) -> int:
        """Segments that have come to the kernel's TCP for these ports: see ``HeldPort``."""
        return sum(port.reached for port in self._held.values())

    def inherit(self, ports: Iterable[FirewallPorts], now: float) -> None:
        """Ports of a killed predecessor, which its rules still cover: its server still probes them."""
        for port in ports_of(ports, self._shard):
            with contextlib.suppress(LinkError):  # another program has it by now
                self._held[port.first] = hold_port(port.first)
                self._released[port.first] = now

    def take(self, cover: Callable[[], None]) -> int:
        """Hold another one, and call ``cover``, which makes the rules cover it.

        Raises ``LinkError`` or ``FirewallError``; then it is not held.
        """
        port = self._hold_any()
        self._held[port.port] = port
        try:
            cover()
        except FirewallError:
            del self._held[port.port]
            port.close()
            raise
        return port.port

    def _hold_any(self) -> HeldPort:
        try:
            return hold_any(self._ranges, self._shard, rng=self._rng)
        except LinkError:
            if not self._released:
                raise
            self._drop(list(self._released))  # a narrow range: those that linger give way
            return hold_any(self._ranges, self._shard, rng=self._rng)

    def release(self, port: int, now: float) -> None:
        """Its flow has ended."""
        self._released[port] = now

    def tick(self, now: float) -> bool:
        """Let go of those that have lingered long enough; whether there were any."""
        over = [port for port, since in self._released.items() if now - since >= PORT_LINGER]
        self._drop(over)
        return bool(over)

    def _drop(self, ports: list[int]) -> None:
        for port in ports:
            del self._released[port]
            held = self._held.pop(port, None)
            if held is not None:
                held.close()

    def close(self) -> None:
        """Let go of all."""
        for port in self._held.values():
            port.close()
        self._held.clear()
