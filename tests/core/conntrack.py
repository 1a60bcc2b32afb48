"""A strict stateful firewall as a model: what Linux' nf_conntrack says of each TCP packet that crosses it.

The judge of every scenario on the virtual clock.  It follows ``nf_conntrack_tcp_packet`` and ``tcp_in_window``
(net/netfilter/nf_conntrack_proto_tcp.c) as they were up to Linux 6.0, with ``tcp_loose=0`` and ``tcp_be_liberal=0``:
what later kernels merely ignore (late ACKs, old data, a little beyond the window) is INVALID here, and the other way
round, so who passes here passes there.  ``tests/netns/test_judge_model.py`` holds it against the running kernel.  The
four bounds are those of G. van Rooij, "Real Stateful TCP Packet Filtering in IP Filter".

Written apart from ``rsock_nf``: it shares neither parser nor arithmetic with what it judges.  It is not a firewall's
rule set: it tells, and the wire of the tests decides whether an INVALID packet is dropped.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple

_MASK: Final = 0xFFFF_FFFF
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
_VALID_FLAGS: Final = {SYN, SYN | ACK, RST, RST | ACK, FIN | ACK, ACK}
_MAX_ACK_WINDOW: Final = 66_000
_ORIGINAL, _REPLY = 0, 1
RST_TOO_OLD: Final = "RST before what was acknowledged"
STARTED_OVER: Final = ", after a SYN and its answer came again"
"""The end of the reason where the judge itself lost track: a SYN that the wire doubles or holds back until data have
followed it makes nf_conntrack take both ends for new, with any server whose SYN-ACK keeps no state."""


class State(enum.IntEnum):
    """``enum tcp_conntrack``, and the two verdicts that its table mixes in."""

    NONE = 0
    SYN_SENT = 1
    SYN_RECV = 2
    ESTABLISHED = 3
    FIN_WAIT = 4
    CLOSE_WAIT = 5
    LAST_ACK = 6
    TIME_WAIT = 7
    CLOSE = 8
    SYN_SENT2 = 9
    INVALID = 10
    IGNORE = 11


_TIMEOUT: Final = {
    State.SYN_SENT: 120.0,
    State.SYN_RECV: 60.0,
    State.ESTABLISHED: 432_000.0,
    State.FIN_WAIT: 120.0,
    State.CLOSE_WAIT: 60.0,
    State.LAST_ACK: 30.0,
    State.TIME_WAIT: 120.0,
    State.CLOSE: 10.0,
    State.SYN_SENT2: 120.0,
}
"""Seconds that an entry lives after its last packet (Documentation/networking/nf_conntrack-sysctl.rst)."""
_UNACKNOWLEDGED: Final = 300.0

_NO, _SS, _SR, _ES, _FW, _CW, _LA, _TW, _CL, _S2, _IV, _IG = State
_KINDS: Final = ("SYN", "SYN-ACK", "FIN", "ACK", "RST")
_TABLE: Final = {
    # In the columns of State: NONE, SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE,
    # SYN_SENT2
    (_ORIGINAL, "SYN"): (_SS, _SS, _IG, _IG, _IG, _IG, _IG, _SS, _SS, _S2),
    (_ORIGINAL, "SYN-ACK"): (_IV, _IV, _SR, _IV, _IV, _IV, _IV, _IV, _IV, _SR),
    (_ORIGINAL, "FIN"): (_IV, _IV, _FW, _FW, _LA, _LA, _LA, _TW, _CL, _IV),
    (_ORIGINAL, "ACK"): (_IV, _IV, _ES, _ES, _CW, _CW, _TW, _TW, _CL, _IV),
    (_ORIGINAL, "RST"): (_IV, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL),
    (_REPLY, "SYN"): (_IV, _S2, _IV, _IV, _IV, _IV, _IV, _IV, _IV, _S2),
    (_REPLY, "SYN-ACK"): (_IV, _SR, _IG, _IG, _IG, _IG, _IG, _IG, _IG, _SR),
    (_REPLY, "FIN"): (_IV, _IV, _FW, _FW, _LA, _LA, _LA, _TW, _CL, _IV),
    (_REPLY, "ACK"): (_IV, _IG, _SR, _ES, _CW, _CW, _TW, _TW, _CL, _IG),
    (_REPLY, "RST"): (_IV, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _CL),
}

Endpoint = tuple[bytes, int]


class Tcp(NamedTuple):
    """One TCP packet as the firewall reads it."""

    source: Endpoint
    destination: Endpoint
    seq: int
    ack: int
    flags: int
    window: int
    payload: bytes
    options: bytes
    packet: bytes = b""
    """The whole packet, where it is one."""

    @property
    def checksums(self) -> bool:
        """IP header and TCP checksum are right."""
        start = len(self.packet) - len(self.payload) - len(self.options) - 20
        pseudo = self.source[0] + self.destination[0] + struct.pack("!II", len(self.packet) - start, 6)
        return (start == 40 or _sum16(self.packet[:start]) == 0) and _sum16(pseudo + self.packet[start:]) == 0

    @property
    def kind(self) -> str:
        """What decides the column of the table."""
        if self.flags & RST:
            return "RST"
        if self.flags & SYN:
            return "SYN-ACK" if self.flags & ACK else "SYN"
        if self.flags & FIN:
            return "FIN"
        return "ACK"

    @property
    def end(self) -> int:
        """Sequence number behind the packet."""
        return (self.seq + len(self.payload) + bool(self.flags & SYN) + bool(self.flags & FIN)) & _MASK


def parse_tcp(packet: bytes) -> Tcp:
    """Read one TCP packet; raises ``struct.error`` or ``ValueError`` where it is not one."""
    if packet[0] >> 4 == 4:
        start, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
        source, destination, protocol = packet[12:16], packet[16:20], packet[9]
    else:
        start, total = 40, 40 + int.from_bytes(packet[4:6], "big")
        source, destination, protocol = packet[8:24], packet[24:40], packet[6]
    if protocol != 6 or total > len(packet):
        raise ValueError(f"protocol {protocol}, {total} bytes of {len(packet)}")
    sport, dport, seq, ack, offset, flags, window = struct.unpack_from("!HHIIBBH", packet, start)
    data = start + (offset >> 4) * 4
    return Tcp(
        (source, sport),
        (destination, dport),
        seq,
        ack,
        flags,
        window,
        packet[data:total],
        packet[start + 20 : data],
        packet[:total],
    )


def _sum16(data: bytes) -> int:
    """Ones' complement sum, 0 for a right checksum."""
    return int.from_bytes(data + b"\0" * (len(data) & 1), "big") % 0xFFFF


