"""nf_tables messages: what the kernel is asked, and the rules as its register machine runs them.

pyroute2's classes encode and decode them.

Why not text for ``nft -f``: a table belongs to the netlink socket that made it, which has to be the daemon's and not
that of a tool that ends at once; the state is read without parsing a tool's output; and the host needs no ``nft``
command.

Not here: the socket (``sockets``).
Sources: include/uapi/linux/netfilter/nf_tables.h, and ``nft --debug=netlink`` for the expressions.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

from pyroute2.netlink.nfnetlink import nfgen_msg, nftsocket

from rsock_firewall.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST
from rsock_firewall.policy import Drop, PortRange

NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFPROTO_UNSPEC, NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 0, 1, 2, 10
TABLE_OWNER, TABLE_PERSIST = 2, 4
"""NFT_TABLE_F_OWNER (Linux >= 5.12), NFT_TABLE_F_PERSIST (>= 6.9)."""
HOOKS = {"prerouting": 0, "input": 1, "output": 3, "ingress": 5}
"""NF_INET_PRE_ROUTING, NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT, NF_INET_INGRESS."""
NF_DROP, NF_ACCEPT = 0, 1
ELEMENTS_PER_MESSAGE = 500
"""An attribute holds 65,535 bytes; a range takes at most 48."""
META_IIFNAME, META_NFPROTO, META_L4PROTO = 6, 15, 16
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2
INET_SERVICE = 13
INTERVAL_END = 1

Message = Any
"""A pyroute2 nlmsg; pyroute2 is not typed."""


class Element(NamedTuple):
    """A port at which an interval of a set begins or (``end``) has ended."""

    port: int
    end: bool


def get_generation() -> Message:
    """The number of the last committed change in this namespace."""
    return _message(nftsocket.nft_gen_msg, nftsocket.NFT_MSG_GETGEN, {})


def get_table(table: str | None) -> Message:
    """One table, or for a dump (None) all inet tables."""
    return _message(nftsocket.nft_table_msg, nftsocket.NFT_MSG_GETTABLE, {"NFTA_TABLE_NAME": table})


def get_chain(table: str, chain: str) -> Message:
    """One chain."""
    attributes = {"NFTA_CHAIN_TABLE": table, "NFTA_CHAIN_NAME": chain}
    return _message(nftsocket.nft_chain_msg, nftsocket.NFT_MSG_GETCHAIN, attributes)


def get_set(table: str, name: str) -> Message:
    """One set, without its elements."""
    return _message(nftsocket.nft_set_msg, nftsocket.NFT_MSG_GETSET, {"NFTA_SET_TABLE": table, "NFTA_SET_NAME": name})


def get_elements(table: str, name: str) -> Message:
    """For a dump: a set's elements."""
    attributes = {"NFTA_SET_ELEM_LIST_TABLE": table, "NFTA_SET_ELEM_LIST_SET": name}
    return _message(nftsocket.nft_set_elem_list_msg, nftsocket.NFT_MSG_GETSETELEM, attributes)


def get_rules(table: str) -> Message:
    """For a dump: all rules of a table, in order."""
    return _message(nftsocket.nft_rule_msg, nftsocket.NFT_MSG_GETRULE, {"NFTA_RULE_TABLE": table})


def all_chains() -> Message:
    """For a dump: every chain of every family."""
    return _of_family(_message(nftsocket.nft_chain_msg, nftsocket.NFT_MSG_GETCHAIN, {}), NFPROTO_UNSPEC)


def all_rules(family: int, table: str) -> Message:
    """For a dump: all rules of a table of that family."""
    return _of_family(get_rules(table), family)


def new_table(table: str, flags: int) -> Message:
    """Create a table, or take over an orphan with the same flags."""
    attributes = {"NFTA_TABLE_NAME": table, "NFTA_TABLE_FLAGS": flags}
    return _message(nftsocket.nft_table_msg, nftsocket.NFT_MSG_NEWTABLE, attributes, NLM_F_CREATE)


