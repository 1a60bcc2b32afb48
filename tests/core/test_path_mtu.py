"""The size of segments: a path that becomes smaller and says nothing, routers that say so, and who only pretends to."""

import itertools
import struct

import pytest

from rsock_nf.core.events import FlowClosed
from rsock_nf.core.flows.path_mtu import PLATEAUS, PathMtu
from rsock_nf.core.flows.session import Established
from rsock_nf.core.parameters import Cipher, Kinds
from tests.core.pair import Pair, numbered
from tests.core.test_flows import too_big
from tests.core.wire import Conditions, Toward

SEQ = struct.Struct("!I")


def mixed(pair: Pair, seconds: float, *, rate: int = 60) -> None:
    """Datagrams both ways, of which one in six is large."""
    end = pair.now + seconds
    numbers = itertools.count()
    while pair.now < end:
        at = next(numbers)
        size = 1400 if at % 6 == 0 else 300
        pair.say("app", *numbered(1, size, b"%d " % (pair.now * 1e6)))
        if pair.sockets:
            pair.reply(pair.server_peer(), *numbered(1, size, b"r%d " % (pair.now * 1e6)))
        pair.run(1 / rate)


def sizes(pair: Pair, end: Toward) -> set[int]:
    """Of the flows that send toward ``end``."""
    return {flow.path.size for flow in pair.flows(pair.client if end is Toward.SERVER else pair.server)}


@pytest.mark.parametrize("toward", Toward)
@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
@pytest.mark.parametrize("kinds", Kinds)
@pytest.mark.parametrize(("flows", "delay"), [(1, 0.01), (10, 0.01), (4, 0.15)])
def test_a_black_hole_for_few_large_datagrams(
    toward: Toward, cipher: Cipher, kinds: Kinds, flows: int, delay: float
) -> None:
    """The route changes to 1,300 bytes, ICMP is dropped, one datagram in six is large."""
    with Pair(cipher=cipher, kinds=kinds, client={"flows": flows}, conditions=Conditions(delay=delay)) as pair:
        pair.up()
        mixed(pair, 4.0)
        before = {flow for node in (pair.client, pair.server) for flow in pair.flows(node)}
        pair.wire.conditions[toward] = Conditions(delay=delay, mtu=1300)
        mixed(pair, 5.0)
        assert sizes(pair, toward) == {1240}
        (session,) = (pair.client if toward is Toward.SERVER else pair.server).sessions
        assert session.narrowest() == (1240, 1472 if kinds is Kinds.UDP else 1460)
        assert min(sizes(pair, Toward.CLIENT if toward is Toward.SERVER else Toward.SERVER)) >= 1460
        assert {flow for node in (pair.client, pair.server) for flow in pair.flows(node)} == before
        arrived = pair.at_target if toward is Toward.SERVER else pair.at_app
        arrived.clear()
        send = [pair.say, pair.reply][toward is Toward.CLIENT]
        send("app" if toward is Toward.SERVER else pair.server_peer(), *numbered(20, 1400, b"after"))
        pair.run(1.0)
        assert len([datagram for _, datagram in arrived if datagram.startswith(b"after")]) == 20


def test_a_flow_that_is_opened_later_begins_with_what_the_others_found() -> None:
    with Pair(client={"flows": 3}) as pair:
        pair.up()
        pair.wire.conditions = dict.fromkeys(Toward, Conditions(mtu=1300))
        mixed(pair, 5.0)
        old = set(pair.flows(pair.client))
        assert {flow.path.whole for flow in old} == {1460}
        pair.client.role.renew(pair.now)
        largest = []
        for _ in range(20):
            mixed(pair, 0.1)
            largest += [flow.pump.max_payload for flow in pair.flows(pair.client)]
        assert not old & set(pair.flows(pair.client))
        assert set(largest) == {1240}


