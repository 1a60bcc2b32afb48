"""Laws of sequence arithmetic, for all numbers."""

from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core import seq

numbers = st.integers(0, seq.MASK)
near = st.integers(-(seq.HALF - 1), seq.HALF - 1)


@given(numbers, near)
def test_diff_undoes_add(a: int, n: int) -> None:
    assert seq.diff(seq.add(a, n), a) == n


@given(numbers, numbers)
def test_add_undoes_diff(a: int, b: int) -> None:
    assert seq.add(b, seq.diff(a, b)) == a


@given(numbers, near)
def test_order_is_the_sign_of_the_distance(a: int, n: int) -> None:
    b = seq.add(a, n)
    assert seq.lt(a, b) == (n > 0)
    assert seq.le(a, b) == (n >= 0)
    assert seq.gt(a, b) == (n < 0)
    assert seq.ge(a, b) == (n <= 0)


@given(numbers, numbers, numbers)
def test_order_does_not_depend_on_the_origin(a: int, b: int, shift: int) -> None:
    assert seq.lt(a, b) == seq.lt(seq.add(a, shift), seq.add(b, shift))
    assert seq.diff(a, b) == seq.diff(seq.add(a, shift), seq.add(b, shift))


@given(numbers, st.integers(0, seq.HALF - 1), st.integers(-100_000, 100_000))
def test_window_is_between_start_and_end(start: int, size: int, distance: int) -> None:
    assert seq.in_window(seq.add(start, distance), start, size) == (0 <= distance < size)
    near_end = seq.add(start, size + distance)
    assert seq.in_window(near_end, start, size) == (0 <= size + distance < size)
