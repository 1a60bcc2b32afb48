"""nf_tables messages and the netlink socket that carries them.

The messages are encoded and decoded by pyroute2's classes; the socket, the atomic batch and the dump
are ours, because pyroute2's own wait for ever where the privilege is missing, and its table ownership
would hang on a socket that is local to a thread.

Sources: include/uapi/linux/netfilter/nf_tables.h, include/uapi/linux/netlink.h,
net/netfilter/nfnetlink.c (nfnetlink_rcv_batch), and ``nft --debug=netlink`` for the expressions.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from pyroute2.netlink.nfnetlink import nfgen_msg, nftsocket

from rsock_firewall.policy import Drop, FirewallError, PortRange, unprivileged

AF_NETLINK, NETLINK_NETFILTER = 16, 12
NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFNLGRP_NFTABLES = 7
NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 1, 2, 10
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_CREATE, NLM_F_APPEND = 0x400, 0x800
NLMSG_ERROR, NLMSG_DONE = 2, 3
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_NO_ENOBUFS = 270, 1, 10, 5
SO_SNDBUFFORCE = 32

TABLE_OWNER, TABLE_PERSIST = 2, 4
"""NFT_TABLE_F_OWNER (Linux >= 5.12), NFT_TABLE_F_PERSIST (>= 6.9)."""
HOOKS = {"prerouting": 0, "output": 3, "ingress": 5}
"""NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT, NF_INET_INGRESS."""
NF_DROP, NF_ACCEPT = 0, 1
ELEMENTS_PER_MESSAGE = 500
"""An attribute holds 65,535 bytes; a range takes at most 48."""
META_IIFNAME, META_NFPROTO, META_L4PROTO = 6, 15, 16
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2
INET_SERVICE = 13
INTERVAL_END = 1

Message = Any
"""A pyroute2 nlmsg; pyroute2 is not typed."""


class Refused(Exception):  # noqa: N818 - the kernel's answer, not yet our error
    """A batch that the kernel undid.

    ``code`` is the errno, ``index`` the message that it is about (-1: the batch itself, so nothing was looked at).
    """

    def __init__(self, code: int, index: int) -> None:
        super().__init__(f"{os.strerror(code)} (errno {code}, message {index} of the batch)")
        self.code = code
        self.index = index


class NfSocket:
    """One NETLINK_NETFILTER socket.  An owned table lives as long as the socket that made it (netlink's portid)."""

    def __init__(self, timeout: float = 3.0) -> None:
        """``timeout``: seconds to wait for the kernel, which answers within milliseconds."""
        try:
            self._socket = socket.socket(AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        except OSError as error:
            raise FirewallError(
                f"this kernel has no netfilter netlink (NETLINK_NETFILTER): {error.strerror}"
            ) from error
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        with contextlib.suppress(OSError):  # only for thousands of ranges; without privilege the default stays
            self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 1 << 22)
        self._socket.bind((0, 0))
        self._timeout = timeout
        self._sequence = 0

    def close(self) -> None:
        """Give the kernel its socket back; a table that it owns becomes an orphan."""
        self._socket.close()

    def commit(self, messages: list[Message]) -> None:
        """Send as one batch: all or nothing.  Raises ``Refused`` with the first error.

        Only the last message asks for an acknowledgement; errors come unasked, in order, before it.  An error
        of the batch as a whole (no privilege, no nf_tables, the commit itself) carries BATCH_BEGIN's number.
        """
        messages[-1]["header"]["flags"] |= NLM_F_ACK
        begin = self._sequence + 1
        last = begin + len(messages)
        edges = _edge(NFNL_MSG_BATCH_BEGIN), _edge(NFNL_MSG_BATCH_END)
        self._send(b"".join(self._encode(message) for message in (edges[0], *messages, edges[1])))
        first_error: Refused | None = None
        for kind, _flags, sequence, body in self._answers(begin):
            if kind != NLMSG_ERROR or sequence > last:
                continue
            code = -int(struct.unpack_from("=i", body)[0])
            if code and (first_error is None or sequence == begin):
                first_error = Refused(code, sequence - begin - 1)
            if sequence == last or (code and sequence == begin):
                break
        if first_error:
            raise first_error

    def dump(self, message: Message) -> list[Message]:
        """Every object that answers ``message``, decoded; empty if what holds them is gone."""
        for _ in range(5):
            found = self._request(message, NLM_F_DUMP)
            if found is not None:
                return found
        raise FirewallError("the firewall's rules keep changing while they are read")

    def get(self, message: Message) -> Message | None:
        """The one object that ``message`` names; None if there is none."""
        found = self._request(message, NLM_F_ACK)
        return found[0] if found else None

    def _request(self, message: Message, flags: int) -> list[Message] | None:
        """What answers; None = changed while it was read (NLM_F_DUMP_INTR)."""
        message["header"]["flags"] = NLM_F_REQUEST | flags
        self._send(self._encode(message))
        interrupted = False
        found: list[Message] = []
        for kind, header_flags, _sequence, body in self._answers(self._sequence):
            interrupted |= bool(header_flags & NLM_F_DUMP_INTR)
            if kind not in {NLMSG_ERROR, NLMSG_DONE}:
                found.append(_decode(type(message), kind, body))
                continue
            code = -int(struct.unpack_from("=i", body)[0]) if len(body) >= 4 else 0
            if code == errno.ENOENT:
                return []
            if code and code != errno.EINTR:
                raise _failed(OSError(code, os.strerror(code)))
            return None if interrupted or code else found
        raise AssertionError("_answers ends only by an exception")

    def _encode(self, message: Message) -> bytes:
        self._sequence += 1
        message["header"]["sequence_number"] = self._sequence
        message["header"]["pid"] = 0
        message.reset()
        message.encode()
        return bytes(message.data)

    def _send(self, data: bytes) -> None:
        self._socket.settimeout(self._timeout)
        try:
            self._socket.send(data)
        except OSError as error:
            # some kernels and containers refuse in sendmsg() what others refuse in the answer
            raise _failed(error) from error

    def _answers(self, oldest: int) -> Iterator[tuple[int, int, int, bytes]]:
        """(type, flags, sequence, body) of what answers request ``oldest`` or later; ends only by the caller or an error."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
                data = self._socket.recv(1 << 18)
            except OSError as error:
                raise _failed(error) from error
            offset = 0
            while offset + 16 <= len(data):
                length, kind, flags, sequence, _port = struct.unpack_from("=IHHII", data, offset)
                if sequence >= oldest:
                    yield kind, flags, sequence, data[offset + 16 : offset + length]
                offset += max(16, length + 3 & ~3)


class ChangeEvents:
    """Readable when anybody changes any rule: the multicast group NFNLGRP_NFTABLES.  Messages are not looked at."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as undo:
            try:
                self._socket = undo.enter_context(socket.socket(AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER))
                self._socket.setblocking(False)
                self._socket.bind((0, 0))
                self._socket.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)  # that something changed is all we ask
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
            except OSError as error:
                raise _failed(error) from error
            undo.pop_all()

    def fileno(self) -> int:
        """For select and asyncio."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Throw away what waits."""
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(1 << 16):
                pass

    def close(self) -> None:
        """Leave the group."""
        self._socket.close()


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


def new_set(table: str, name: str, set_id: int) -> Message:
    """An interval set of ports.  KEYBYTEORDER 2 (big endian) is for ``nft list``, which would show them swapped."""
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


def _edge(kind: int) -> Message:
    message = nfgen_msg()
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST
    return message


def _decode(cls: Any, kind: int, body: bytes) -> Message:
    message = cls(struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body)
    message.decode()
    return message


def _failed(error: OSError) -> FirewallError:
    if isinstance(error, PermissionError):
        return unprivileged()
    if isinstance(error, TimeoutError):
        return FirewallError("nf_tables gave no answer")
    return FirewallError(f"nf_tables cannot be asked: {error.strerror or error}")
