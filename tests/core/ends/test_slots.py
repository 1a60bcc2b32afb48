"""Which port is dialled next, and how long a slot waits."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from rsock_nf.core.ends.slots import FAMILY_SILENT, FIRST_BACKOFF, MAX_BACKOFF, SILENT, STAGGER, URGENT, Slots
from rsock_nf.core.parameters import ClientParameters, Kinds
from rsock_nf.core.types import PortRange

SERVER = (ip_address("192.0.2.2"), ip_address("192.0.2.3"))


def middle(count: int) -> bytes:
    """Random bytes that give a jitter of nearly nothing."""
    return bytes([127]) * count


def slots(**changes: object) -> Slots:
    return Slots(ClientParameters(**{"server": SERVER[:1], **changes}), middle)  # type: ignore[arg-type]


def test_ports_are_spread_over_the_range_and_dialled_one_after_the_other() -> None:
    found = slots(ports=(PortRange(1000, 1099),), flows=4)
    assert [slot.port for slot in found] == [1000, 1025, 1050, 1075]
    assert [slot.stagger for slot in found] == [at * STAGGER for at in range(4)]


def test_with_both_kinds_each_port_has_a_slot_of_each() -> None:
    found = slots(ports=(PortRange(1000, 1001),), flows=2, kinds=Kinds.ALL)
    assert [(slot.port, slot.udp) for slot in found] == [(1000, False), (1000, True), (1001, False), (1001, True)]


def test_a_slot_waits_twice_as_long_after_each_failure() -> None:
    found = slots(flows=2)
    waits = [found.failed(found[1]) for _ in range(12)]
    assert waits[:4] == pytest.approx([FIRST_BACKOFF * 2**at for at in range(4)], rel=0.01)
    assert waits[-1] == pytest.approx(MAX_BACKOFF, rel=0.01)
    found.reset()
    assert found.failed(found[1]) == pytest.approx(FIRST_BACKOFF, rel=0.01)


def test_a_silent_port_gives_its_slot_to_the_next_spare_one() -> None:
    found = slots(ports=(PortRange(1000, 1002),), flows=1)
    (slot,) = found
    slot.unanswered = True
    tried = [slot.port]
    for _ in range(3):
        found.failed(slot)
        tried.append(slot.port)
    assert tried == [1000, 1001, 1002, 1000]


def test_a_silent_address_gives_way_to_the_next_once() -> None:
    found = slots(server=SERVER)
    assert found.remote_text == "192.0.2.2"
    found.sent(10.0)
    assert not found.pass_over(10.0 + SILENT - 0.1)
    assert found.pass_over(10.0 + SILENT)
    assert found.remote_text == "192.0.2.3"
    found.sent(20.0)
    assert not found.pass_over(30.0), "both had their turn"


def test_an_address_of_the_other_version_gets_its_turn_sooner() -> None:
    found = slots(server=(ip_address("fd00::2"), *SERVER))
    found.sent(10.0)
    assert not found.pass_over(10.0 + FAMILY_SILENT - 0.1)
    assert found.pass_over(10.0 + FAMILY_SILENT)
    found.sent(20.0)
    assert not found.pass_over(20.0 + FAMILY_SILENT)
    assert found.pass_over(20.0 + SILENT)


def test_an_address_that_the_server_no_longer_has_is_left_when_no_flow_is_up() -> None:
    found = slots(server=SERVER[:1])
    found.use_addresses([SERVER[1].packed])
    assert found.remote == SERVER[0].packed
    assert found.leave_old()
    assert found.remote == SERVER[1].packed
    assert not found.leave_old()


def test_an_address_that_answers_keeps_its_turn() -> None:
    found = slots(server=SERVER)
    found.sent(10.0)
    found.answered(found[0])
    assert not found.pass_over(100.0)


def test_while_datagrams_wait_a_slot_is_dialled_now_and_then() -> None:
    found = slots(flows=2)
    found.sent(10.0)
    found[0].failures = 3
    assert found.urgent(10.0 + URGENT - 0.1) is None
    assert found.urgent(10.0 + URGENT) is found[1]
    found[1].port_wanted = True
    assert found.urgent(10.0 + URGENT) is found[0]