def delete_table(table: str) -> Message:
    """Delete a table with all that is in it."""
    return _message(nftsocket.nft_table_msg, nftsocket.NFT_MSG_DELTABLE, {"NFTA_TABLE_NAME": table})


def new_chain(table: str, chain: str, priority: int, device: str | None) -> Message:
    """A base chain named after its hook; ``device`` for ingress only."""
    hook = {"NFTA_HOOK_HOOKNUM": HOOKS[chain], "NFTA_HOOK_PRIORITY": priority, "NFTA_HOOK_DEV": device}
    attributes = {
        "NFTA_CHAIN_TABLE": table,
        "NFTA_CHAIN_NAME": chain,
        "NFTA_CHAIN_HOOK": _nested(hook),
        "NFTA_CHAIN_POLICY": NF_ACCEPT,
        "NFTA_CHAIN_TYPE": "filter",
    }
    return _message(nftsocket.nft_chain_msg, nftsocket.NFT_MSG_NEWCHAIN, attributes, NLM_F_CREATE)


def delete_chain(table: str, chain: str) -> Message:
    """A chain without rules."""
    attributes = {"NFTA_CHAIN_TABLE": table, "NFTA_CHAIN_NAME": chain}
    return _message(nftsocket.nft_chain_msg, nftsocket.NFT_MSG_DELCHAIN, attributes)


def new_set(table: str, name: str, set_id: int) -> Message:
    """An interval set of ports.  KEYBYTEORDER 2 (big endian) is for ``nft list``, which would otherwise show the bytes
    swapped."""
    attributes = {
        "NFTA_SET_TABLE": table,
        "NFTA_SET_NAME": name,
        "NFTA_SET_FLAGS": {"NFT_SET_INTERVAL"},
        "NFTA_SET_KEY_TYPE": INET_SERVICE,
        "NFTA_SET_KEY_LEN": 2,
        "NFTA_SET_ID": set_id,
        "NFTA_SET_USERDATA": [("NFTNL_UDATA_SET_KEYBYTEORDER", struct.pack("=I", 2))],
    }
    return _message(nftsocket.nft_set_msg, nftsocket.NFT_MSG_NEWSET, attributes, NLM_F_CREATE)


def change_elements(table: str, name: str, ranges: list[PortRange], *, add: bool) -> list[Message]:
    """Add disjoint ranges to a set, or take them out."""
    kind = nftsocket.NFT_MSG_NEWSETELEM if add else nftsocket.NFT_MSG_DELSETELEM
    messages = []
    for start in range(0, len(ranges), ELEMENTS_PER_MESSAGE):
        attributes = {
            "NFTA_SET_ELEM_LIST_TABLE": table,
            "NFTA_SET_ELEM_LIST_SET": name,
            "NFTA_SET_ELEM_LIST_ELEMENTS": [
                _element(element)
                for ports in ranges[start : start + ELEMENTS_PER_MESSAGE]
                for element in elements(ports)
            ],
        }
        messages.append(_message(nftsocket.nft_set_elem_list_msg, kind, attributes, NLM_F_CREATE if add else 0))
    return messages


def new_rule(table: str, chain: str, drop: Drop, device: str | None, comment: str, counted: tuple[int, int]) -> Message:
    """``counted``: (packets, bytes) that the rule's counter starts from."""
    attributes = {
        "NFTA_RULE_TABLE": table,
        "NFTA_RULE_CHAIN": chain,
        "NFTA_RULE_EXPRESSIONS": _expressions(drop, device, counted),
        "NFTA_RULE_USERDATA": comment,
    }
    return _message(nftsocket.nft_rule_msg, nftsocket.NFT_MSG_NEWRULE, attributes, NLM_F_CREATE | NLM_F_APPEND)


def delete_rules(table: str, chain: str) -> Message:
    """All rules of a chain."""
    attributes = {"NFTA_RULE_TABLE": table, "NFTA_RULE_CHAIN": chain}
    return _message(nftsocket.nft_rule_msg, nftsocket.NFT_MSG_DELRULE, attributes)


