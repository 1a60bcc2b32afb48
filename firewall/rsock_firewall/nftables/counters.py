"""What the rules of a table have counted.

A running instance asks for this every few seconds, beside its traffic.  pyroute2 takes some 5 ms to decode the rules
with all their expressions, and datagrams wait meanwhile.  So this walks over the attributes itself, down to the
counters.

Sources: include/uapi/linux/netlink.h (struct nlattr), include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from rsock_firewall.nftables import messages as nf
from rsock_firewall.nftables import text
from rsock_firewall.nftables.sockets import NfSocket
from rsock_firewall.policy import Counters

_HEADERS: Final = 20
"""Bytes of struct nlmsghdr and struct nfgenmsg."""
_ATTRIBUTE: Final = struct.Struct("=HH")
"""Length, type."""
_TYPE: Final = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
_RULE_CHAIN, _RULE_EXPRESSIONS = 2, 4
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
_COUNT: Final = struct.Struct("!Q")


def count(netlink: NfSocket, table: str) -> Counters | None:
    """What the rules of that table have counted; None = there is none.  Raises ``FirewallError``."""
    counted: dict[str, tuple[int, int]] = {}
    for rule in netlink.dump_undecoded(nf.get_rules(table)):
        chain, packets, octets = _read(rule)
        before = counted.get(chain, (0, 0))
        counted[chain] = before[0] + packets, before[1] + octets
    inbound = next((counted[chain] for chain in text.INBOUND if chain in counted), (0, 0))
    return Counters(*inbound, *counted.get("output", (0, 0))) if counted else None


def _read(rule: bytes) -> tuple[str, int, int]:
    """A rule's chain, and what its counters say."""
    chain, packets, octets = "", 0, 0
    for kind, value in _attributes(memoryview(rule)[_HEADERS:]):
        if kind == _RULE_CHAIN:
            chain = bytes(value).rstrip(b"\0").decode(errors="replace")
        elif kind == _RULE_EXPRESSIONS:
            for _, expression in _attributes(value):
                parts = dict(_attributes(expression))
                if bytes(parts.get(_EXPRESSION_NAME, b"")) == b"counter\0" and _EXPRESSION_DATA in parts:
                    counter = dict(_attributes(parts[_EXPRESSION_DATA]))
                    packets += _COUNT.unpack(counter[_COUNTER_PACKETS])[0]
                    octets += _COUNT.unpack(counter[_COUNTER_BYTES])[0]
    return chain, packets, octets


def _attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The attributes that follow one another in ``data``, each as (type, value)."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            return
        yield kind & _TYPE, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
