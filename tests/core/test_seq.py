"""Sequence arithmetic at the points where it wraps."""

import pytest

from rsock_nf.core import seq


@pytest.mark.parametrize(
    ("a", "n", "result"),
    [(0, 1, 1), (0xFFFF_FFFF, 1, 0), (0, -1, 0xFFFF_FFFF), (0xFFFF_FF00, 0x200, 0x100), (5, 1 << 32, 5)],
)
def test_add_wraps(a: int, n: int, result: int) -> None:
    assert seq.add(a, n) == result


@pytest.mark.parametrize(
    ("a", "b", "result"),
    [
        (1, 0, 1),
        (0, 1, -1),
        (0, 0xFFFF_FFFF, 1),
        (0xFFFF_FFFF, 0, -1),
        (seq.HALF - 1, 0, seq.HALF - 1),
        (seq.HALF, 0, -seq.HALF),
    ],
)
def test_diff_is_signed(a: int, b: int, result: int) -> None:
    assert seq.diff(a, b) == result


def test_order_across_the_wrap() -> None:
    assert seq.lt(0xFFFF_FFF0, 0x10)
    assert seq.le(0xFFFF_FFF0, 0x10)
    assert seq.gt(0x10, 0xFFFF_FFF0)
    assert seq.ge(0x10, 0xFFFF_FFF0)
    assert not seq.lt(0x10, 0xFFFF_FFF0)


def test_numbers_half_a_space_apart_have_no_order() -> None:
    for a, b in ((0, seq.HALF), (seq.HALF, 0)):
        assert not seq.lt(a, b)
        assert not seq.gt(a, b)
        assert not seq.le(a, b)
        assert not seq.ge(a, b)


def test_window_across_the_wrap() -> None:
    assert [n for n in (0xFFFF_FFFD, 0xFFFF_FFFE, 0xFFFF_FFFF, 0, 1, 2) if seq.in_window(n, 0xFFFF_FFFE, 4)] == [
        0xFFFF_FFFE,
        0xFFFF_FFFF,
        0,
        1,
    ]
    assert not seq.in_window(7, 7, 0)
    assert seq.in_window(6, 7, 1 << 32)