def before(a: int, b: int) -> bool:
    """The kernel's ``before``: the sign of the 32-bit difference."""
    return bool((a - b) & 0x8000_0000)


def after(a: int, b: int) -> bool:
    """The kernel's ``after``."""
    return before(b, a)


@dataclass
class Side:
    """``struct ip_ct_tcp_state``: what is known of one end."""

    end: int = 0
    max_end: int = 0
    max_window: int = 0
    max_ack: int | None = None
    scale: int | None = None
    """As its SYN offered it; 0 once it is known that the other end did not."""
    unacknowledged: bool = False

    def start(self, tcp: Tcp) -> None:
        """It begins with this SYN or SYN-ACK."""
        self.end = self.max_end = tcp.end
        self.max_window = max(tcp.window, 1)
        self.scale = _window_scale(tcp.options)


def _window_scale(options: bytes) -> int | None:
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        size = options[at + 1]
        if options[at] == 3 and size == 3:
            return min(options[at + 2], 14)
        at += max(size, 2)
    return None


@dataclass
class Connection:
    """One entry of the table."""

    original: Endpoint
    state: State
    expires: float
    sides: tuple[Side, Side] = field(default_factory=lambda: (Side(), Side()))
    closed_by: int | None = None
    """Who sent the first FIN."""
    last_kind: str = ""
    ignored_syn: Tcp | None = None
    """A SYN let through without believing it: the answer to it would show that both ends had started over."""
    started_over: bool = False


class Tracker:
    """The firewall's table; see the module."""

    def __init__(self) -> None:
        self._connections: dict[frozenset[Endpoint], Connection] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def state(self, one: Endpoint, other: Endpoint) -> State:
        """Of the connection between these two; ``NONE`` = there is none."""
        connection = self._connections.get(frozenset((one, other)))
        return connection.state if connection else State.NONE

    def judge(self, now: float, tcp: Tcp) -> str:
        """Why this packet is INVALID; the empty string where it is not."""
        if tcp.packet and not tcp.checksums:
            return "bad checksum"
        if tcp.flags & ~PSH not in _VALID_FLAGS:
            return f"invalid flag combination {tcp.flags:#x}"
        key = frozenset((tcp.source, tcp.destination))
        connection = self._connections.get(key)
        if connection is not None and connection.expires <= now:
            del self._connections[key]
            connection = None
        if connection is not None and tcp.kind == "SYN" and self._reopens(connection, tcp):
            connection = None
        if connection is None:
            if tcp.kind != "SYN":
                return f"{tcp.kind} of no connection"
            connection = Connection(tcp.source, State.SYN_SENT, now + _TIMEOUT[State.SYN_SENT])
            connection.sides[_ORIGINAL].start(tcp)
            self._connections[key] = connection
            return ""
        return _packet(connection, now, tcp)

    @staticmethod
    def _reopens(connection: Connection, tcp: Tcp) -> bool:
        """RFC 1122 section 4.2.2.13: a SYN after a connection that is over starts a new one."""
        if connection.original != tcp.source or connection.state not in (State.TIME_WAIT, State.CLOSE):
            return False
        return connection.closed_by is not None or connection.last_kind == "RST"