def elements(ports: PortRange) -> list[Element]:
    """A range as the interval set stores it: [first, last + 1), open above at the top."""
    end = [Element(ports.last + 1, end=True)] if ports.last < 65535 else []
    return [Element(ports.first, end=False), *end]


def _element(element: Element) -> dict[str, Any]:
    key = _nested({"NFTA_DATA_VALUE": struct.pack("!H", element.port)})
    # pyroute2's flag table counts bits, so that NFT_SET_ELEM_INTERVAL_END is spelt {1} when encoding
    return _nested({"NFTA_SET_ELEM_KEY": key, "NFTA_SET_ELEM_FLAGS": {INTERVAL_END} if element.end else None})


def _expressions(drop: Drop, device: str | None, counted: tuple[int, int]) -> list[dict[str, Any]]:
    """The rule as nf_tables' register machine runs it, in the order of ``nft --debug=netlink``."""
    result = []
    if device:
        result += [_meta(META_IIFNAME), _equal(device.encode().ljust(16, b"\0"))]
    if drop.version:
        result += [_meta(META_NFPROTO), _equal(bytes([NFPROTO_IPV6 if drop.version == 6 else NFPROTO_IPV4]))]
    offsets = (8, 24, 16) if drop.version == 6 else (12, 16, 4)  # source, destination, length
    for address, offset in ((drop.source, offsets[0]), (drop.destination, offsets[1])):
        if address:
            result += [_payload(NETWORK_HEADER, offset, offsets[2]), _equal(address.packed)]
    result += [_meta(META_L4PROTO), _equal(bytes([socket.IPPROTO_TCP]))]
    for ports, offset in ((drop.source_ports, 0), (drop.destination_ports, 2)):
        if ports:
            result += [_payload(TRANSPORT_HEADER, offset, 2), _expression("lookup", set=ports, sreg=1)]
    verdict = _nested({"NFTA_DATA_VERDICT": _nested({"NFTA_VERDICT_CODE": NF_DROP})})
    counter = _expression("counter", bytes=counted[1], packets=counted[0])
    return [*result, counter, _expression("immediate", dreg=0, data=verdict)]


def _meta(key: int) -> dict[str, Any]:
    return _expression("meta", key=key, dreg=1)


def _payload(base: int, offset: int, length: int) -> dict[str, Any]:
    return _expression("payload", dreg=1, base=base, offset=offset, len=length)


def _equal(value: bytes) -> dict[str, Any]:
    return _expression("cmp", sreg=1, op=0, data=_nested({"NFTA_DATA_VALUE": value}))


def _expression(name: str, **attributes: Any) -> dict[str, Any]:
    data = {f"NFTA_{name.upper()}_{key.upper()}": value for key, value in attributes.items()}
    return _nested({"NFTA_EXPR_NAME": name, "NFTA_EXPR_DATA": _nested(data)})


def _nested(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"attrs": [(key, value) for key, value in attributes.items() if value is not None]}


def _message(cls: Any, kind: int, attributes: dict[str, Any], flags: int = 0) -> Message:
    message = cls()
    message["attrs"] = [[key, value] for key, value in attributes.items() if value is not None]
    message["nfgen_family"] = NFPROTO_INET
    message["header"]["type"] = NFNL_SUBSYS_NFTABLES << 8 | kind
    message["header"]["flags"] = NLM_F_REQUEST | flags
    return message


def _of_family(message: Message, family: int) -> Message:
    message["nfgen_family"] = family
    return message


def batch(messages: list[Message]) -> list[Message]:
    """``messages`` between the two that make one transaction of them."""
    return [_edge(NFNL_MSG_BATCH_BEGIN), *messages, _edge(NFNL_MSG_BATCH_END)]


def _edge(kind: int) -> Message:
    message = nfgen_msg()
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST
    return message


def decode(cls: type[Message], data: bytes) -> Message:
    """What the kernel answered to a request of class ``cls``."""
    message = cls(data)
    message.decode()
    return message
