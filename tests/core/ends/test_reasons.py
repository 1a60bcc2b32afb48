"""Why nothing is carried: which words win over which."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from rsock_nf.core.ends.reasons import Reasons
from rsock_nf.core.ends.slots import MAX_BACKOFF, Slots
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.pump.state import FlowGroup

SERVER = (ip_address("192.0.2.2"), ip_address("192.0.2.3"))


class Group(FlowGroup):
    """With a flow, or without."""

    __slots__ = ()

    def up(self, *, flows: int) -> None:
        self.usable = [None] * flows  # type: ignore[list-item]


@pytest.fixture
def group() -> Group:
    return Group(None)


@pytest.fixture
def why(group: Group) -> Reasons:
    return Reasons(Slots(ClientParameters(server=SERVER), random.Random(1).randbytes), group)


def test_from_the_first_moment_to_the_first_flow(why: Reasons) -> None:
    assert why.text == "not started"
    why.dialling()
    assert why.text == why.nothing_heard == "dialling 192.0.2.2, no answer yet"
    why.silent_port(10_001)
    assert why.text == "no answer from 192.0.2.2 on port 10001"
    why.flow_up()
    assert why.text == ""


def test_while_a_flow_carries_the_trouble_of_others_is_not_told(why: Reasons, group: Group) -> None:
    why.flow_up()
    group.up(flows=1)
    why.dialling()
    why.silent_port(10_001)
    why.refused(5.0, "port 10001 (RST)")
    assert why.text == ""
    assert not why.lately_refused(5.0)


def test_a_refusal_counts_for_a_while_and_until_a_flow_is_up(why: Reasons) -> None:
    why.refused(5.0, "port 10001 (RST)")
    assert why.text == "192.0.2.2 refuses port 10001 (RST)"
    assert why.lately_refused(5.0 + MAX_BACKOFF - 0.1)
    assert not why.lately_refused(5.0 + MAX_BACKOFF)
    why.flow_up()
    assert not why.lately_refused(5.1)


def test_what_lasts_is_told_again_with_each_flow_that_comes_up(why: Reasons) -> None:
    why.set_lasting("the server refuses the conversations")
    why.flow_up()
    assert why.text == "the server refuses the conversations"
    why.set_lasting("")
    assert why.text == ""


def test_the_end_of_what_lasts_leaves_another_reason_alone(why: Reasons) -> None:
    why.set_lasting("the server answers no frame")
    why.tell("no route to 192.0.2.2")
    why.set_lasting("")
    assert why.text == "no route to 192.0.2.2"


def test_the_last_flow_says_why_only_where_nothing_else_is_known(why: Reasons) -> None:
    why.flow_up()
    why.flows_down("probes are not answered")
    assert why.text == "every flow is down, the last because probes are not answered"
    why.session_lost("the server ended the session")
    why.flows_down("probes are not answered")
    assert why.text == "the server ended the session"
