"""Who sends most, in sixteen counters."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core.ends.top_sources import COUNTERS, Source, TopSources

streams = st.lists(st.integers(0, 40).map(lambda number: bytes([10, 0, 0, number])), max_size=400)


def note_all(stream: list[bytes]) -> TopSources:
    top = TopSources()
    for now, address in enumerate(stream):
        top.note(float(now), address)
    return top


@given(streams)
def test_counts_are_never_too_high_and_who_sends_much_is_there(stream: list[bytes]) -> None:
    true, found = Counter(stream), {source.address: source.payloads for source in note_all(stream).top()}
    assert len(found) <= COUNTERS
    assert all(count <= true[address] for address, count in found.items())
    assert {address for address, count in true.items() if count > len(stream) / (COUNTERS + 1)} <= found.keys()


def test_a_flood_of_forged_addresses_hides_no_constant_source() -> None:
    forged = (number.to_bytes(4, "big") for number in range(10_000))
    stream = [address for one in forged for address in (one, b"\xc0\x00\x02\x01")]
    assert note_all(stream).top()[0].address == b"\xc0\x00\x02\x01"


def test_who_comes_late_and_sends_much_gets_a_counter() -> None:
    early = [bytes([10, 0, 0, number]) for number in range(COUNTERS)] * 5
    assert note_all([*early, *[b"late"] * 100]).top()[0] == Source(b"late", 95)


def test_few_sources_are_counted_exactly_and_the_largest_comes_first() -> None:
    top = note_all([b"aaaa", b"bbbb", b"bbbb"])
    assert top.top() == [Source(b"bbbb", 2), Source(b"aaaa", 1)]
    assert top.last == 2.0
    assert TopSources().last is None


@given(streams, streams)
def test_those_of_two_wires_are_told_together(one: list[bytes], two: list[bytes]) -> None:
    merged = note_all(one).merged(note_all(two))
    true = Counter(one) + Counter(two)
    assert len(merged.top()) <= COUNTERS
    assert all(source.payloads <= true[source.address] for source in merged.top())
    assert merged.last == (max(len(one), len(two)) - 1.0 if one or two else None)
