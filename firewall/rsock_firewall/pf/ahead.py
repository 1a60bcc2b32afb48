"""Somebody else's rules that pf evaluates before ours, and that may take our packets from them.

pf stops at the first ``quick`` rule that matches.  After a ``pass`` the kernel's TCP sees the packet and answers with
RST; after a ``block return`` pf does.  Rules are read as pfctl prints them (print_rule() in pfctl_parser.c).  What is
not understood counts as a match, and the contents of other anchors are not looked at: this is for a warning, nothing is
refused for it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from ipaddress import ip_network

from rsock_firewall.policy import IPAddress, Policy, Ports


def may_take(line: str, policy: Policy) -> bool:
    """Whether the rule may match what ``policy`` wants dropped on its way in.

    A policy without local ports is a client's that has not dialled: a rule for certain ports is then taken for somebody
    else's.
    """
    words = line.split()
    start = next((at for at, word in enumerate(words) if word in {"all", "from"}), len(words))
    head = words[:start]
    if "quick" not in head or "out" in head or not _lets_answer(head):
        return False
    if not (_on(head, policy.device) and _of_tcp(head)):
        return False
    if words[start : start + 1] != ["from"]:
        return _of_family(head, policy)
    to = words.index("to", start) if "to" in words[start:] else len(words)
    return (
        _of_family(head, policy)
        and _at(words[start + 1 : to], policy.remote_addresses, policy.remote_ports, unknown=True)
        and _at(words[to + 1 :], policy.local_addresses, policy.local_ports, unknown=False)
    )


def _lets_answer(head: Sequence[str]) -> bool:
    return head[:1] == ["pass"] or (head[:1] == ["block"] and head[1].startswith("return"))


def _on(head: Sequence[str], device: str | None) -> bool:
    """``on em0``; a name without a number is an interface group, perhaps of the device's driver."""
    if "on" not in head or device is None:
        return True
    name = head[head.index("on") + 1]
    if name[-1:].isdigit():
        return name == device
    return name != "lo" or device.startswith("lo")


def _of_tcp(head: Sequence[str]) -> bool:
    return "proto" not in head or head[head.index("proto") + 1] in {"tcp", "6"}


def _of_family(head: Sequence[str], policy: Policy) -> bool:
    versions = {address.version for address in policy.local_addresses or policy.remote_addresses} or {4, 6}
    return not ("inet" in head and 4 not in versions) and not ("inet6" in head and 6 not in versions)


def _at(words: Sequence[str], addresses: Iterable[IPAddress], ports: Sequence[Ports], *, unknown: bool) -> bool:
    """Whether one end of the rule, ``any port = https``, may be one of ``addresses`` and ``ports``.

    Without ``addresses``: it may.  Without ``ports``: ``unknown``, where the rule names a port.
    """
    if not words or words[0] == "!":
        return True
    try:
        network = ip_network(words[0], strict=False)
    except ValueError:  # any, a table, an interface's address
        pass
    else:
        if addresses and not any(address in network for address in addresses):
            return False
    if words[1:2] != ["port"]:
        return True
    if not ports:
        return unknown
    span = _span(words[2:4])
    return span is None or any(one.first <= span[1] and span[0] <= one.last for one in ports)


def _span(words: Sequence[str]) -> tuple[int, int] | None:
    """``= https`` or ``1000:2000``; None = anything else."""
    if words[:1] == ["="] and len(words) == 2:
        port = _port(words[1])
        return None if port is None else (port, port)
    found = re.fullmatch(r"(\d+):(\d+)", words[0]) if words else None
    return (int(found[1]), int(found[2])) if found else None


def _port(word: str) -> int | None:
    """By number, or by the name of its service, as pfctl prints it."""
    try:
        return int(word) if word.isdecimal() else socket.getservbyname(word, "tcp")
    except OSError:
        return None
