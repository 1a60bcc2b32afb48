"""What is a dead flow and what is only a slow one: time-outs with back-off, signs of life, long and growing round
trips."""

import pytest

from rsock_nf.core.events import FlowClosed
from rsock_nf.core.flows.health import GIVE_UP, INITIAL_RTO, MAX_RTO, MIN_RTO, Health
from rsock_nf.core.parameters import Cipher, Kinds
from tests.core.pair import Pair, numbered
from tests.core.test_flows import load, port_of
from tests.core.wire import Conditions, Toward

QUIET = (0, 0)


def silent_until_dead(health: Health, now: float = 0.0) -> tuple[float, int]:
    """Probe into a void: (seconds until it is given up, probes sent)."""
    began = now
    for sent in range(1, 20):
        health.probe_sent(now, sent, QUIET)
        now += health.rto
        if health.overdue(now, QUIET):
            return now - began, sent
    raise AssertionError("never given up")


def test_every_unanswered_probe_doubles_the_timeout() -> None:
    health = Health()
    seen = []
    for number in range(1, 6):
        seen.append(health.rto)
        health.probe_sent(float(number), number, (number, 0))
        health.overdue(float(number), (number, 0))
    assert seen == [INITIAL_RTO, 1.0, 2.0, MAX_RTO, MAX_RTO]
    health.answered(10.0, 5, 5)
    assert health.rto == MAX_RTO, "5 s + 4 × 2.5 s"


def test_an_answer_ends_the_back_off() -> None:
    health = Health()
    health.sample(0.01)
    health.probe_sent(0.0, 1, QUIET)
    assert not health.overdue(MIN_RTO, QUIET)
    assert health.rto == 2 * MIN_RTO
    health.probe_sent(MIN_RTO, 2, QUIET)
    assert health.answered(MIN_RTO + 0.01, 2, 2)
    assert health.rto == MIN_RTO
    assert health.unanswered == 0


@pytest.mark.parametrize(("rtt", "seconds"), [(None, 3.5), (0.01, 1.4), (1.6, 9.0)])
def test_silence_is_death_after_three_timeouts(rtt: float | None, seconds: float) -> None:
    health = Health()
    if rtt is not None:
        health.sample(rtt)
    after, probes = silent_until_dead(health)
    assert after == pytest.approx(seconds)
    assert probes == 3


@pytest.mark.parametrize("sign", [(1, 0), (0, 1)], ids=["frames", "ACKs"])
def test_signs_of_life_put_death_off_but_not_for_ever(sign: tuple[int, int]) -> None:
    """Either keeps the flow alive through three time-outs; none of them excuses eight."""
    health = Health()
    health.sample(0.01)
    now, heard, overdue = 0.0, QUIET, 0
    while overdue < GIVE_UP:
        health.probe_sent(now, overdue + 1, heard)
        now += health.rto
        heard = (heard[0] + sign[0], heard[1] + sign[1])
        overdue += 1
        assert health.overdue(now, heard) is (overdue == GIVE_UP)


def test_what_was_heard_long_ago_is_no_sign_of_life() -> None:
    """The peer falls silent after our second probe: the silence counts from the third on."""
    health = Health()
    health.sample(0.01)
    now = 0.0
    results = []
    for sent, heard in enumerate([(1, 0), (2, 0), (3, 0), (3, 0)], start=1):
        health.probe_sent(now, sent, heard)
        now += health.rto
        results.append(health.overdue(now, heard))
    assert results == [False, False, False, True]


def test_the_handshake_gives_the_first_round_trip_times() -> None:
    """Also at the server, from its answer to the confirmation: before any probe is answered."""
    with Pair(conditions=Conditions(delay=0.1), client={"flows": 3}) as pair:
        pair.start()
        pair.run_until(lambda: bool(pair.flows(pair.server)), 5.0)
        assert pair.flows(pair.server)[0].health.srtt == pytest.approx(0.2, abs=0.01)
        pair.run_until(lambda: bool(pair.flows(pair.client)), 5.0)
        assert pair.flows(pair.client)[0].health.srtt == pytest.approx(0.2, abs=0.01)


def test_a_repeated_handshake_segment_gives_none() -> None:
    """Karn: nobody knows which of them was answered."""
    with Pair(conditions=Conditions(delay=0.8), client={"flows": 1}) as pair:
        pair.start()
        pair.run_until(lambda: bool(pair.flows(pair.server)), 10.0)
        assert pair.flows(pair.server)[0].health.srtt is None
        assert [flow.health.srtt for flow in pair.client.flows] == [None]


