"""Control messages as bytes."""

import dataclasses
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core import messages
from rsock_nf.core.types import Malformed
from rsock_nf.wire.native.control import build_control, parse_control
from rsock_nf.wire.native.rekeying import Rekey, Rekeyed, RekeyWanted

u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
Message: TypeAlias = messages.Control | Rekey | Rekeyed | RekeyWanted
keys = st.binary(min_size=32, max_size=32)
MESSAGES: dict[int, st.SearchStrategy[Message]] = {
    1: st.just(messages.Ready()),
    2: st.builds(messages.Probe, u32),
    3: st.builds(messages.ProbeAnswer, u32, u32, u32),
    4: st.builds(messages.FlowDown, u32),
    5: st.just(messages.CloseFlow()),
    6: st.builds(messages.Opened, u16),
    7: st.builds(messages.CloseConversation, u16),
    8: st.builds(messages.Refused, u16, u8),
    9: st.just(messages.CloseSession()),
    10: st.builds(Rekey, u32, keys),
    11: st.builds(Rekeyed, u32, keys),
    12: st.just(RekeyWanted()),
    13: st.builds(messages.TargetState, u16, u8),
    14: st.builds(messages.SeenAs, st.binary(min_size=16, max_size=16), u16),
}
SIZES = {1: 1, 2: 5, 3: 13, 4: 5, 5: 1, 6: 3, 7: 3, 8: 4, 9: 1, 10: 37, 11: 37, 12: 1, 13: 4, 14: 19}
any_message = st.one_of(*MESSAGES.values())


def test_every_message_is_tested() -> None:
    assert len(MESSAGES) == len((*messages.Control.__args__, Rekey, Rekeyed, RekeyWanted))


@given(st.sampled_from(sorted(MESSAGES)).flatmap(lambda code: st.tuples(st.just(code), MESSAGES[code])))
def test_type_byte_and_size_are_those_of_the_document(coded: tuple[int, Message]) -> None:
    code, message = coded
    body = build_control(message)
    assert (body[0], len(body)) == (code, SIZES[code])


@given(any_message, st.binary(max_size=50))
def test_message_survives_its_bytes_and_what_is_behind_them(message: Message, padding: bytes) -> None:
    expected = dataclasses.replace(message, padding=len(padding)) if isinstance(message, messages.Probe) else message
    assert parse_control(build_control(message) + padding) == expected


@given(any_message)
def test_message_in_a_memoryview(message: Message) -> None:
    assert parse_control(memoryview(build_control(message))) == message


@given(u32, st.integers(0, 1500))
def test_probe_padding_is_zeros_behind_the_number(number: int, padding: int) -> None:
    body = build_control(messages.Probe(number, padding))
    assert body == b"\2" + number.to_bytes(4, "big") + bytes(padding)
    assert parse_control(body) == messages.Probe(number, padding)


@given(any_message)
def test_every_cut_is_malformed(message: Message) -> None:
    body = build_control(message)
    for size in range(len(body)):
        with pytest.raises(Malformed):
            parse_control(body[:size])


@given(st.integers(0, 255).filter(lambda code: code not in MESSAGES), st.binary(max_size=20))
def test_unknown_type_is_malformed(code: int, rest: bytes) -> None:
    with pytest.raises(Malformed, match=f"unknown type {code}"):
        parse_control(bytes((code,)) + rest)


@given(st.binary(max_size=64))
def test_any_bytes_parse_or_are_malformed(body: bytes) -> None:
    try:
        message = parse_control(body)
    except Malformed:
        return
    if isinstance(message, messages.Probe):
        message = messages.Probe(message.number)  # what it is padded with does not matter
    built = build_control(message)
    assert body[: len(built)] == built
