"""Whatever a read returns: packets, or counted truncation, never an exception."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.link.bsd.abi import Abi, aligned, load
from rsock_nf.link.bsd.bpf_buffer import BufferReader
from rsock_nf.link.bsd.bpf_device import BpfLink, checksum_state
from tests.link.bsd.packets import AT_SERVER
from tests.link.bsd.simulated import KERNELS, LINK_BYTES, SimulatedBpf, SocketWire

ABIS = st.sampled_from([load(system) for system in KERNELS] + [load("freebsd", "i386"), load("netbsd", "arm")])


def header(abi: Abi, length: int, captured: int, original: int) -> bytes:
    made = bytearray(length)
    struct.pack_into("=I", made, abi["offsetof(struct bpf_hdr, bh_caplen)"], captured)
    struct.pack_into("=I", made, abi["offsetof(struct bpf_hdr, bh_datalen)"], original)
    struct.pack_into("=H", made, abi["offsetof(struct bpf_hdr, bh_hdrlen)"], length)
    return bytes(made)


@given(ABIS, st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 40), st.integers(0, 1))), st.data())
def test_what_a_kernel_lays_out_is_found_again(
    abi: Abi, records: list[tuple[bytes, int, int]], data: st.DataObject
) -> None:
    buffer = b""
    for packet, padding, cut_off in records:
        begin = header(abi, 32 + padding, len(packet), len(packet) + cut_off)
        buffer += b"\xa5" * (aligned(len(buffer), abi["BPF_WORDALIGN(1)"]) - len(buffer)) + begin + packet
    found, truncated = BufferReader(abi).packets(buffer)
    assert [bytes(view) for view in found] == [packet for packet, _, cut_off in records if not cut_off]
    assert truncated == sum(cut_off for _, _, cut_off in records)
    # A buffer that ends early gives the packets before, and one more that is not whole.
    if buffer:
        shorter, _ = BufferReader(abi).packets(buffer[: data.draw(st.integers(0, len(buffer) - 1))])
        assert [bytes(view) for view in shorter] == [bytes(view) for view in found[: len(shorter)]]


@given(ABIS, st.binary(max_size=600))
def test_any_bytes_are_packets_or_truncation(abi: Abi, buffer: bytes) -> None:
    found, truncated = BufferReader(abi).packets(buffer)
    assert sum(map(len, found)) <= len(buffer)
    assert truncated <= len(buffer)
    assert bool(found) or bool(truncated) or not buffer


@pytest.mark.parametrize("dlt", LINK_BYTES)
@given(system=st.sampled_from(sorted(KERNELS)), buffer=st.binary(max_size=600))
def test_the_link_survives_any_read(dlt: str, system: str, buffer: bytes) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    kernel = SimulatedBpf(system, SocketWire(near), dlt=dlt)
    link = BpfLink("em0", AT_SERVER, abi=system, syscalls=kernel)
    try:
        kernel._devices[link.fileno()].hold = buffer
        packets = link.receive(64)
        assert all(len(packet.data) >= 20 for packet in packets)
        assert bool(packets) or link.counters().truncated > 0 or not buffer
        assert link.events() == []
    finally:
        link.close()
        near.close()
        far.close()


@given(st.binary(min_size=20, max_size=100), st.integers(576, 9000))
def test_any_packet_has_a_checksum_state(packet: bytes, mtu: int) -> None:
    checksum_state(packet, mtu)