def grow(pair: Pair, toward: Toward, by: float, within: float) -> None:
    """The queue toward one end fills while traffic goes on: ``by`` seconds of delay more, in steps of 20 ms."""
    steps = max(round(within / 0.02), 1)
    for at in range(steps):
        pair.wire.conditions[toward].delay += by / steps
        pair.say("app", *numbered(10, 600, b"g", 10 * at))
        for peer in pair.sockets:
            pair.reply(peer, *numbered(10, 600, b"h", 10 * at))
        pair.run(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("toward", Toward)
@pytest.mark.parametrize(("by", "within"), [(0.3, 1.0), (0.35, 0.02), (0.9, 3.0), (1.0, 0.02)])
@pytest.mark.parametrize("seed", range(3))
def test_a_queue_that_fills_closes_no_flow(toward: Toward, by: float, within: float, seed: int) -> None:
    """All flows share a path of 20 ms there and back, and one direction becomes slower, by a step or gradually."""
    with Pair(seed=seed) as pair:
        pair.wire.conditions = {end: Conditions(delay=0.01) for end in Toward}
        pair.up()
        load(pair, 5.0 + 0.31 * seed)
        before = pair.count(FlowClosed)
        grow(pair, toward, by, within)
        load(pair, 5.0)
        assert pair.count(FlowClosed) == before == 0


def overload(pair: Pair, seconds: float) -> None:
    """250 datagrams a second each way, of 1,000 bytes."""
    for at in range(round(seconds / 0.02)):
        pair.say("app", *numbered(5, 1000, b"g", 5 * at))
        for peer in pair.sockets:
            pair.reply(peer, *numbered(5, 1000, b"h", 5 * at))
        pair.run(0.02)


@pytest.mark.parametrize(
    ("kinds", "cipher"), [(Kinds.TCP, Cipher.NONE), (Kinds.UDP, Cipher.AES_256_GCM), (Kinds.ALL, Cipher.NONE)]
)
def test_a_queue_of_eight_seconds_closes_no_flow(kinds: Kinds, cipher: Cipher) -> None:
    """It takes twice as much as it sends, until it is full, and delivers all the time."""
    with Pair(kinds=kinds, cipher=cipher) as pair:
        pair.up()
        load(pair, 3.0)
        pair.wire.conditions = {toward: Conditions(rate=125_000, queue=1_000_000) for toward in Toward}
        overload(pair, 35.0)
        assert pair.count(FlowClosed) == 0
        assert len(pair.at_target) > 4000, "of 125 a second"
        assert len(pair.at_app) > 4000


def test_a_path_that_dies_behind_such_a_queue_is_found_dead() -> None:
    """What still comes out of the queue shows that it is alive; from then on it takes three time-outs, as always."""
    with Pair() as pair:
        pair.up()
        load(pair, 3.0)
        pair.wire.conditions = {toward: Conditions(rate=125_000, queue=1_000_000) for toward in Toward}
        overload(pair, 20.0)
        assert pair.count(FlowClosed) == 0
        pair.wire.drop.append(lambda *_: True)
        pair.wire._queue.clear()
        died = pair.now
        overload(pair, 10.0)
        closed = [when - died for when, side, event in pair.events if isinstance(event, FlowClosed)]
        assert len(closed) >= 20, "at both ends"
        assert sorted(closed)[19] <= 3 * MAX_RTO


def test_a_round_trip_of_1600_ms_from_the_start() -> None:
    with Pair(conditions=Conditions(delay=0.8)) as pair:
        pair.start()
        pair.run_until(lambda: len(pair.flows(pair.client)) == 10, 20.0)
        before = pair.count(FlowClosed)  # of the sessions whose hello came through, too
        load(pair, 40.0)
        assert pair.count(FlowClosed) == before


def test_one_dead_flow_among_many_is_found_soon() -> None:
    with Pair() as pair:
        pair.up()
        load(pair, 5.0)
        port = pair.flows(pair.client)[3].key.local_port
        pair.wire.drop.append(lambda _, packet: port_of(packet) == port)
        began = pair.now
        load(pair, 4.0)
        closed = [when for when, side, event in pair.events if side is Toward.CLIENT and isinstance(event, FlowClosed)]
        assert len(closed) == 1
        assert closed[0] - began < 3.5, "a sweep sees traffic, a second later there is a probe, then 0.2 + 0.4 + 0.8 s"


@pytest.mark.parametrize("dead", Toward)
def test_the_only_flow_dies_in_one_direction(dead: Toward) -> None:
    """No other flow can carry the news; the end that hears nothing falls silent, and then the other one finds out."""
    with Pair(client={"flows": 1}) as pair:
        pair.up()
        load(pair, 5.0)
        flow = pair.flows(pair.client)[0]
        port = flow.key.local_port
        pair.wire.drop.append(lambda toward, packet: toward is dead and port_of(packet) == port)
        load(pair, 10.0)
        assert flow not in pair.flows(pair.client)
        assert len(pair.flows(pair.client)) == 1, "replaced"


def test_a_sign_of_life_that_names_no_probe_ends_the_waiting() -> None:
    """And tells nothing of round-trip time or loss."""
    health = Health()
    health.probe_sent(2.0, 100, (0, 0))
    health.unanswered = 1
    health.probe_sent(3.0, 200, (0, 0))
    health.clear()
    assert (health.srtt, health.unanswered, health.waiting, health.loss) == (None, 0, False, 0.0)
    assert not health.answered(4.0, 1, 200)


def test_what_did_not_arrive_is_counted_once_the_next_answer_confirms_it() -> None:
    """A probe overtakes bulk: what is behind it is late, not lost."""
    health = Health()
    told = []
    for now, (sent, arrived) in enumerate([(100, 100), (200, 150), (300, 300), (400, 390), (500, 490), (600, 600)]):
        number = health.probe_sent(float(now), sent, (now, 0))
        health.answered(now + 0.1, number, arrived)
        told.append(health.lost)
    assert told == [0, 0, 0, 0, 10, 10], "it never shrinks"


def test_the_count_of_what_was_lost_survives_that_the_peer_counts_modulo_2_to_the_32() -> None:
    health = Health()
    for now, (sent, arrived) in enumerate([(2**32 - 10, 2**32 - 20), (2**32 + 90, 80), (2**32 + 190, 180)]):
        health.answered(now + 0.1, health.probe_sent(float(now), sent, (now, 0)), arrived)
    assert health.lost == 10
