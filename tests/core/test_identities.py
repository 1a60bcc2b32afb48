"""Clients with secrets of their own: who is who, who comes and goes, and what one of them cannot take from another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rsock_nf.core.events import SessionDown, SessionUp
from rsock_nf.core.parameters import Cipher, ClientLimits, Kinds
from rsock_nf.wire.native.half_open import BURST
from rsock_nf.wire.native.handshake import NativeHandshake
from rsock_nf.wire.native.hints import Form, Hinted, hour_of
from rsock_nf.wire.native.opening import Offer
from rsock_nf.wire.parameters import KnownClient, NativeParameters
from tests.core.pair import YEAR_2030, Pair
from tests.core.test_strangers import elsewhere, say
from tests.core.wire import Toward

ALICE, BOB, NEW = bytes(range(1, 33)), bytes(range(2, 34)), bytes(range(3, 35))
KNOWN = (KnownClient("alice", (ALICE,)), KnownClient("bob", (BOB,)))
kinds = pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP, Kinds.ALL], ids=lambda kind: kind.value)


def pair_of(secret: bytes = ALICE, known: tuple[KnownClient, ...] = KNOWN, own: bytes = b"", **more: Any) -> Pair:
    return Pair(client={"secret": secret}, server={"secret": own, "clients": known}, **more)


def names(pair: Pair) -> list[str]:
    return [session.identity.text for session in pair.server.sessions]


@kinds
@pytest.mark.parametrize("cipher", [Cipher.NONE, Cipher.AES_256_GCM])
def test_the_server_knows_who_it_is(kinds: Kinds, cipher: Cipher) -> None:
    with pair_of(BOB, kinds=kinds, cipher=cipher) as pair:
        pair.up()
        pair.say("app", b"from bob")
        pair.run(1.0)
        assert pair.heard() == [b"from bob"]
        assert names(pair) == ["bob"]
        (up,) = [event for _, at, event in pair.events if isinstance(event, SessionUp) and at is Toward.SERVER]
        assert up.whose == "bob"


def test_beside_the_servers_own_secret() -> None:
    with pair_of(NEW, own=NEW) as pair:
        pair.up()
        assert names(pair) == [""]


def test_the_first_hello_is_answered() -> None:
    """No form is tried in vain: with right clocks it takes as long as with one secret."""
    with pair_of() as pair:
        pair.start()
        pair.run_until(lambda: bool(pair.client.sessions), 0.3)


@kinds
@pytest.mark.parametrize("wrong", [-YEAR_2030, -3 * 3600.0, 5 * 86400.0])
def test_a_client_with_a_wrong_clock_comes_through_all_the_same(kinds: Kinds, wrong: float) -> None:
    with pair_of(kinds=kinds) as pair:
        pair.clock_error = wrong
        pair.up()
        assert names(pair) == ["alice"]
        pair.wire.drop.append(lambda *_: True)
        pair.run(20.0)
        pair.wire.drop.clear()
        pair.say("app", b"again")
        pair.run(40.0)
        assert b"again" in pair.heard(), "its joins have the hint that was answered"


def test_a_session_goes_on_from_hour_to_hour() -> None:
    client = {"secret": ALICE, "idle_timeout": 0.0, "flows": 1, "keepalive": 600.0}
    server = {"secret": b"", "clients": KNOWN, "keepalive": 600.0}
    with Pair(client=client, server=server, kinds=Kinds.ALL) as pair:
        pair.up()
        for hour in range(3):
            pair.run(3600.0)
            before = {flow.flow_id for flow in pair.flows(pair.server)}
            pair.client.role.renew(pair.now)
            pair.run(10.0)
            assert before.isdisjoint(flow.flow_id for flow in pair.flows(pair.server)), "all have joined anew"
            pair.say("app", b"%d" % hour)
            pair.run(1.0)
        assert pair.heard() == [b"0", b"1", b"2"]
        assert pair.count(SessionUp, Toward.SERVER) == 1


def test_a_stranger_to_the_list_gets_no_answer() -> None:
    with pair_of(NEW) as pair:
        pair.start()
        pair.run(20.0)
        assert not pair.server.sessions
        assert "leaves our hellos unanswered" in pair.client.role.reason


# -- clients that come and go while the server runs


def use(pair: Pair, *known: KnownClient, own: bytes = b"", second: bytes = b"") -> None:
    pair.server.role.use_secrets(pair.now, NativeParameters(own, second, known))
    pair.flush()


def test_a_revoked_client_is_gone_and_the_other_notices_nothing() -> None:
    with pair_of(BOB) as pair:
        pair.up()
        flows = {flow.flow_id for flow in pair.flows(pair.server)}
        use(pair, KNOWN[1])  # alice goes
        pair.run(1.0)
        assert {flow.flow_id for flow in pair.flows(pair.server)} == flows
        use(pair, KNOWN[0])
        assert not pair.server.sessions
        pair.run(0.5)
        (down,) = [event for _, at, event in pair.events if isinstance(event, SessionDown) and at is Toward.SERVER]
        assert (down.whose, down.reason) == ("bob", "its secret is not valid any more")
        assert not pair.client.sessions, "it was told"
        pair.run(30.0)
        assert not pair.server.sessions
        assert "leaves our hellos unanswered: are secret" in pair.client.role.reason
        use(pair, *KNOWN)
        pair.run_until(lambda: bool(pair.server.sessions), 60.0)
        assert set(names(pair)) == {"bob"}


def test_a_revoked_client_cannot_finish_what_it_began() -> None:
    with pair_of(BOB) as pair:
        pair.start()
        pair.run_until(lambda: len(pair.server_wire.half_open) > 0, 2.0)
        use(pair, KNOWN[0])
        assert len(pair.server_wire.half_open) == 0
        pair.run(1.0)
        assert not pair.server.sessions


@kinds
def test_a_secret_is_replaced_without_a_lost_datagram(kinds: Kinds) -> None:
    with pair_of(kinds=kinds) as pair:
        pair.up()
        sent: list[bytes] = []

        def carry(seconds: float) -> None:
            for _ in range(int(seconds * 10)):
                sent.append(b"%d" % len(sent))
                pair.say("app", sent[-1])
                pair.run(0.1)

        carry(1.0)
        use(pair, KnownClient("alice", (ALICE, NEW)))
        assert names(pair) == ["alice (first secret)"]
        carry(1.0)
        pair.client.role.use_secrets(pair.now, NativeParameters(NEW))
        carry(8.0)
        assert names(pair) == ["alice (second secret)"]
        use(pair, KnownClient("alice", (NEW,)))
        carry(1.0)
        assert names(pair) == ["alice"]
        assert pair.count(SessionDown) == 0
        assert pair.heard() == sent


def test_the_servers_own_secret_is_replaced_too() -> None:
    with pair_of(ALICE, (), own=ALICE) as pair:
        pair.up()
        use(pair, own=ALICE, second=NEW)
        assert names(pair) == ["first secret"]
        pair.client.role.use_secrets(pair.now, NativeParameters(NEW))
        pair.run(8.0)
        assert names(pair) == ["second secret"]
        use(pair, own=NEW)
        assert names(pair) == [""]
        assert pair.count(SessionDown) == 0


def test_a_client_that_is_kicked_comes_back() -> None:
    with pair_of() as pair:
        pair.up()
        (before,) = pair.server.sessions
        assert pair.server.role.kick(pair.now, "bob") == 0
        assert pair.server.role.kick(pair.now, "alice") == 1
        assert not pair.server.sessions
        pair.flush()
        pair.run_until(lambda: bool(pair.server.sessions), 5.0)
        (after, *_) = pair.server.sessions
        assert after.session_id != before.session_id


def test_a_wrong_secret_is_corrected_while_the_client_runs() -> None:
    with pair_of(NEW) as pair:
        pair.start()
        pair.run(10.0)
        assert not pair.client.sessions
        pair.client.role.use_secrets(pair.now, NativeParameters(ALICE))
        pair.run_until(lambda: bool(pair.client.sessions), 5.0)
        assert names(pair) == ["alice"]


def test_a_client_that_is_renamed_stays() -> None:
    with pair_of() as pair:
        pair.up()
        use(pair, KnownClient("alicia", (ALICE,)))
        assert names(pair) == ["alicia"]
        pair.client.role.reconnect(pair.now)
        pair.run(3.0)
        assert names(pair) == ["alicia"]
        assert pair.count(SessionDown) == 0


# -- what one cannot take from another


def hinted(secret: bytes, pair: Pair) -> bytes:
    """A hello of somebody with ``secret``, now."""
    now = Hinted(Form.HOURLY, hour_of(YEAR_2030 + pair.now))
    return NativeHandshake(secret).hello(Offer(Cipher.NONE, 1400, 7), pair.rng.randbytes, hinted=now)[0]


@pytest.fixture
def full_of_bob() -> Iterator[Pair]:
    """Bob has said more hellos from alice's address than one address may."""
    with pair_of() as pair:
        for _ in range(int(BURST) * 3):
            say(pair, (b"\xc0\x00\x02\x01", 7), hinted(BOB, pair), udp=True)
        yield pair