@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP])
def test_a_size_that_never_passed_is_used_no_more_once_another_flow_doubts_it(kinds: Kinds) -> None:
    """A path that was narrow from the start: no flow goes on with what another one has found not to pass."""
    with Pair(kinds=kinds, client={"flows": 10}, conditions=Conditions(delay=0.01, mtu=1300)) as pair:
        pair.up()
        pair.run_until(lambda: min(sizes(pair, Toward.SERVER)) < 1300, 5.0)
        assert max(sizes(pair, Toward.SERVER)) < 1300
        pair.say("app", *numbered(50, 1400))
        pair.run(1.0)
        assert len(pair.heard()) == 50


def test_a_path_that_becomes_wide_again_is_told_so() -> None:
    with Pair(client={"flows": 2, "idle_timeout": 0.0}) as pair:
        pair.up()
        pair.wire.conditions[Toward.SERVER] = Conditions(mtu=1300)
        mixed(pair, 5.0)
        flows = pair.flows(pair.client)
        assert [(flow.path.size, flow.path.whole) for flow in flows] == [(1240, 1460)] * 2
        pair.wire.conditions[Toward.SERVER] = Conditions()
        pair.run(660.0)
        assert pair.flows(pair.client) == flows
        assert [(flow.path.size, flow.path.whole) for flow in flows] == [(1460, 0)] * 2


def test_few_segments_are_padding() -> None:
    """Of a session that carries little: at most two a second in each direction, whatever the number of flows."""
    with Pair(client={"flows": 10}) as pair:
        pair.up()
        mixed(pair, 5.0)
        padded = dict.fromkeys(Toward, 0)

        def count(toward: Toward, packet: bytes) -> bool:
            padded[toward] += len(packet) == 1500
            return False

        pair.wire.drop.append(count)
        for at in range(600):
            pair.say("app", *numbered(1, 100, first=at))
            pair.run(0.1)
        assert 30 <= padded[Toward.SERVER] <= 120
        assert 30 <= padded[Toward.CLIENT] <= 120
        pair.run(20.0)
        padded.update(dict.fromkeys(Toward, 0))
        pair.run(20.0)
        assert not any(padded.values()), "who carries nothing checks nothing"


@pytest.mark.parametrize("seed", range(3))
def test_lost_probes_alone_do_not_make_the_path_small(seed: int) -> None:
    with Pair(seed, client={"flows": 4}, conditions=Conditions(loss=0.15)) as pair:
        pair.up(within=30.0)
        small = 0.0
        for _ in range(300):
            mixed(pair, 0.2, rate=20)
            small += 0.2 * any(flow.path.size < 1400 for flow in pair.flows(pair.client))
        assert small < 3.0


# -- routers, and who pretends to be one


def claim(pair: Pair, flow: Established, seq: int, mtu: int) -> None:
    key = flow.key
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 1500, 1, 0, 60, 6, 0, key.local, key.remote)
    inner = ip + struct.pack("!HHI", key.local_port, key.remote_port, seq & 0xFFFFFFFF)
    end = Toward.CLIENT if flow in pair.flows(pair.client) else Toward.SERVER
    pair.wire.inject(pair.now, end, too_big(inner, mtu), behind_judge=True)


