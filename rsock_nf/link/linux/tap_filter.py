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

from rsock_nf.link.bpf_filter import ETHERNET, RAW_IP, Instruction, Syns, check, select_packets, select_ports
from rsock_nf.link.cbpf import AND, JEQ, LD_W, Assembler
from rsock_nf.link.linux import arphrd
from rsock_nf.link.protocol import Match, PortSide

_AD: Final = -0x1000
"""SKF_AD_OFF: loads from here on read what the kernel knows about the packet."""
PACKET_TYPE, INTERFACE, HARDWARE_TYPE = _AD + 4, _AD + 8, _AD + 28
"""SKF_AD_PKTTYPE, SKF_AD_IFINDEX, SKF_AD_HATYPE"""
VLAN_TAG, VLAN_TAG_PRESENT = _AD + 44, _AD + 48
"""SKF_AD_VLAN_TAG, SKF_AD_VLAN_TAG_PRESENT.  Before Linux 6.2 a tag that was taken out can still be read: only the
second one is cleared (include/linux/if_vlan.h, ``__vlan_hwaccel_clear_tag``; seen on 6.1)."""
_PACKET_HOST: Final = 0  # include/uapi/linux/if_packet.h
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
    asm.label("ethernet")
    select_packets(asm, match, ETHERNET, "ethernet ", syns)
    asm.label("headerless")
    select_packets(asm, match, RAW_IP, "headerless ", syns)
    select_ports(asm, match)
    return asm.assemble()
