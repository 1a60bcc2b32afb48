"""From SYN to Ready, whatever happens to each single packet on the way."""

from collections import Counter
from collections.abc import Callable

import pytest

from rsock_nf.core.events import FlowClosed, SessionUp
from rsock_nf.core.parameters import Cipher
from tests.core.conntrack import SYN, Tcp
from tests.core.pair import Pair, numbered
from tests.core.wire import Conditions, Toward

Nth = Callable[[Toward, bytes], bool]
TWO_FLOWS = {"flows": 2}


def dropping(toward: Toward, k: int) -> Nth:
    """The k-th packet in that direction is lost."""
    seen = Counter[Toward]()

    def predicate(direction: Toward, _: bytes) -> bool:
        seen[direction] += 1
        return direction is toward and seen[direction] == k

    return predicate


def stands(pair: Pair) -> None:
    """Two flows at both ends, one session, and data pass in both directions."""
    assert len(pair.flows(pair.client)) == len(pair.flows(pair.server)) == 2
    pair.say("app", b"up")
    pair.run(0.1)
    pair.reply(pair.server_peer(), b"down")
    pair.run(0.1)
    assert pair.heard() == [b"up"]
    assert pair.at_app == [("app", b"down")]
    assert len([session for session in pair.server.role.sessions_by_id.values() if session.flows]) == 1


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("family", [4, 6])
def test_ten_flows_come_up_within_the_stagger_and_a_few_round_trips(cipher: Cipher, family: int) -> None:
    with Pair(cipher=cipher, family=family) as pair:
        pair.up(within=0.5)
        assert len(pair.flows(pair.server)) == 10
        assert pair.count(SessionUp) == 2
        assert not pair.client.counters
        assert not pair.server.counters


@pytest.mark.parametrize("toward", Toward)
@pytest.mark.parametrize("k", range(1, 17))
def test_any_one_packet_may_be_lost(toward: Toward, k: int) -> None:
    """SYN, SYN-ACK, ACK, hello, answer, confirmation, Ready, join, its answer, ...

    A lost hello or answer makes both flows say hello: one of them then starts over, at once.
    """
    with Pair(client=TWO_FLOWS) as pair:
        pair.wire.drop.append(dropping(toward, k))
        pair.up(within=3.0)
        pair.run(3.0)
        assert pair.count(FlowClosed, Toward.CLIENT) <= 1
        assert pair.wire.sent[toward] >= k, "there was such a packet"
        stands(pair)


@pytest.mark.parametrize("toward", Toward)
@pytest.mark.parametrize("k", range(1, 13))
def test_any_two_packets_in_a_row_may_be_lost(toward: Toward, k: int) -> None:
    with Pair(client=TWO_FLOWS) as pair:
        pair.wire.drop += [dropping(toward, k), dropping(toward, k + 1)]
        pair.up(within=5.0)
        pair.run(3.0)
        stands(pair)


@pytest.mark.parametrize("toward", Toward)
@pytest.mark.parametrize("k", range(1, 17))
@pytest.mark.parametrize("late", [0.0, 0.004, 0.3, 2.0])
def test_any_one_packet_may_come_twice(toward: Toward, k: int, late: float) -> None:
    """Together, one after the other, or long after the flow stands."""
    with Pair(client=TWO_FLOWS) as pair:
        seen = Counter[Toward]()

        def again(direction: Toward, packet: bytes) -> bool:
            seen[direction] += 1
            if direction is toward and seen[direction] == k:
                pair.wire.inject(pair.now + 0.005 + late, toward, packet)
            return False

        pair.wire.drop.append(again)
        pair.up(within=3.0)
        pair.run(3.0)
        assert pair.count(FlowClosed) == 0
        stands(pair)


@pytest.mark.parametrize("toward", Toward)
@pytest.mark.parametrize("k", range(1, 17))
def test_any_one_packet_may_be_overtaken(toward: Toward, k: int) -> None:
    with Pair(client=TWO_FLOWS) as pair:
        seen = Counter[Toward]()

        def held_back(direction: Toward, packet: bytes) -> bool:
            seen[direction] += 1
            if direction is toward and seen[direction] == k:
                pair.wire.inject(pair.now + 0.030, toward, packet)
                return True
            return False

        pair.wire.drop.append(held_back)
        pair.up(within=3.0)
        pair.run(3.0)
        assert pair.count(FlowClosed) == 0
        stands(pair)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
def test_a_bad_wire(seed: int, cipher: Cipher) -> None:
    """A third is lost, much comes twice and out of order: it takes longer, and stands."""
    bad = Conditions(loss=0.33, duplicate=0.2, reorder=0.4)
    with Pair(seed, cipher=cipher, conditions=bad, late_syns=True) as pair:
        pair.start()
        pair.run_until(lambda: len(pair.client.role.group.usable) >= 5, within=20.0)


@pytest.mark.parametrize("mss", [1400, 1360, 536])
def test_a_clamped_mss_is_kept_in_both_directions(mss: int) -> None:
    """Larger segments would vanish: the wire says nothing."""
    with Pair(clamp_mss=mss, conditions=Conditions(mtu=mss + 40), client=TWO_FLOWS) as pair:
        pair.up()
        size = mss - 8 - 2
        pair.say("app", *numbered(20, size))
        pair.run(0.2)
        pair.reply(pair.server_peer(), *numbered(20, mss - 8, b"r"))
        pair.run(0.2)
        assert len(pair.heard()) == len(pair.at_app) == 20
        assert pair.client.role.session is not None
        assert pair.client.role.session.usable_payload() == mss


@pytest.mark.parametrize("strip", [(), (Toward.SERVER,), (Toward.CLIENT,), tuple(Toward)])
def test_window_scale_is_used_only_if_it_came_through_both_ways(strip: tuple[Toward, ...]) -> None:
    """Only the client sees what became of the SYN-ACK: it tells the server in its hello or join."""
    with Pair(strip_scale=strip, client=TWO_FLOWS) as pair:
        pair.up()
        windows = {flow.pump.window for node in (pair.client, pair.server) for flow in pair.flows(node)}
        assert windows == {65535 << (0 if strip else 7)}


def test_a_syn_looks_like_linux() -> None:
    with Pair() as pair:
        syns: list[Tcp] = []
        pair.wire.taps.append(lambda crossing: syns.append(crossing.tcp) if crossing.tcp.flags & SYN else None)
        pair.up()
        assert syns[0].options == bytes.fromhex("020405b40101040201030307")
        assert syns[0].window == 64240
        assert len({syn.seq for syn in syns}) == len(syns), "every initial number is another"
