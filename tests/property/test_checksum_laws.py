"""The checksum equals the loop of RFC 1071 and scapy's."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import checksum as scapy_checksum

from rsock_nf.core.tcp.checksum import checksum, fold, ones_sum, pseudo_header_sum

# Long runs of 00 and ff are where the two zeros of ones' complement are.
data = st.one_of(
    st.binary(max_size=4096),
    st.lists(st.sampled_from([b"\x00\x00", b"\xff\xff", b"\xff", b"\x00\x01", b"\xff\xfe"]), max_size=64).map(b"".join),
)


def rfc_1071_sum(octets: bytes) -> int:
    """RFC 1071 section 4.1, without the final complement."""
    total = 0
    for i in range(0, len(octets) - 1, 2):
        total += octets[i] << 8 | octets[i + 1]
    if len(octets) % 2:
        total += octets[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(data)
def test_equals_the_loop(octets: bytes) -> None:
    assert ones_sum(octets) == rfc_1071_sum(octets)
    assert ones_sum(memoryview(bytearray(octets))) == rfc_1071_sum(octets)


@given(data)
def test_equals_scapy(octets: bytes) -> None:
    assert checksum(octets) == scapy_checksum(octets)


@given(data)
def test_data_with_its_checksum_sums_to_ones(octets: bytes) -> None:
    even = octets + bytes(len(octets) % 2)
    assert ones_sum(even + checksum(even).to_bytes(2, "big")) == 0xFFFF


@given(data, data)
def test_sums_of_pieces_add_up(first: bytes, second: bytes) -> None:
    even = first + bytes(len(first) % 2)
    assert fold(ones_sum(even) + ones_sum(second)) == ones_sum(even + second)


addresses = st.sampled_from([4, 16]).flatmap(
    lambda size: st.tuples(st.binary(min_size=size, max_size=size), st.binary(min_size=size, max_size=size))
)


@given(addresses, st.integers(0, 65535), st.sampled_from([6, 17, 58]))
def test_pseudo_header_equals_its_bytes(pair: tuple[bytes, bytes], length: int, protocol: int) -> None:
    src, dst = pair
    layout = src + dst + length.to_bytes(4, "big") + protocol.to_bytes(4, "big")
    assert pseudo_header_sum(src, dst, length, protocol) == rfc_1071_sum(layout)
