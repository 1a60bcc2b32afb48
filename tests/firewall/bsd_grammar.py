"""Grammars of the rules that we write for pf.conf(5), ipfw(8) and npf.conf(5): whatever lies outside is refused.

Each gives the same thing, a ``Rule``, so that what a text drops can be compared with what a policy asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from rsock_firewall import Policy, PortRange
from rsock_firewall.policy import IPAddress, Ports


class SyntaxRefused(Exception):  # noqa: N818 - what the tool does
    """The tool would not load this line, or we have no business writing it."""


@dataclass(frozen=True)
class Packet:
    """A TCP segment on its way in or out."""

    direction: str
    device: str
    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int
    rst: bool = False
    local: frozenset[IPAddress] = frozenset()
    """The host's own addresses."""


@dataclass(frozen=True)
class Rule:
    """Drop what matches every part that is not None."""

    direction: str
    device: str | None
    version: int | None
    source: IPAddress | str | None
    source_ports: tuple[PortRange, ...] | None
    destination: IPAddress | str | None
    destination_ports: tuple[PortRange, ...] | None
    rst_only: bool = False
    label: str = field(default="", compare=False)

    def matches(self, packet: Packet) -> bool:
        return (
            self.direction == packet.direction
            and self.device in (None, packet.device)
            and self.version in (None, packet.source.version)
            and _is_at(self.source, packet.source, packet.local)
            and _is_at(self.destination, packet.destination, packet.local)
            and _within(self.source_ports, packet.source_port)
            and _within(self.destination_ports, packet.destination_port)
            and (packet.rst or not self.rst_only)
        )


def asked_for(policy: Policy, packet: Packet, *, any_is_me: bool = False) -> bool:
    """Whether the policy wants the packet dropped, from the policy's own definition.  ``any_is_me``: as ipfw has it."""
    inbound = packet.direction == "in"
    ours, our_port = (packet.destination, packet.destination_port) if inbound else (packet.source, packet.source_port)
    far, far_port = (packet.source, packet.source_port) if inbound else (packet.destination, packet.destination_port)
    is_local = ours in policy.local_addresses if policy.local_addresses else not any_is_me or ours in packet.local
    return (
        (policy.device in (None, packet.device) if inbound else packet.rst)
        and is_local
        and (not policy.remote_addresses or far in policy.remote_addresses)
        and any(r.first <= our_port <= r.last for r in policy.local_ports)
        and (not policy.remote_ports or any(r.first <= far_port <= r.last for r in policy.remote_ports))
    )


# -- pf.conf(5)

_PF_WORDS = re.compile(r'"[^"]*"|[^\s"={}<>!(),]+|[={}<>!(),]')
_PF_KEYWORDS = {
    "in",
    "out",
    "on",
    "any",
    "from",
    "to",
    "port",
    "quick",
    "inet",
    "inet6",
    "proto",
    "label",
    "flags",
    "all",
}


def parse_pf(text: str) -> list[Rule]:
    """The rules of an anchor of ours."""
    return [_Words(_PF_WORDS, line).pf_rule() for line in _lines(text)]


def parse_pf_main(text: str) -> list[str]:
    """The anchors that a main ruleset of ours calls."""
    result = []
    for line in _lines(text):
        words = _Words(_PF_WORDS, line)
        words.expect("anchor")
        result.append(words.quoted())
        words.end()
        if any(len(part) > 63 for part in result[-1].split("/")):
            raise SyntaxRefused(line)
    return result


def parse_npf(text: str) -> list[Rule]:
    """Rules for a group of npf.conf."""
    return [_Words(_PF_WORDS, line).npf_rule() for line in _lines(text)]


# -- ipfw(8)

IPFW_RULE = re.compile(
    r"deny tcp from (?P<source>\S+)(?: (?P<source_ports>\d[\d,-]*))? to (?P<destination>\S+)"
    r"(?: dst-port (?P<destination_ports>\d[\d,-]*))?"
    r" (?:(?P<in>in)(?: recv (?P<device>[A-Za-z0-9_.-]+))?|(?P<out>out) tcpflags rst) // (?P<comment>.{1,80})"
)


def parse_ipfw(text: str) -> list[tuple[int, int, Rule]]:
    """Number, set and rule of each line that ``ipfw FILE`` would take."""
    result = []
    for line in _lines(text):
        added = re.fullmatch(r"add (\d+) set (\d+) (.*)", line)
        if not added or not 1 <= int(added[1]) < 65535 or int(added[2]) > 31:
            raise SyntaxRefused(line)
        result.append((int(added[1]), int(added[2]), parse_ipfw_rule(added[3])))
    return result


