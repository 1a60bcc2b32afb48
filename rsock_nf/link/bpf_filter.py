"""The filter program that selects our packets on a tap.

It is a pure function from a ``Match`` to classic BPF.  It is the same for Linux and the BSDs; only the ``Layout``
differs.  The filter keeps the traffic of others away from us.  It does not judge our own packets: the core parses
those.

All loads are at absolute offsets.  Linux's SKF_NET_OFF would let one program serve every device, but
before Linux 6.16 such loads fail beyond the linear part of an skb, where some drivers keep even the
TCP header (kernel commit "bpf: support SKF_NET_OFF and SKF_LL_OFF on skb frags").
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal, NamedTuple, TypeAlias

from rsock_nf.core.tcp.header import (
    DESTINATION_PORT,
    ICMP,
    ICMP_HEADER,
    ICMPV6,
    IPV4_DESTINATION,
    IPV4_FRAGMENT,
    IPV4_PROTOCOL,
    IPV4_SOURCE,
    IPV6_DESTINATION,
    IPV6_HEADER,
    IPV6_NEXT_HEADER,
    IPV6_SOURCE,
    SOURCE_PORT,
    TCP,
    TCP_FLAGS,
)
from rsock_nf.core.tcp.segment import ACK, SYN
from rsock_nf.core.types import ALL_PORTS, PortRange, Shard
from rsock_nf.link.cbpf import (
    ADD_X,
    AND,
    JEQ,
    JGE,
    JSET,
    LD_B,
    LD_B_X,
    LD_H,
    LD_H_X,
    LD_W,
    LD_W_X,
    LDX_HEADER_LENGTH,
    LSH,
    MOD,
    RET,
    TAX,
    Assembler,
    Instruction,
    encode,
)
from rsock_nf.link.ethernet import ETHERNET_HEADER, ETHERTYPE
from rsock_nf.link.protocol import Match, PortSide

__all__ = [
    "ETHERNET",
    "RAW_IP",
    "Instruction",
    "Layout",
    "Part",
    "Syns",
    "check",
    "encode",
    "null_layout",
    "program",
    "select_packets",
    "select_ports",
]

ByteOrder: TypeAlias = Literal["little", "big"]

ACCEPT: Final = 0x40000
"""How many bytes of an accepted packet to keep: more than any packet has."""
_ETHERTYPE: Final = {version: int.from_bytes(number) for version, number in ETHERTYPE.items()}
_MORE_OR_LATER: Final = 0x3FFF
"""Of flags and fragment offset: more fragments follow, or this is not the first one."""


class Syns(enum.Enum):
    """Which segments are taken: a SYN without ACK asks for a new connection, so it comes from a stranger."""

    TAKEN = "all segments"
    LEFT = "all but SYNs"
    ALONE = "SYNs only, and no ICMP"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a captured packet says which network protocol it has, and where its IP header begins."""

    network: int
    """Offset of the IP header."""
    load: int
    """Opcode that loads the protocol."""
    offset: int
    """Offset of the protocol."""
    mask: int
    """Bits of it that count; 0 = all."""
    ipv4: int
    ipv6: int


ETHERNET: Final = Layout(ETHERNET_HEADER, LD_H, 12, 0, _ETHERTYPE[4], _ETHERTYPE[6])
"""Linux: Ethernet and loopback.  BSD: DLT_EN10MB."""
RAW_IP: Final = Layout(0, LD_B, 0, 0xF0, 0x40, 0x60)
"""No link header (PPP, TUN, WireGuard; DLT_RAW): the IP version field says which protocol it is."""


def null_layout(af_inet6: int, byteorder: ByteOrder = sys.byteorder) -> Layout:
    """DLT_NULL: the address family as a word in *host* byte order; DLT_LOOP: the same in network byte order, "big".

    ``af_inet6`` is the system's (24, 28 or 30).
    """
    ipv4, ipv6 = (int.from_bytes(af.to_bytes(4, byteorder), "big") for af in (2, af_inet6))
    return Layout(4, LD_W, 0, 0, ipv4, ipv6)