def _packet(connection: Connection, now: float, tcp: Tcp) -> str:
    direction = _ORIGINAL if tcp.source == connection.original else _REPLY
    old, kind = connection.state, tcp.kind
    new = _TABLE[direction, kind][old]
    if new is State.INVALID:
        return f"{kind} in state {old.name}"
    if new is State.IGNORE or (new is State.SYN_SENT and old in (State.TIME_WAIT, State.CLOSE)):
        syn = connection.ignored_syn
        connection.last_kind, connection.ignored_syn = kind, tcp if kind == "SYN" else None
        if kind != "SYN-ACK" or direction != _REPLY or syn is None or tcp.ack != syn.end:
            return ""
        connection.sides = (Side(), Side())
        connection.sides[_ORIGINAL].start(syn)
        connection.started_over = True
        new = State.SYN_RECV
    other = connection.sides[1 - direction]
    if kind == "RST" and other.max_ack is not None and before(tcp.seq, other.max_ack):
        return RST_TOO_OLD
    if reason := _in_window(connection, direction, tcp):
        return reason + (STARTED_OVER if connection.started_over else "")
    connection.last_kind, connection.ignored_syn = kind, None
    connection.state = new
    if new is State.FIN_WAIT and old is not new:
        connection.closed_by = direction
    lifetime = _TIMEOUT[new]
    if any(side.unacknowledged for side in connection.sides):
        lifetime = min(lifetime, _UNACKNOWLEDGED)
    connection.expires = now + lifetime
    return ""


def _in_window(connection: Connection, direction: int, tcp: Tcp) -> str:
    """The four bounds."""
    sender, receiver = connection.sides[direction], connection.sides[1 - direction]
    seq, end, ack = tcp.seq, tcp.end, tcp.ack
    if sender.max_window == 0:
        sender.start(tcp)
        if sender.scale is None or receiver.scale is None:
            sender.scale = receiver.scale = 0
    elif tcp.flags & SYN and after(end, sender.end):
        sender.start(tcp)  # a SYN again, with another number
    if not tcp.flags & ACK or (tcp.flags & RST and ack == 0):
        ack = receiver.end
    if seq == end and not tcp.flags & RST:
        end = sender.end  # no data: before 6.1 only the ACK was looked at, since then the upper bound of SEQ too
    if after(seq, sender.max_end):
        return f"SEQ over the window of the receiver by {(seq - sender.max_end) & _MASK}"
    if before(end, (sender.end - receiver.max_window) & _MASK):
        return "SEQ of data acknowledged long ago"
    if after(ack, receiver.end):
        return f"ACK of data not seen yet, by {(ack - receiver.end) & _MASK}"
    if before(ack, (receiver.end - max(sender.max_window, _MAX_ACK_WINDOW)) & _MASK):
        return "ACK overly delayed"
    _learn(sender, receiver, tcp, end, ack)
    return ""


def _learn(sender: Side, receiver: Side, tcp: Tcp, end: int, ack: int) -> None:
    """What a packet within the bounds says of both ends."""
    window = tcp.window if tcp.flags & SYN else tcp.window << (sender.scale or 0)
    sender.max_window = max(sender.max_window, window)
    if after(end, sender.end):
        sender.end, sender.unacknowledged = end, True
    if tcp.flags & ACK and (sender.max_ack is None or after(ack, sender.max_ack)):
        sender.max_ack = ack
    if receiver.max_window and after(end, sender.max_end):
        receiver.max_window += (end - sender.max_end) & _MASK
    if not before((ack + window) & _MASK, receiver.max_end):
        receiver.max_end = (ack + max(window, 1)) & _MASK
    if ack == receiver.end:
        receiver.unacknowledged = False
