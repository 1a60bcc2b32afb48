"""The filter of a tap that sees every device: which copy of a packet is taken, and how it is laid out.

A tap on all devices sees some packets twice: on a bridge's port and on the bridge, on a device and on its VLAN.  And it
sees packets that are for another host.  This part of the filter takes each packet for us exactly once:

1. only packets for this host (PACKET_HOST), not those that a bridge or a macvlan's parent overhears;
2. no packet that still has a VLAN tag: it comes again on the VLAN's device, without the tag;
3. none from a device that ``hidden`` names: it comes again on that device's master;
4. where ``only`` names a device, only from there.

After that comes the filter that every system shares (``link.bpf_filter``), once for each layout of the link header.

Offsets: include/uapi/linux/filter.h (SKF_AD_*).  The order in which the kernel shows a packet to taps:
net/core/dev.c, ``__netif_receive_skb_core``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rsock_nf.core.tcp.header import TCP, UDP
from rsock_nf.core.types import PortRange
from rsock_nf.link.bpf_filter import (
    ETHERNET,
    RAW_IP,
    Instruction,
    Layout,
    Part,
    Syns,
    accept_ports,
    check,
    reject,
    select_packets,
    select_ports,
)
from rsock_nf.link.cbpf import AND, JEQ, LD_W, Assembler
from rsock_nf.link.linux import arphrd
from rsock_nf.link.protocol import Match, PortSide, Watched

_AD: Final = -0x1000
"""SKF_AD_OFF: loads from here on read what the kernel knows about the packet."""
PACKET_TYPE, INTERFACE, HARDWARE_TYPE = _AD + 4, _AD + 8, _AD + 28
"""SKF_AD_PKTTYPE, SKF_AD_IFINDEX, SKF_AD_HATYPE"""
VLAN_TAG, VLAN_TAG_PRESENT = _AD + 44, _AD + 48
"""SKF_AD_VLAN_TAG, SKF_AD_VLAN_TAG_PRESENT.  Before Linux 6.2 a tag that was taken out can still be read: only the
second one is cleared (include/linux/if_vlan.h, ``__vlan_hwaccel_clear_tag``; seen on 6.1)."""
_PACKET_HOST, PACKET_OUTGOING = 0, 4  # include/uapi/linux/if_packet.h
_VLAN_ID: Final = 0x0FFF
"""Without the priority: a tag with number 0 has nothing but that."""


def tap_program(
    match: Match, *, only: int = 0, hidden: Sequence[int] = (), syns: Syns = Syns.TAKEN
) -> list[Instruction]:
    """Instructions for a tap on all devices.  ``only`` and ``hidden``: indexes of devices.

    A server's ``match`` without addresses stands for any address: the packets are for this host, or to be forwarded.
    Raises ``ValueError`` when there is nothing to match or too much.
    """
    if match.addresses or match.side is PortSide.SOURCE:
        check(match)
    asm = Assembler()
    asm.emit(LD_W, PACKET_TYPE)
    asm.branch(JEQ, _PACKET_HOST, otherwise="reject")
    _place(asm, only, hidden)
    asm.label("ethernet")
    select_packets(asm, match, ETHERNET, Part("ethernet "), syns)
    asm.label("headerless")
    select_packets(asm, match, RAW_IP, Part("headerless "), syns)
    select_ports(asm, match)
    return asm.assemble()


def watch_program(watched: Watched, *, only: int = 0, hidden: Sequence[int] = ()) -> list[Instruction]:
    """Instructions for who looks on: packets of ``watched`` in both directions, each once, and the ICMP about them.

    What a host sends to itself is seen as it arrives.  Raises ``ValueError`` as ``tap_program``.
    """
    asm = Assembler()
    asm.emit(LD_W, PACKET_TYPE)
    asm.branch(JEQ, _PACKET_HOST, then="seen")
    asm.branch(JEQ, PACKET_OUTGOING, otherwise="reject")
    asm.emit(LD_W, HARDWARE_TYPE)
    asm.branch(JEQ, arphrd.LOOPBACK, then="reject")
    asm.label("seen")
    _place(asm, only, hidden)
    asm.label("ethernet")
    _both_ways(asm, watched, ETHERNET, "ethernet")
    asm.label("headerless")
    _both_ways(asm, watched, RAW_IP, "headerless")
    reject(asm)
    return asm.assemble()


def _ports_of(watched: Watched) -> list[tuple[int, tuple[PortRange, ...]]]:
    found = [(protocol, ports) for protocol, ports in ((TCP, watched.tcp), (UDP, watched.udp)) if ports]
    if not found:
        raise ValueError("a filter needs at least one port")
    return found


def _both_ways(asm: Assembler, watched: Watched, layout: Layout, name: str) -> None:
    """One try after the other: each protocol, with the server's end as the destination and as the source."""
    tries = [(protocol, ports, side) for protocol, ports in _ports_of(watched) for side in PortSide]
    labels = [f"{name} {protocol} {side.value}" for protocol, _, side in tries]
    for label, following, (protocol, ports, side) in zip(labels, [*labels[1:], "reject"], tries, strict=True):
        asm.label(label)
        part = Part(f"{label} ", protocol, found=f"{label} ports", missed=following)
        select_packets(asm, Match(side, watched.addresses, ports), layout, part)
        accept_ports(asm, ports, part.found, following)


def _place(asm: Assembler, only: int, hidden: Sequence[int]) -> None:
    """The part that looks at the device and its kind: it goes to ``ethernet``, ``headerless`` or ``reject``."""
    asm.emit(LD_W, VLAN_TAG_PRESENT)
    asm.branch(JEQ, 0, then="no tag")
    asm.emit(LD_W, VLAN_TAG)
    asm.emit(AND, _VLAN_ID)
    asm.branch(JEQ, 0, otherwise="reject")
    asm.label("no tag")
    asm.emit(LD_W, INTERFACE)
    if only:
        asm.branch(JEQ, only, otherwise="reject")
    else:
        for ifindex in hidden:
            asm.branch(JEQ, ifindex, then="reject")
    asm.emit(LD_W, HARDWARE_TYPE)
    for kind in (arphrd.ETHERNET, arphrd.LOOPBACK):
        asm.branch(JEQ, kind, then="ethernet")
    for kind in arphrd.HEADERLESS:
        asm.branch(JEQ, kind, then="headerless")
    asm.goto("reject")