def program(match: Match, layout: Layout) -> list[Instruction]:
    """Instructions that accept what ``match`` describes and nothing else.

    TCP over IPv4 (any header length, no fragment) and IPv6 (no extension headers) with an address *and* a port
    on the asked side; ICMP type 3 code 4 (RFC 792, RFC 1191) and ICMPv6 type 2 (RFC 4443) that quote such a
    segment going the other way.  Raises ``ValueError`` when there is nothing to match or too much.
    """
    asm = Assembler()
    check(match)
    select_packets(asm, match, layout)
    select_ports(asm, match)
    return asm.assemble()


def check(match: Match) -> None:
    """Raise ``ValueError`` if there is nothing to match."""
    if not match.ports or not match.addresses:
        raise ValueError("a filter needs at least one address and one port")


class Part(NamedTuple):
    """One of the parts of a program that look at network headers."""

    prefix: str = ""
    """Of its labels, where one program has such a part twice."""
    protocol: int = TCP
    """What it looks for: TCP or UDP, whose ports are at the same offsets."""
    found: str = "ports"
    """The label where it goes with the port in A."""
    missed: str = "reject"
    """The label where it goes with everything else."""
    shard: Shard = ALL_PORTS
    """Of our own port, which is the destination of what we receive."""


_ONLY_PART: Final = Part()


def select_packets(
    asm: Assembler, match: Match, layout: Layout, part: Part = _ONLY_PART, syns: Syns = Syns.TAKEN
) -> None:
    """The part that looks at the network headers.  Without addresses any address will do."""
    ipv4 = [address.packed for address in match.addresses if address.version == 4]
    ipv6 = [address.packed for address in match.addresses if address.version == 6]
    anywhere = not match.addresses
    part = part._replace(shard=match.shard)
    asm.emit(layout.load, layout.offset)
    if layout.mask:
        asm.emit(AND, layout.mask)
    if ipv4 or anywhere:
        asm.branch(JEQ, layout.ipv4, then=f"{part.prefix}ipv4")
    if ipv6 or anywhere:
        asm.branch(JEQ, layout.ipv6, then=f"{part.prefix}ipv6")
    asm.goto(part.missed)
    if ipv4 or anywhere:
        _ipv4(asm, layout.network, match.side, ipv4, part, syns)
    if ipv6 or anywhere:
        _ipv6(asm, layout.network, match.side, ipv6, part, syns)


def select_ports(asm: Assembler, match: Match) -> None:
    """The last part: ``ports`` and ``reject``."""
    reject(asm)
    accept_ports(asm, match.ports)


def reject(asm: Assembler) -> None:
    """``reject``: nothing is kept."""
    asm.label("reject")
    asm.emit(RET, 0)


def accept_ports(asm: Assembler, ports: Sequence[PortRange], found: str = "ports", missed: str = "") -> None:
    """``found``: all is kept if the port in A is one of ``ports``; else it goes to ``missed``, or nothing is kept."""
    asm.label(found)
    _ports(asm, ports, missed)


def _opposite(side: PortSide) -> PortSide:
    return PortSide.SOURCE if side is PortSide.DESTINATION else PortSide.DESTINATION


def _port(side: PortSide) -> int:
    """Offset of a port in the TCP header."""
    return SOURCE_PORT if side is PortSide.SOURCE else DESTINATION_PORT


def _of_syns(asm: Assembler, load: int, offset: int, part: Part, syns: Syns) -> None:
    """Go to where what is missed goes by the flags at ``offset``, which ``load`` reads; else on."""
    if syns is not Syns.TAKEN:
        asm.emit(load, offset)
        asm.emit(AND, SYN | ACK)
        if syns is Syns.LEFT:
            asm.branch(JEQ, SYN, then=part.missed)
        else:
            asm.branch(JEQ, SYN, otherwise=part.missed)


def _of_shard(asm: Assembler, load: int, offset: int, part: Part) -> None:
    """Go to where what is missed goes unless our own port, which ``load`` reads at ``offset``, is in the shard."""
    if part.shard.of > 1:
        asm.emit(load, offset)
        asm.emit(MOD, part.shard.of)
        asm.branch(JEQ, part.shard.number, otherwise=part.missed)