def test_who_shares_an_address_does_not_share_a_bucket(full_of_bob: Pair) -> None:
    pair = full_of_bob
    before = pair.server.counters["hellos that were asked for a cookie"]
    assert before > 0
    say(pair, (b"\xc0\x00\x02\x01", 7), hinted(ALICE, pair), udp=True)
    assert pair.server.counters["hellos that were asked for a cookie"] == before


def test_a_join_to_the_session_of_another_is_garbage() -> None:
    with pair_of() as pair:
        pair.up()
        (session,) = pair.server.sessions
        bob = NativeHandshake(BOB)
        made = bob.join(session.keys, session.session_id, 999, Offer(Cipher.NONE, 1400, 7), pair.rng.randbytes)
        payload = bob.hints.attach(made, Hinted(Form.LASTING))
        flows = len(session.flows)
        say(pair, elsewhere(1), payload, udp=True)
        assert len(pair.server_wire.half_open) == 0
        assert len(session.flows) == flows


def test_conversations_of_one_client_give_way_to_its_own() -> None:
    limited = KnownClient("alice", (ALICE,), ClientLimits(max_conversations=3))
    with pair_of(known=(limited, KNOWN[1])) as pair:
        pair.up()
        for number in range(10):
            pair.say(f"app {number}", b"%d" % number)
            pair.run(0.2)
        (session,) = pair.server.sessions
        assert len(session.group.conversations) == 3
        (crowd,) = pair.server.role.crowds(pair.now)
        assert crowd.reason == (
            "conversations of alice: 3 of 3 in use: answered or silent ones make room; raise its max_conversations"
        )
        use(pair, KnownClient("alice", (ALICE,)))
        for number in range(10):
            pair.say(f"app {number}", b"%d" % number)
        pair.run(0.2)
        assert len(session.group.conversations) == 10
        assert len(pair.heard()) == 20
        use(pair, limited)
        pair.say("another app", b"11")
        pair.run(0.2)
        assert len(session.group.conversations) == 3
