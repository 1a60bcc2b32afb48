"""Datagrams that are packets of this tunnel itself are found, and nothing else is."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from rsock_nf.core.types import Buffer, PortRange, Run
from rsock_nf.runtime.host.loop_guard import LoopGuard

PORTS = (PortRange(10001, 10010),)
OURS = {4: ip_address("192.0.2.10"), 6: ip_address("2001:db8::10")}
SERVER = {4: ip_address("203.0.113.5"), 6: ip_address("2001:db8:1::5")}


def inner(version: int, port: int = 10003) -> bytes:
    """A TCP or UDP packet of ours toward the server, as a VPN without encryption carries it."""
    source, destination = OURS[version].packed, SERVER[version].packed
    ports = struct.pack("!HH", 40000, port) + bytes(16)
    if version == 4:
        return struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 64, 6, 0) + source + destination + ports
    return struct.pack("!IHBB", 6 << 28, 20, 6, 64) + source + destination + ports


@pytest.fixture
def guard() -> LoopGuard:
    made = LoopGuard(PORTS)
    made.watch(OURS[version].packed + SERVER[version].packed for version in (4, 6))
    return made


def run(*datagrams: bytes, peer: str = "app") -> Run:
    views: list[Buffer] = [memoryview(datagram) for datagram in datagrams]
    return Run(peer, views, len(datagrams[0]))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("header", [b"", b"\0\0\0\1", bytes(60)])
def test_our_own_packet_is_dropped_and_counted(guard: LoopGuard, version: int, header: bytes) -> None:
    other = run(b"something else", peer="other")
    assert guard.sift([run(header + inner(version)), other]) == [other]
    assert guard.dropped == 1


def test_of_a_run_only_our_own_packets_are_dropped(guard: LoopGuard) -> None:
    (left,) = guard.sift([run(b"x" * 40, inner(4), b"y" * 40, inner(4))])
    assert [bytes(datagram) for datagram in left.datagrams] == [b"x" * 40, b"y" * 40]
    assert guard.dropped == 2


@pytest.mark.parametrize("datagram", [inner(4, port=443), inner(4)[:18], b"", bytes(1400)])
def test_what_is_not_ours_passes(guard: LoopGuard, datagram: bytes) -> None:
    runs = [run(datagram)]
    assert guard.sift(runs) == runs
    assert guard.dropped == 0


def test_other_addresses_pass(guard: LoopGuard) -> None:
    guard.watch([IPv4Address("198.51.100.1").packed + SERVER[4].packed, IPv6Address("::1").packed + SERVER[6].packed])
    assert len(guard.sift([run(inner(4)), run(inner(6))])) == 2


def test_without_a_vpn_nothing_is_looked_at(guard: LoopGuard) -> None:
    guard.watch(())
    runs = [run(inner(4))]
    assert guard.sift(runs) is runs