def _ipv4(asm: Assembler, net: int, side: PortSide, addresses: list[bytes], part: Part, syns: Syns) -> None:
    """TCP (or UDP) over IPv4, and the ICMP that quotes it."""

    def address(of: PortSide) -> int:
        return IPV4_SOURCE if of is PortSide.SOURCE else IPV4_DESTINATION

    asm.label(f"{part.prefix}ipv4")
    asm.emit(LD_H, net + IPV4_FRAGMENT)
    asm.branch(JSET, _MORE_OR_LATER, then=part.missed)  # no fragment is ours: our segments carry DF
    asm.emit(LD_B, net + IPV4_PROTOCOL)
    asm.branch(JEQ, part.protocol, then=f"{part.prefix}tcp4")
    if syns is Syns.ALONE:
        asm.goto(part.missed)
    else:
        asm.branch(JEQ, ICMP, then=f"{part.prefix}icmp4", otherwise=part.missed)

    asm.label(f"{part.prefix}tcp4")
    _addresses(asm, LD_W, net + address(side), addresses, part._replace(found=f"{part.prefix}tcp4 port"))
    asm.label(f"{part.prefix}tcp4 port")
    asm.emit(LDX_HEADER_LENGTH, net)
    _of_syns(asm, LD_B_X, net + TCP_FLAGS, part, syns)
    _of_shard(asm, LD_H_X, net + DESTINATION_PORT, part)
    asm.emit(LD_H_X, net + _port(side))
    asm.goto(part.found)

    if syns is Syns.ALONE:
        return
    asm.label(f"{part.prefix}icmp4")
    sent = _opposite(side)
    quoted = net + ICMP_HEADER
    asm.emit(LDX_HEADER_LENGTH, net)
    asm.emit(LD_H_X, net)
    asm.branch(JEQ, 0x0304, otherwise=part.missed)  # destination unreachable, fragmentation needed
    asm.emit(LD_H_X, quoted + IPV4_FRAGMENT)
    asm.branch(JSET, _MORE_OR_LATER, then=part.missed)
    asm.emit(LD_B_X, quoted + IPV4_PROTOCOL)
    asm.branch(JEQ, part.protocol, otherwise=part.missed)
    _addresses(asm, LD_W_X, quoted + address(sent), addresses, part._replace(found=f"{part.prefix}icmp4 port"))
    asm.label(f"{part.prefix}icmp4 port")
    asm.emit(LD_B_X, quoted)  # the quoted header may carry options too
    asm.emit(AND, 15)
    asm.emit(LSH, 2)
    asm.emit(ADD_X)
    asm.emit(TAX)
    _of_shard(asm, LD_H_X, quoted + SOURCE_PORT, part)
    asm.emit(LD_H_X, quoted + _port(sent))
    asm.goto(part.found)


def _ipv6(asm: Assembler, net: int, side: PortSide, addresses: list[bytes], part: Part, syns: Syns) -> None:
    """TCP (or UDP) over IPv6, and the ICMPv6 that quotes it."""

    def address(of: PortSide) -> int:
        return IPV6_SOURCE if of is PortSide.SOURCE else IPV6_DESTINATION

    asm.label(f"{part.prefix}ipv6")
    asm.emit(LD_B, net + IPV6_NEXT_HEADER)
    asm.branch(JEQ, part.protocol, then=f"{part.prefix}tcp6")
    if syns is Syns.ALONE:
        asm.goto(part.missed)
    else:
        asm.branch(JEQ, ICMPV6, then=f"{part.prefix}icmp6", otherwise=part.missed)

    asm.label(f"{part.prefix}tcp6")
    _addresses(asm, LD_W, net + address(side), addresses, part._replace(found=f"{part.prefix}tcp6 port"))
    asm.label(f"{part.prefix}tcp6 port")
    _of_syns(asm, LD_B, net + IPV6_HEADER + TCP_FLAGS, part, syns)
    _of_shard(asm, LD_H, net + IPV6_HEADER + DESTINATION_PORT, part)
    asm.emit(LD_H, net + IPV6_HEADER + _port(side))
    asm.goto(part.found)

    if syns is Syns.ALONE:
        return
    asm.label(f"{part.prefix}icmp6")
    sent = _opposite(side)
    quoted = net + IPV6_HEADER + ICMP_HEADER
    asm.emit(LD_B, net + IPV6_HEADER)
    asm.branch(JEQ, 2, otherwise=part.missed)  # packet too big
    asm.emit(LD_B, quoted + IPV6_NEXT_HEADER)
    asm.branch(JEQ, part.protocol, otherwise=part.missed)
    _addresses(asm, LD_W, quoted + address(sent), addresses, part._replace(found=f"{part.prefix}icmp6 port"))
    asm.label(f"{part.prefix}icmp6 port")
    _of_shard(asm, LD_H, quoted + IPV6_HEADER + SOURCE_PORT, part)
    asm.emit(LD_H, quoted + IPV6_HEADER + _port(sent))
    asm.goto(part.found)


