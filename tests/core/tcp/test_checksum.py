"""The Internet checksum against published examples and its two zeros."""

from rsock_nf.core.tcp.checksum import checksum, fold, ones_sum, pseudo_header_sum


def test_example_of_rfc_1071() -> None:
    """Section 3: 0001 f203 f4f5 f6f7 sum up to ddf2."""
    assert ones_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D


def test_the_two_zeros() -> None:
    assert ones_sum(bytes(20)) == 0
    assert ones_sum(b"\xff\xff") == 0xFFFF
    assert ones_sum(b"\xff\xff\xff\xff") == 0xFFFF
    assert ones_sum(b"\x12\x34\xed\xcb") == 0xFFFF
    assert ones_sum(b"") == 0


def test_odd_data_is_padded_with_zero() -> None:
    assert ones_sum(b"\x01") == 0x0100
    assert ones_sum(memoryview(b"\xff\xff\x01")) == 0x0100


def test_fold_carries_around() -> None:
    assert fold(0) == 0
    assert fold(0xFFFF) == 0xFFFF
    assert fold(0x1_0000) == 1
    assert fold(0x2_FFFD) == 0xFFFF


def test_pseudo_header() -> None:
    assert pseudo_header_sum(bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), 20) == 0x0A00 + 1 + 0x0A00 + 2 + 20 + 6
    assert pseudo_header_sum(bytes(15) + b"\x01", bytes(15) + b"\x02", 8, 58) == 1 + 2 + 8 + 58
