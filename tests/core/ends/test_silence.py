"""Which conversation makes room for another, without any endpoint: of whom, and which one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core.ends.conversations import Conversations
from rsock_nf.core.ends.silence import BRIEF, BRIEF_SILENCE, Most, Silence
from rsock_nf.core.flows.context import Context
from rsock_nf.core.parameters import Common
from rsock_nf.core.pump.pump import Pump
from rsock_nf.core.pump.state import FlowGroup, PumpConversation

DURATION = 300.0


def conversation(number: int = 0, group: FlowGroup | None = None) -> PumpConversation:
    """One that has its first datagram."""
    group = group or FlowGroup(None)
    made = PumpConversation(group, number, (id(group), number), target=0, opening=False)
    made.received_datagrams = 1
    return made


def answered(silence: Silence, now: float, number: int = 0) -> PumpConversation:
    """One that begins in ``silence`` with a question, and has its answer."""
    made = conversation(number)
    silence.put(now, made)
    made.sent_datagrams = 1
    return made


def test_the_longest_silent_of_one_kind_goes_first() -> None:
    silence = Silence(DURATION)
    brief = [answered(silence, float(at), at) for at in range(5)]
    silence.look(5.0)
    brief[0].received_datagrams += 1
    silence.look(6.0)
    for expected in (brief[1], brief[2], brief[3], brief[4], brief[0]):
        assert silence.to_go(7.0) is expected
        assert silence.remove(expected)
    assert len(silence) == 0
    assert not silence.remove(brief[0])
    with pytest.raises(LookupError):
        silence.to_go(7.0)


def test_what_has_moved_since_the_last_look_does_not_go() -> None:
    """However many begin between two sweeps."""
    silence = Silence(DURATION)
    active = answered(silence, 0.0)
    others = [answered(silence, 0.1 + at / 1000, at) for at in range(500)]
    silence.look(1.0)
    active.received_datagrams += 1
    assert silence.to_go(1.1) is others[0]


def test_a_question_that_waits_for_its_answer_outlives_answered_ones() -> None:
    """Nobody has looked since: that others have their answers by now is found out first."""
    silence = Silence(DURATION)
    waiting = [conversation(-at) for at in range(50)]
    for at, one in enumerate(waiting):
        silence.put(at / 1000, one)
    done = [answered(silence, 0.05 + at / 1000, at) for at in range(100)]
    gone = []
    for at in range(100):
        gone.append(silence.to_go(0.2 + at / 1000))
        silence.remove(gone[-1])
    assert gone == done
    assert silence.to_go(0.3) is waiting[0]


def test_one_that_waits_for_a_flow_is_not_answered() -> None:
    silence = Silence(DURATION)
    waiting, done = conversation(1), conversation(2)
    waiting.received_datagrams = 0
    silence.put(0.0, waiting)
    silence.put(0.0, done)
    done.sent_datagrams = 1
    assert silence.to_go(1.0) is done


def test_an_answered_question_goes_before_any_other_conversation() -> None:
    silence = Silence(DURATION)
    grown = answered(silence, 0.0)
    grown.received_datagrams = BRIEF + 1
    silence.look(0.0)
    question = answered(silence, 290.0)
    assert silence.to_go(290.1) is question


def test_without_an_answered_question_the_one_goes_that_is_nearest_to_its_end() -> None:
    silence = Silence(DURATION)
    grown = answered(silence, 0.0)
    grown.received_datagrams = BRIEF + 1
    silence.look(0.0)
    question = conversation(1)
    silence.put(100.0, question)
    assert silence.to_go(109.0) is grown, "109 of 300 s is more than 9 of 30 s"
    assert silence.to_go(113.0) is question


@pytest.mark.parametrize(
    ("sent", "received", "lives"),
    [(1, 1, BRIEF_SILENCE), (BRIEF, BRIEF, BRIEF_SILENCE), (BRIEF + 1, 1, DURATION), (1, BRIEF + 1, DURATION)],
)
def test_a_brief_one_ends_sooner(sent: int, received: int, lives: float) -> None:
    silence = Silence(DURATION)
    made = answered(silence, 0.0)
    made.sent_datagrams, made.received_datagrams = sent, received
    assert silence.look(1.0) == (True, [])
    assert silence.look(1.0 + lives - 0.1) == (False, [])
    assert silence.look(1.0 + lives) == (False, [made])


def test_a_shorter_duration_is_that_of_brief_ones_too() -> None:
    silence = Silence(5.0)
    made = answered(silence, 0.0)
    silence.look(1.0)
    assert silence.look(6.0) == (False, [made])


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=200))
def test_the_group_with_the_most_is_found(steps: list[tuple[int, bool]]) -> None:
    groups = [FlowGroup(number) for number in range(5)]
    most, counts = Most(), Counter[FlowGroup]()
    for which, more in steps:
        group = groups[which]
        if more or counts[group]:
            step = 1 if more else -1
            most.add(group, step)
            counts[group] += step
        if any(counts.values()):
            for asking in groups:
                chosen = most.gives_way(asking)
                assert counts[chosen] == max(counts.values())
                assert chosen is asking or counts[asking] < counts[chosen]


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 20.0), st.integers(0, 3)), max_size=150),
)
def test_nobody_loses_his_share_to_another(limit: int, steps: list[tuple[int, float, int]]) -> None:
    """Each step: (whose conversation begins, seconds since the last step, how many conversations move)."""
    context = Context(Common(), bytes, 1500)
    conversations = Conversations(context, Pump(seed=1, max_burst_bytes=0), fragments=True)
    groups = [FlowGroup(number) for number in range(4)]
    open_ones: list[PumpConversation] = []
    now = 0.0
    for number, (which, passed, moving) in enumerate(steps):
        now += passed
        for moved in open_ones[:moving]:
            moved.received_datagrams += 1
        if passed > 1.0:
            for over in conversations.sweep(now)[1]:
                conversations.end(over)
                open_ones.remove(over)
        asking = groups[which]
        if len(conversations) >= limit:
            leaving = conversations.to_go(now, asking)
            counts = Counter(one.group for one in open_ones)
            with_some = len({*counts, asking})
            assert leaving.group is asking or counts[leaving.group] > limit / with_some
            conversations.end(leaving)
            open_ones.remove(leaving)
        begun = conversation(number, asking)
        conversations.put(now, begun)
        open_ones.append(begun)
        assert len(conversations) == len(open_ones) <= limit
