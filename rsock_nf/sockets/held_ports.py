"""Holding TCP ports: as long as a ``HeldPort`` lives, the kernel gives its port to nobody else.

Each port has one bound TCP socket, for IPv6 and IPv4 at once. (OpenBSD's IPv6 sockets never take IPv4, so there it has
one socket for each.) When another program binds or listens on the port, it gets EADDRINUSE.  The kernel does not choose
it as an ephemeral port.

Where the configuration names addresses, there is one socket for each of them.  Then another program may have the port
on the host's other addresses: a web site beside a tunnel on port 443.

The sockets have neither SO_REUSEADDR nor SO_REUSEPORT: if both sides had one of them, a foreign bind would succeed
(net/ipv4/inet_connection_sock.c, ``inet_csk_bind_conflict``).

On Linux the socket listens behind a filter that refuses everything (``System.keep_silent``), so the kernel answers no
segment to a held port, and ``ss -tln`` shows it.  That is the second line, for the moment in which somebody flushes the
drop rules.  It does not take their place: segments to addresses or ports that nobody holds would be answered, and each
one would go the long way up to TCP.  Elsewhere the kernel answers with RST without the rules.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from rsock_nf.core.types import ALL_PORTS, IPAddress, PortRange, Shard, TransportAddress
from rsock_nf.link import LinkError, system
from rsock_nf.link.sockaddr import to_socket_address

_NEAR: Final = 1000
"""How many ports are tried near one that the kernel has chosen."""
_FIRST_FREE: Final = 1024


class HeldPort:
    """One TCP port that is ours until ``close``; also a context manager."""

    def __init__(self, *holders: socket.socket) -> None:
        self._sockets = holders
        self.port: int = holders[0].getsockname()[1]
        for holder in holders:
            system().keep_silent(holder)

    @property
    def reached(self) -> int:
        """How many segments have come to the kernel's TCP for this port, by a way that the rules do not cover; 0 where
        the system does not tell."""
        return sum(system().udp.receive_drops(holder) for holder in self._sockets)

    def close(self) -> None:
        """Give the port back; idempotent.  It is free at once: there was no connection, so no TIME_WAIT."""
        for holder in self._sockets:
            holder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def hold_port(port: int, addresses: Sequence[IPAddress] = ()) -> HeldPort:
    """Hold ``port`` on ``addresses``, which this host need not have yet; without any: on all, of IPv4 and IPv6.

    Raises ``LinkError`` when a listener, a connection or one in TIME_WAIT has it (TIME_WAIT ends within 60 s, so a
    later call may succeed), when it needs a privilege, or when there is no descriptor left.
    """
    try:
        return _hold_on(port, addresses) if addresses else _hold(port)
    except OSError as error:
        raise LinkError(_why(port, error, addresses)) from error


def hold_any(
    ranges: Sequence[PortRange] = (), shard: Shard = ALL_PORTS, *, rng: Callable[[int], bytes] = os.urandom
) -> HeldPort:
    """Hold a port of ``shard`` that the kernel has chosen or, with ``ranges``, a random free one of those.

    Every port of ``ranges`` is tried, in a cyclic order that begins at a random one.
    Raises ``LinkError`` when none is free.
    """
    if not ranges:
        return _hold_chosen(shard)
    taken = 0
    for port in _from_random_start(ranges, rng):
        try:
            return _hold(port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise LinkError(_why(port, error)) from error
            taken += 1
    names = ", ".join(map(str, ranges))
    raise LinkError(
        f"all {taken} ports of {names} are in use; widen the range, or see `{system().remedies.tcp_ports}` for who has them"
    )


def _hold_chosen(shard: Shard) -> HeldPort:
    """A port that the kernel has chosen, or one that is near it.

    The kernel prefers odd ports as long as there are any (inet_csk_find_open_port), so asking again may not help.
    """
    held = hold_port(0)
    if shard.has(held.port):
        return held
    held.close()
    near = held.port - (held.port - shard.number) % shard.of
    for port in range(near, max(near - _NEAR * shard.of, _FIRST_FREE), -shard.of):
        with contextlib.suppress(LinkError):
            return hold_port(port)
    raise LinkError(f"no TCP port near {held.port} is free that is {shard.number} modulo {shard.of}")


def hold_ports(ranges: Sequence[PortRange], addresses: Sequence[IPAddress] = ()) -> list[HeldPort]:
    """Hold every port of ``ranges``, which do not overlap, in their order; ``addresses`` as for ``hold_port``.  If one
    cannot be held, none is: ``LinkError``."""
    held: list[HeldPort] = []
    try:
        for span in ranges:
            held.extend(hold_port(port, addresses) for port in range(span.first, span.last + 1))
    except BaseException:
        for port in held:
            port.close()
        raise
    return held


def _hold(port: int) -> HeldPort:
    """Bind ``port``, or any for 0.  Raises ``OSError``."""
    with contextlib.ExitStack() as undo:
        holder = undo.enter_context(_unbound_socket())
        if holder.family == socket.AF_INET:
            holder.bind(("", port))
            undo.pop_all()
            return HeldPort(holder)
        both = _takes_ipv4(holder)
        holder.bind(("::", port))
        if both:
            undo.pop_all()
            return HeldPort(holder)
        second = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        second.bind(("", holder.getsockname()[1]))
        undo.pop_all()
        return HeldPort(holder, second)


def _hold_on(port: int, addresses: Sequence[IPAddress]) -> HeldPort:
    """Bind ``port`` on each address.  Raises ``OSError``."""
    with contextlib.ExitStack() as undo:
        holders = [undo.enter_context(_bound(address, port)) for address in dict.fromkeys(addresses)]
        undo.pop_all()
        return HeldPort(*holders)


def _bound(address: IPAddress, port: int) -> socket.socket:
    """A socket that has ``port`` on ``address``.

    Where the host does not have the address, and the system does not let a socket wait for it, it has the port on every
    address of the family.  So it is with a link-local address, which can only be bound together with its device.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.ExitStack() as undo:
        holder = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        if family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        system().allow_absent_address(holder)
        scope = (address.scope_id or "") if address.version == 6 else ""
        try:
            holder.bind(to_socket_address(TransportAddress(address, port, scope)))
        except OSError as error:
            needs_device = error.errno == errno.EINVAL and address.is_link_local
            if error.errno != errno.EADDRNOTAVAIL and not needs_device:
                raise
            holder.bind(("", port) if family == socket.AF_INET else ("::", port))
        undo.pop_all()
        return holder