def parse_ipfw_rule(text: str) -> Rule:
    found = IPFW_RULE.fullmatch(text)
    if not found:
        raise SyntaxRefused(text)
    ends = [
        None if end == "any" else end if end in ("me", "me6") else _address(end)
        for end in found.group("source", "destination")
    ]
    return Rule(
        "in" if found["in"] else "out",
        found["device"],
        None,
        ends[0],
        _port_list(found["source_ports"]),
        ends[1],
        _port_list(found["destination_ports"]),
        rst_only=bool(found["out"]),
        label=found["comment"],
    )


def _port_list(text: str | None) -> tuple[PortRange, ...] | None:
    if text is None:
        return None
    ranges = [_range(part, "-") for part in text.split(",")]
    if len(ranges) > 15:
        raise SyntaxRefused(text)
    return tuple(ranges)


# -- what they share


class _Words:
    """A line, word by word."""

    def __init__(self, word: re.Pattern[str], line: str) -> None:
        self._line = line
        self._words = word.findall(line)
        if not re.fullmatch(rf"(?>\s*(?:{word.pattern}))++", line):
            raise SyntaxRefused(line)

    def pf_rule(self) -> Rule:
        self.expect("block", "drop")
        direction = self.one_of("in", "out")
        self.expect("quick")
        device = self._device() if self.took("on") else None
        version = self._family()
        self.expect("proto", "tcp", "from")
        source, source_ports = self._end(version, ":")
        self.expect("to")
        destination, destination_ports = self._end(version, ":")
        rst = self.took("flags")
        if rst:
            self.expect("R/R")
        self.expect("label")
        label = self.quoted()
        self.end()
        if not 1 <= len(label) <= 63:  # PF_RULE_LABEL_SIZE less its NUL
            raise SyntaxRefused(self._line)
        return Rule(direction, device, version, source, source_ports, destination, destination_ports, rst, label)

    def npf_rule(self) -> Rule:
        self.expect("block")
        direction = self.one_of("in", "out")
        self.expect("final")
        device = self._device() if self.took("on") else None
        version = self._family() if self.took("family") else None
        self.expect("proto", "tcp")
        rst = self.took("flags")
        if rst:
            self.expect("R/R")
        self.expect("from")
        source, source_ports = self._end(version, "-")
        self.expect("to")
        destination, destination_ports = self._end(version, "-")
        self.end()
        return Rule(direction, device, version, source, source_ports, destination, destination_ports, rst)

    def expect(self, *wanted: str) -> None:
        for word in wanted:
            if not self.took(word):
                raise SyntaxRefused(f"{self._line!r}: {word!r} is missing before {self._words[:1]}")

    def took(self, word: str) -> bool:
        if self._words[:1] != [word]:
            return False
        self._words.pop(0)
        return True

    def one_of(self, *words: str) -> str:
        for word in words:
            if self.took(word):
                return word
        raise SyntaxRefused(f"{self._line!r}: one of {words} is missing")

    def quoted(self) -> str:
        word = self._next()
        if not re.fullmatch(r'"[^"$]+"', word):  # a $ would be a macro in a label
            raise SyntaxRefused(self._line)
        return word[1:-1]

    def end(self) -> None:
        if self._words:
            raise SyntaxRefused(f"{self._line!r}: {self._words} is too much")

    def _next(self) -> str:
        if not self._words:
            raise SyntaxRefused(f"{self._line!r} ends too soon")
        return str(self._words.pop(0))

    def _device(self) -> str:
        word = self._next()
        name = word.strip('"')
        if not 1 <= len(name) <= 15 or word in _PF_KEYWORDS:
            raise SyntaxRefused(f"{self._line!r}: device {word}")
        return name

    def _family(self) -> int | None:
        return 4 if self.took("inet") or self.took("inet4") else 6 if self.took("inet6") else None

    def _end(self, version: int | None, to: str) -> tuple[IPAddress | None, tuple[PortRange, ...] | None]:
        word = self._next()
        address = None if word == "any" else _address(word)
        if address and address.version != version:
            raise SyntaxRefused(f"{self._line!r}: {address} is of another family")
        if not self.took("port"):
            return address, None
        if self.took("="):
            return address, (_range(self._next(), "no range"),)
        return address, (_range(self._next(), to),)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _address(text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise SyntaxRefused(text) from None


def _range(text: str, to: str) -> PortRange:
    first, _, last = text.partition(to)
    if not (first.isdecimal() and (last or first).isdecimal() and 1 <= int(first) <= int(last or first) <= 65535):
        raise SyntaxRefused(f"port {text}")
    return PortRange(int(first), int(last or first))


def _is_at(wanted: IPAddress | str | None, address: IPAddress, local: frozenset[IPAddress]) -> bool:
    if isinstance(wanted, str):
        return address in local and (wanted == "me" or address.version == 6)
    return wanted in (None, address)


def _within(ranges: Iterable[Ports] | None, port: int) -> bool:
    return ranges is None or any(r.first <= port <= r.last for r in ranges)