@pytest.mark.parametrize("end", Toward)
def test_forged_claims_change_nothing(end: Toward) -> None:
    """1,280 for each flow, about everything within a window: none changes the size, and few cost a padded probe."""
    with Pair(cipher=Cipher.AES_256_GCM, client={"flows": 4}) as pair:
        pair.up()
        mixed(pair, 3.0)
        node = pair.client if end is Toward.CLIENT else pair.server
        flows = pair.flows(node)
        padded = 0

        def count(toward: Toward, packet: bytes) -> bool:
            nonlocal padded
            padded += toward is not end and len(packet) == 1500
            return False

        pair.wire.drop.append(count)
        seen = set()
        for at in range(320):
            mixed(pair, 0.01, rate=100)
            for flow in flows:
                for back in (0, at, 100 * at, 26_000 * at):
                    claim(pair, flow, flow.pump.highest_ack - back, 68)
            pair.run(0.001)
            seen |= {flow.pump.max_payload for flow in flows}
        mixed(pair, 1.0)
        assert seen == {1460}
        assert set(pair.flows(node)) == set(flows)
        assert padded < 40, "four flows, a few seconds"
        assert node.counters["ICMP for nothing of ours"] > 3 * 320


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("end", Toward)
@pytest.mark.parametrize("delay", [0.01, 0.1])
def test_a_true_claim_shrinks_the_flows_within_about_a_second(end: Toward, delay: float, *, known: bool) -> None:
    """Few datagrams are large.  The router may not know its MTU (RFC 1191)."""
    with Pair(cipher=Cipher.AES_256_GCM, client={"flows": 4}, conditions=Conditions(delay=delay)) as pair:
        pair.up()
        mixed(pair, 3.0)

        def router(toward: Toward, packet: bytes) -> bool:
            if toward is end or len(packet) <= 1300:
                return False
            pair.wire.inject(pair.now + delay, end, too_big(packet, 1300 if known else 0), behind_judge=True)
            return True

        pair.wire.drop.append(router)
        node = pair.client if end is Toward.CLIENT else pair.server
        mixed(pair, 1.0 + 8 * delay)
        found = {flow.path.size for flow in pair.flows(node)}
        assert found == {1260 if known else 1240}


def test_a_claim_and_a_lost_probe_are_corrected_in_a_round_trip() -> None:
    """Somebody forges all the time, and once a padded probe is lost."""
    path = PathMtu()
    path.start(1460)
    path.probe_sent(1)
    assert not path.answered(0.0, 1)
    assert path.claim(1.0, 600)
    path.probe_sent(2)
    assert path.answered(1.3, 3)
    assert path.size == 600
    probes = path.round()
    assert {size for _, size in probes} == {1460, 600, *PLATEAUS}
    number = next(number for number, size in probes if size == 1460)
    assert path.passed(1.32, number)
    assert path.size == 1460
    assert path.settled
    assert not path.whole


def test_a_refuted_claim_makes_deaf_for_a_second() -> None:
    path = PathMtu()
    path.start(1460)
    path.probe_sent(1)
    path.answered(0.0, 1)
    assert path.claim(1.0, 600)
    path.probe_sent(2)
    path.answered(1.02, 2)
    assert path.confirmed
    assert not path.claim(1.5, 600)
    assert path.claim(2.1, 600)


def test_a_link_that_becomes_narrower_during_a_search() -> None:
    path = PathMtu()
    path.start(1460)
    for number in (1, 3, 5):
        path.probe_sent(number)
        path.answered(0.0, number + 1)
    assert path.searching
    path.reduce(0.1, 1240)
    assert max(size for _, size in path.round()) == 1240


def test_no_flow_ends_while_the_path_is_searched() -> None:
    with Pair(client={"flows": 4}, conditions=Conditions(delay=0.1)) as pair:
        pair.up()
        mixed(pair, 3.0)
        pair.wire.conditions = dict.fromkeys(Toward, Conditions(delay=0.1, mtu=700))
        mixed(pair, 8.0)
        assert sizes(pair, Toward.SERVER) == sizes(pair, Toward.CLIENT) == {536}
        assert pair.count(FlowClosed) == 0


def test_what_icmp_says_of_a_udp_flow_only_starts_a_padded_probe() -> None:
    """A client's kernel is told; anybody can tell it."""
    with Pair(kinds=Kinds.UDP, client={"flows": 1}) as pair:
        pair.up()
        pair.say("app", b"hello")
        pair.run(3.0)
        (flow,) = pair.flows(pair.client)
        size, sent = flow.path.size, pair.wire.sent_bytes[Toward.SERVER]
        pair.client.role.carrier_too_big(pair.now, flow.key, 600)
        pair.run(0.5)
        assert pair.wire.sent_bytes[Toward.SERVER] - sent >= size, "a probe as large as what is in use"
        assert flow.path.size == flow.pump.max_payload == size
        pair.wire.conditions[Toward.SERVER].mtu = 600
        pair.run(2.0)
        pair.client.role.carrier_too_big(pair.now, flow.key, 600)
        pair.run(2.0)
        assert flow.path.size == 600 - 28, "this time it is true"