def _addresses(asm: Assembler, load: int, offset: int, addresses: Sequence[bytes], part: Part) -> None:
    """Go where ``part`` says, if the address at ``offset`` is one of ``addresses`` or there are none, and if not.

    A trie over 32-bit words: the addresses of a device mostly share their prefix.
    """
    if not addresses:
        asm.goto(part.found)
        return
    asm.emit(load, offset)
    groups = [(word, [a[4:] for a in members]) for word, members in groupby(sorted(set(addresses)), lambda a: a[:4])]
    for n, (word, tails) in enumerate(groups):
        value = int.from_bytes(word, "big")
        last = n == len(groups) - 1
        if tails == [b""]:
            asm.branch(JEQ, value, then=part.found, otherwise=part.missed if last else "")
            continue
        other = part.missed if last else asm.fresh("address")
        asm.branch(JEQ, value, otherwise=other)
        _addresses(asm, load, offset + 4, tails, part)
        if not last:
            asm.label(other)


_BLOCK: Final = 64
"""How many comparisons share one pair of returns: so few that each of them can jump to it (255 instructions)."""


def _ports(asm: Assembler, ports: Sequence[PortRange], missed: str) -> None:
    """Accept when A, a port, lies in one of ``ports``: a binary search over the ends of the ranges.

    If it lies in none, go to ``missed``, or reject if that is empty.

    ``changes`` has the port numbers, in order, at which a range begins or has ended.  If an odd number of them is at or
    below the port, the port lies in a range.
    """
    changes: list[int] = []
    for first, last in sorted((r.first, r.last) for r in ports):
        if changes and first <= changes[-1]:  # overlaps or touches the one before
            changes[-1] = max(changes[-1], last + 1)
        else:
            changes += [first, last + 1]
    _search(asm, changes, (0, len(changes)), None, missed)


def _search(asm: Assembler, changes: list[int], span: tuple[int, int], block: str | None, missed: str) -> None:
    """The part of the search where it is known that the first ``low`` changes are at or below the port, and that those
    from ``high`` on are above it; ``span`` is both.  ``missed``: see ``_ports``."""
    low, high = span
    opens = block is None and high - low <= _BLOCK
    if opens:
        block = asm.fresh("block")
    middle = (low + high) // 2

    def leaf(count: int) -> str:
        return f"{block} {'accept' if count % 2 else 'reject'}"

    above = leaf(high) if middle + 1 == high and block else asm.fresh("above")
    below = leaf(low) if low == middle and block else ""
    asm.branch(JGE, changes[middle], then=above, otherwise=below)
    if not below:
        _search(asm, changes, (low, middle), block, missed)
    if not (middle + 1 == high and block):
        asm.label(above)
        _search(asm, changes, (middle + 1, high), block, missed)
    if opens:
        asm.label(leaf(1))
        asm.emit(RET, ACCEPT)
        asm.label(leaf(0))
        if missed:
            asm.goto(missed)
        else:
            asm.emit(RET, 0)
