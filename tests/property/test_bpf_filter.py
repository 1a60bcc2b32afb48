"""The filter program against three judges: our interpreter, the kernel's machine, and libpcap's answer to the same
question."""

from __future__ import annotations

import ctypes
import random
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core.types import IPAddress, PortRange, Shard
from rsock_nf.link import Match, PortSide
from rsock_nf.link.bpf_filter import ETHERNET, RAW_IP, Layout, encode, null_layout, program
from rsock_nf.link.cbpf import GOTO, JEQ, JSET, RET, Assembler, Instruction
from rsock_nf.link.linux.tap_filter import (
    HARDWARE_TYPE,
    INTERFACE,
    PACKET_TYPE,
    VLAN_TAG,
    VLAN_TAG_PRESENT,
    tap_program,
)
from tests.property.cbpf_interpreter import interpret

SO_ATTACH_FILTER = 26
V4 = tuple(ip_address(a) for a in ("192.0.2.1", "192.0.2.2", "198.51.100.7"))
V6 = tuple(ip_address(a) for a in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "fe80::1"))
STRANGERS = tuple(ip_address(a) for a in ("192.0.2.3", "10.0.0.1", "2001:db8::3", "2001:db9::1", "fe80::2"))


# -- judges ---------------------------------------------------------------------------------------


class Kernel:
    """The kernel's own machine: a filter on one end of a socketpair decides what arrives there."""

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        code = ctypes.create_string_buffer(encode(instructions))
        fprog = struct.pack("HL", len(instructions), ctypes.addressof(code))
        self.far.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
        self.far.setblocking(False)

    def accepts(self, packet: bytes) -> bool:
        self.near.send(packet)
        try:
            return self.far.recv(65535) == packet
        except BlockingIOError:
            return False

    def close(self) -> None:
        self.near.close()
        self.far.close()


class _BpfProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