def _takes_ipv4(holder: socket.socket) -> bool:
    """Make an IPv6 socket take IPv4 as well; False = the system does not allow it."""
    try:
        holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    except OSError:
        return False
    return True


def _unbound_socket() -> socket.socket:
    """An IPv6 socket where the kernel has IPv6, otherwise an IPv4 socket.

    With ``net.ipv6.conf.*.disable_ipv6`` the kernel has IPv6, and ``::`` can be bound.  With ``ipv6.disable=1`` on its
    command line it has none.
    """
    try:
        return socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno not in {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}:
            raise
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def _from_random_start(ranges: Sequence[PortRange], rng: Callable[[int], bytes]) -> Iterator[int]:
    ports = [port for span in ranges for port in range(span.first, span.last + 1)]
    start = int.from_bytes(rng(4)) % len(ports)
    yield from ports[start:]
    yield from ports[:start]


def _why(port: int, error: OSError, addresses: Sequence[IPAddress] = ()) -> str:
    name = f"port {port}" if port else "an ephemeral TCP port"
    remedies = system().remedies
    match error.errno:
        case errno.EADDRINUSE if addresses:
            on = ", ".join(map(str, addresses))
            return (
                f"{name} is in use on {on}; "
                f"`{remedies.tcp_port.format(port=port)}` or `rsock-nf status` tells by whom; "
                "who listens on every address (*, 0.0.0.0, [::]) has it, too: have it listen on other addresses only"
            )
        case errno.EADDRINUSE if port:
            return f"{name} is in use; `{remedies.tcp_port.format(port=port)}` or `rsock-nf status` tells by whom"
        case errno.EADDRINUSE:
            return f"no ephemeral TCP port is free; see {remedies.ephemeral_ports}"
        case errno.EACCES:
            return f"{name} is privileged; it takes {remedies.low_ports}"
        case errno.EMFILE | errno.ENFILE:
            return (
                f"{name} cannot be held: too many open files, one for each port and address: "
                "raise `ulimit -Hn`, in a systemd unit LimitNOFILE=, or choose fewer ports"
            )
    return f"{name} cannot be held: {error.strerror}"