class _PcapHeader(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("captured", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
    )


class LibPcap:
    """libpcap's compiler and interpreter; ``linktype`` 1 is Ethernet, 12 raw IP."""

    def __init__(self, expression: str, linktype: int) -> None:
        self.lib = ctypes.CDLL("libpcap.so.0.8")
        self.lib.pcap_open_dead.restype = ctypes.c_void_p
        self.lib.pcap_geterr.restype = ctypes.c_char_p
        self.lib.pcap_geterr.argtypes = (ctypes.c_void_p,)
        self.lib.pcap_close.argtypes = (ctypes.c_void_p,)
        self.lib.pcap_compile.argtypes = (
            ctypes.c_void_p,
            ctypes.POINTER(_BpfProgram),
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_uint32,
        )
        self.handle = self.lib.pcap_open_dead(linktype, 262144)
        self.program = _BpfProgram()
        optimize = 0  # it takes as long again, and what an oracle says should rest on as little code as may be
        if self.lib.pcap_compile(self.handle, ctypes.byref(self.program), expression.encode(), optimize, 0xFFFFFFFF):
            raise AssertionError(self.lib.pcap_geterr(self.handle).decode())

    def accepts(self, packet: bytes) -> bool:
        header = _PcapHeader(0, 0, len(packet), len(packet))
        answer: int = self.lib.pcap_offline_filter(ctypes.byref(self.program), ctypes.byref(header), packet)
        return answer != 0

    def close(self) -> None:
        self.lib.pcap_freecode(ctypes.byref(self.program))
        self.lib.pcap_close(self.handle)


def any_of(clauses: Sequence[str]) -> str:
    return "(" + " or ".join(clauses) + ")"


def expression(match: Match) -> str:
    """The same question in pcap-filter(7)'s language."""
    ours, theirs = ("dst", "src") if match.side is PortSide.DESTINATION else ("src", "dst")
    port, quoted_port = (2, 0) if ours == "dst" else (0, 2)

    def ports(value: str) -> str:
        return any_of([f"({value} >= {r.first} and {value} <= {r.last})" for r in match.ports])

    def quoted(base: str, offset: int, address: IPAddress) -> str:
        raw = address.packed
        words = range(0, len(raw), 4)
        same = (f"{base}[{offset + i}:4] = {int.from_bytes(raw[i : i + 4], 'big')}" for i in words)
        return f"({' and '.join(same)})"  # "and" and "or" have the same precedence there

    clauses = []
    if v4 := [a for a in match.addresses if isinstance(a, IPv4Address)]:
        at = 8 + (12 if theirs == "src" else 16)
        clauses.append(
            "(ip and ip[6:2] & 0x3fff = 0 and ("
            f"(tcp and {any_of([f'{ours} host {a}' for a in v4])} and {ports(f'tcp[{port}:2]')}) or "
            "(icmp and icmp[0:2] = 0x0304 and icmp[14:2] & 0x3fff = 0 and icmp[17] = 6 and "
            f"{any_of([quoted('icmp', at, a) for a in v4])} and "
            f"{ports(f'icmp[8 + {quoted_port} + ((icmp[8] & 15) << 2) : 2]')})))"
        )
    if v6 := [a for a in match.addresses if isinstance(a, IPv6Address)]:
        at = 48 + (8 if theirs == "src" else 24)
        clauses.append(
            f"(ip6 and ((ip6[6] = 6 and {any_of([f'{ours} host {a}' for a in v6])} and {ports(f'ip6[{40 + port}:2]')}) or "
            f"(ip6[6] = 58 and ip6[40] = 2 and ip6[54] = 6 and {any_of([quoted('ip6', at, a) for a in v6])} and "
            f"{ports(f'ip6[{88 + quoted_port}:2]')})))"
        )
    return " or ".join(clauses)


# -- packets near the edge of the question ----------------------------------------------------------


class Packets:
    """Random packets, most of them one detail away from being accepted or refused."""

    def __init__(self, rng: random.Random, match: Match) -> None:
        self.rng = rng
        edges = {r.first + d for r in match.ports for d in (-1, 0)} | {r.last + d for r in match.ports for d in (0, 1)}
        self.ports = sorted(p for p in edges if 0 <= p < 65536)

    def port(self) -> int:
        return self.rng.choice(self.ports) if self.rng.random() < 0.8 else self.rng.randrange(65536)

    def address(self, version: int) -> bytes:
        pool = (V4 if version == 4 else V6) * 2 + tuple(a for a in STRANGERS if a.version == version)
        return self.rng.choice(pool).packed

    def tcp(self) -> bytes:
        return struct.pack("!HH", self.port(), self.port()) + self.rng.randbytes(self.rng.choice((0, 4, 16, 30)))

    def ip(self, version: int, protocol: int, payload: bytes) -> bytes:
        rng = self.rng
        source, destination = self.address(version), self.address(version)
        if version == 6:
            return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + source + destination + payload
        options = rng.randbytes(4 * rng.choice((0, 0, 0, 1, 10)))
        fragment = rng.choice((0x4000, 0x4000, 0x4000, 0, 0x2000, 0x0001, 0x1FFF, 0x8000))
        words = 5 + len(options) // 4
        head = struct.pack("!BBHHHBBH", 4 << 4 | words, 0, 4 * words + len(payload), 1, fragment, 64, protocol, 0)
        return head + source + destination + options + payload

    def icmp(self, version: int) -> bytes:
        rng = self.rng
        kind = (
            rng.choice(((3, 4), (3, 4), (3, 4), (3, 3), (11, 4))) if version == 4 else (rng.choice((2, 2, 2, 1, 3)), 0)
        )
        return bytes(kind) + bytes(6) + self.ip(version, rng.choice((6, 6, 6, 17)), self.tcp())

    def packet(self) -> bytes:
        version = self.rng.choice((4, 6))
        icmp = 1 if version == 4 else 58
        protocol = self.rng.choice((6, 6, 6, icmp, icmp, icmp, 17, 1, 58))
        payload = self.icmp(version) if protocol == icmp else self.tcp()
        packet = self.ip(version, protocol, payload)
        return packet[: self.rng.randrange(20, len(packet) + 1)] if self.rng.random() < 0.15 else packet


def framed(packet: bytes, layout: Layout) -> bytes:
    version = packet[0] >> 4
    if layout is ETHERNET:
        return bytes(12) + (b"\x08\x00" if version == 4 else b"\x86\xdd") + packet
    if layout is RAW_IP:
        return packet
    return struct.pack("=I", 2 if version == 4 else 30) + packet


def a_match(rng: random.Random, ranges: int, side: PortSide) -> Match:
    ends = sorted(rng.sample(range(1, 65536), 2 * ranges))
    ports = [PortRange(first, last) for first, last in zip(ends[::2], ends[1::2], strict=True)]
    ports[-1] = PortRange(ports[-1].first, ports[-1].first)
    rng.shuffle(ports)
    addresses = rng.choice((V4 + V6, V4[:1], V6[:1], V6, V4[:1] + V6[:1]))
    return Match(side, addresses, tuple(ports))


CASES = [(n, side) for n in (1, 2, 10, 31, 33, 70, 300) for side in PortSide]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1].value}")
def match(request: pytest.FixtureRequest) -> Match:
    ranges, side = request.param
    return a_match(random.Random(f"{ranges}{side}"), ranges, side)


def verdicts(judge: Callable[[bytes], bool], match: Match, layout: Layout, count: int) -> Iterator[tuple[bytes, bool]]:
    packets = Packets(random.Random(str(match)), match)
    for _ in range(count):
        frame = framed(packets.packet(), layout)
        yield frame, judge(frame)


@pytest.mark.parametrize("layout", [ETHERNET, RAW_IP], ids=["ethernet", "raw"])
def test_kernel_and_interpreter_agree(match: Match, layout: Layout) -> None:
    instructions = program(match, layout)
    kernel = Kernel(instructions)
    try:
        for frame, accepted in verdicts(kernel.accepts, match, layout, 1500):
            assert bool(interpret(instructions, frame)) == accepted, frame.hex()
    finally:
        kernel.close()


@pytest.mark.parametrize(("layout", "linktype"), [(ETHERNET, 1), (RAW_IP, 12)], ids=["ethernet", "raw"])
def test_libpcap_and_interpreter_agree(match: Match, layout: Layout, linktype: int) -> None:
    instructions = program(match, layout)
    pcap = LibPcap(expression(match), linktype)
    accepted_count = 0
    try:
        for frame, accepted in verdicts(pcap.accepts, match, layout, 1500):
            accepted_count += accepted
            assert bool(interpret(instructions, frame)) == accepted, frame.hex()
    finally:
        pcap.close()
    assert 10 <= accepted_count <= 1400


LINK_TYPES = {1: ETHERNET, 772: ETHERNET, 512: RAW_IP, 519: RAW_IP, 65534: RAW_IP, 801: None}
"""ARPHRD_*, and where the IP packet is; None = a kind that is not supported."""


@pytest.mark.parametrize("only", [0, 5])
def test_a_tap_on_every_device_takes_each_packet_once(match: Match, only: int) -> None:
    """What the kernel knows of a packet decides first, and then what every tap's filter says."""
    hidden = [] if only else [3, 4, *range(100, 400)]
    tap = tap_program(match, only=only, hidden=hidden)
    plain = {layout: program(match, layout) for layout in (ETHERNET, RAW_IP)}
    rng = random.Random(f"{match}{only}")
    packets = Packets(rng, match)
    taken = 0
    for _ in range(1500):
        packet = packets.packet()
        link_type = rng.choice((1,) * 9 + tuple(LINK_TYPES))
        kind, vlan, device = (
            rng.choice((0,) * 9 + (1, 3, 4)),
            rng.choice((0,) * 9 + (100, 0x2000)),
            rng.choice((5,) * 9 + (1, 3, 150)),
        )
        tagged = int(vlan > 0 and rng.random() < 0.8)  # else it was taken out, and can still be read
        known = {
            PACKET_TYPE: kind,
            VLAN_TAG: vlan,
            VLAN_TAG_PRESENT: tagged,
            INTERFACE: device,
            HARDWARE_TYPE: link_type,
        }
        layout = LINK_TYPES[link_type]
        frame = framed(packet, layout or ETHERNET)
        ours = kind == 0 and not (tagged and vlan & 0xFFF) and (device == only if only else device not in hidden)
        expected = interpret(plain[layout], frame) if ours and layout else 0
        ancillary = {offset & 0xFFFFFFFF: value for offset, value in known.items()}
        assert interpret(tap, frame, ancillary) == expected, (known, frame.hex())
        taken += bool(expected)
    assert taken >= 3


def test_a_server_with_many_addresses_takes_any_of_this_host() -> None:
    tap = tap_program(Match(PortSide.DESTINATION, (), (PortRange(10001, 10010),)))
    known = {PACKET_TYPE: 0, VLAN_TAG: 0, VLAN_TAG_PRESENT: 0, INTERFACE: 5, HARDWARE_TYPE: 1}
    ancillary = {offset & 0xFFFFFFFF: value for offset, value in known.items()}
    tcp = struct.pack("!HH", 40000, 10001) + bytes(16)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 64, 6, 0)
    for address in (*V4, *STRANGERS):
        if address.version == 4:
            frame = framed(head + V4[0].packed + address.packed + tcp, ETHERNET)
            assert interpret(tap, frame, ancillary)
    assert len(tap) < 150
    with pytest.raises(ValueError, match="at least one address"):
        tap_program(Match(PortSide.SOURCE, (), (PortRange(10001, 10010),)))


@pytest.mark.parametrize("of", [2, 3, 16])
@pytest.mark.parametrize("layout", [ETHERNET, RAW_IP], ids=["ethernet", "raw"])
def test_each_packet_goes_to_the_process_that_has_our_port(match: Match, layout: Layout, of: int) -> None:
    """Our own port is the destination of a segment, and the source of one that ICMP quotes, on either end."""
    whole = program(match, layout)
    parts = [program(replace(match, shard=Shard(number, of)), layout) for number in range(of)]
    kernel = Kernel(parts[0])
    packets, taken = Packets(random.Random(f"{match}{of}"), match), 0
    try:
        for _ in range(1500):
            packet = packets.packet()
            frame = framed(packet, layout)
            found = [bool(interpret(part, frame)) for part in parts]
            assert kernel.accepts(frame) == found[0]
            port = own_port(packet) if interpret(whole, frame) else None
            assert found == [port is not None and port % of == number for number in range(of)], packet.hex()
            taken += any(found)
    finally:
        kernel.close()
    assert taken >= 3


def own_port(packet: bytes) -> int | None:
    """Of a packet that is ours; None = it was cut off before that."""
    header = (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40
    protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
    if protocol == 6:
        return None if len(packet) < header + 4 else int.from_bytes(packet[header + 2 : header + 4], "big")
    quoted = packet[header + 8 :]
    inner = (quoted[0] & 15) * 4 if quoted[0] >> 4 == 4 else 40
    return int.from_bytes(quoted[inner : inner + 2], "big")


def test_null_layout_is_the_raw_one_behind_four_bytes(match: Match) -> None:
    raw, null = program(match, RAW_IP), program(match, null_layout(30))
    packets = Packets(random.Random(1), match)
    for _ in range(500):
        packet = packets.packet()
        assert interpret(raw, packet) == interpret(null, framed(packet, null_layout(30)))


def test_many_ranges_fit() -> None:
    ports = tuple(PortRange(100 * n, 100 * n + 50) for n in range(1, 301))
    assert len(program(Match(PortSide.DESTINATION, V4 + V6, ports), ETHERNET)) < 800
    ten = program(Match(PortSide.DESTINATION, V4[:1] + V6[:1], ports[:10]), ETHERNET)
    assert len(ten) < 100


def test_overlapping_and_touching_ranges_are_merged() -> None:
    overlapping = (PortRange(5, 9), PortRange(1, 6), PortRange(10, 12), PortRange(2, 3))
    merged = Match(PortSide.SOURCE, V4, overlapping)
    assert program(merged, RAW_IP) == program(Match(PortSide.SOURCE, V4, (PortRange(1, 12),)), RAW_IP)


@pytest.mark.parametrize(("addresses", "ports"), [((), (PortRange(1, 2),)), (V4, ())])
def test_a_filter_for_nothing_is_refused(addresses: tuple[IPAddress, ...], ports: tuple[PortRange, ...]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        program(Match(PortSide.SOURCE, addresses, ports), ETHERNET)


# -- the assembler ----------------------------------------------------------------------------------


@given(st.integers(0, 700), st.integers(0, 700), st.booleans())
def test_jumps_of_any_distance(then: int, otherwise: int, equal: bool) -> None:  # noqa: FBT001
    asm = Assembler()
    asm.emit(0x20, 0)
    asm.branch(JEQ, 7, then="then", otherwise="otherwise")
    for label, distance, value in sorted((("then", then, 1), ("otherwise", otherwise, 2)), key=lambda e: e[1]):
        asm.goto(f"over {label}")
        for _ in range(distance):
            asm.emit(RET, 99)
        asm.label(label)
        asm.emit(RET, value)
        asm.label(f"over {label}")
    asm.emit(RET, 98)
    instructions = asm.assemble()
    assert all(max(i.jump_true, i.jump_false) <= 255 for i in instructions)
    assert interpret(instructions, (7 if equal else 8).to_bytes(4, "big")) == (1 if equal else 2)


def test_falling_through_skips_the_trampoline() -> None:
    asm = Assembler()
    asm.emit(0x20, 0)
    asm.branch(JSET, 1, then="far")
    for _ in range(300):
        asm.emit(0x20, 0)
    asm.emit(RET, 1)
    asm.label("far")
    asm.emit(RET, 2)
    instructions = asm.assemble()
    assert instructions[1:3] == [Instruction(JSET, 0, 1, 1), Instruction(GOTO, 0, 0, 301)]
    assert [interpret(instructions, bytes((0, 0, 0, bit))) for bit in (0, 1)] == [1, 2]


def test_assembler_refuses_what_the_machine_cannot_do() -> None:
    asm = Assembler()
    asm.label("start")
    asm.goto("start")
    with pytest.raises(ValueError, match="behind its jump"):
        asm.assemble()
    with pytest.raises(ValueError, match="twice"):
        asm.label("start")
    asm = Assembler()
    asm.goto("nowhere")
    with pytest.raises(ValueError, match="not defined"):
        asm.assemble()
    asm = Assembler()
    for _ in range(4097):
        asm.emit(RET, 0)
    with pytest.raises(ValueError, match="4097 instructions"):
        asm.assemble()
    with pytest.raises(ValueError, match="unknown instruction"):
        interpret([Instruction(0xFF, 0, 0, 0)], b"")
