"""The keys of a session are renewed while traffic goes on, and no datagram is lost: make before break."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from rsock_nf.core.ends.endpoint import Endpoint
from rsock_nf.core.events import FlowClosed, SessionDown, SessionUp
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.parameters import Cipher, Kinds
from rsock_nf.wire.native import rekeying
from rsock_nf.wire.native.epochs import GRACE, KeyRing
from rsock_nf.wire.native.handshake import NativeKeys
from rsock_nf.wire.native.rekeying import INTERVAL, MAX_TRIES, Rekey, Rekeyed, RekeyWanted
from tests.core.pair import Pair, numbered
from tests.core.wire import Conditions, Merge, Toward

ROUGH = Conditions(delay=0.05, reorder=0.3, reorder_delay=0.2, duplicate=0.05)
CARRIED = pytest.mark.parametrize(
    ("cipher", "kinds"),
    [(Cipher.NONE, Kinds.TCP), (Cipher.AES_256_GCM, Kinds.ALL), (Cipher.CHACHA20_POLY1305, Kinds.UDP)],
    ids=str,
)


def keys_of(pair: Pair, node: Endpoint[Any]) -> NativeKeys:
    """What ``node`` has of the session that the client has now."""
    (current,) = pair.client.sessions
    (session,) = [session for session in node.sessions if session.session_id == current.session_id]
    assert isinstance(session.keys, NativeKeys)
    return session.keys


def ring(pair: Pair, node: Endpoint[Any]) -> KeyRing:
    return keys_of(pair, node).ring


def epochs(pair: Pair) -> tuple[int, int, int, int]:
    """In which epoch client and server send, and which is the newest that they understand."""
    client, server = ring(pair, pair.client), ring(pair, pair.server)
    return client.sending.number, server.sending.number, client.newest.number, server.newest.number


def exchange(pair: Pair, seconds: float, tag: bytes = b"") -> int:
    """Bursts in both directions, twice a second.  Returns how many datagrams each way."""
    rounds = int(seconds * 2)
    for at in range(rounds):
        pair.say("app", *numbered(8, 700, b"there %d " % at + tag))
        for peer in pair.sockets:
            pair.reply(peer, *numbered(8, 700, b"back %d " % at + tag))
        pair.run(0.5)
    return 8 * rounds


def pass_again(pair: Pair, within: float) -> None:
    """Datagrams arrive at the target, at the latest after so many seconds."""
    heard = len(pair.at_target)
    for at in range(int(within * 2)):
        pair.say("app", b"after %d" % at)
        pair.run(0.5)
        if len(pair.at_target) > heard:
            return
    pytest.fail("nothing passes any more")


def lose(monkeypatch: pytest.MonkeyPatch, node: Endpoint[Any], which: Callable[[object], bool]) -> None:
    """Of the messages that ``node`` tells, those get lost of which ``which`` is true."""
    tell = node.flows.tell

    def lossy(session: Session, message: object, avoid: Established | None = None) -> None:
        if not which(message):
            tell(session, message, avoid)

    monkeypatch.setattr(node.flows, "tell", lossy)


def rekeys_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rekeying, "INTERVAL", GRACE + 1)


@CARRIED
def test_twenty_rekeys_lose_nothing(cipher: Cipher, kinds: Kinds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under reordering and duplication, while 40 % of what is said about keys is lost."""
    rekeys_soon(monkeypatch)
    with Pair(cipher=cipher, kinds=kinds, client={"flows": 3}, conditions=ROUGH) as pair:
        pair.up()
        for state in pair.wire.conditions.values():
            state.merge = Merge.SIZED if kinds is Kinds.ALL else Merge.UNSIZED
        pair.say("app", b"first")
        pair.run(2.0)
        before, back = len(pair.at_target), len(pair.at_app)
        rng = random.Random(5)
        for node in (pair.client, pair.server):
            lose(monkeypatch, node, lambda message: isinstance(message, Rekey | Rekeyed) and rng.random() < 0.4)
        count = 0
        while min(epochs(pair)) < 20:
            count += exchange(pair, 10.0, b"%d" % count)
        pair.run(1.0)
        assert count < 8 * 2 * 20 * 25
        sent = len({datagram for _, datagram in pair.at_target[before:]})
        answered = len({datagram for _, datagram in pair.at_app[back:]})
        assert (sent, answered) == (count, count)
        if cipher is not Cipher.NONE:
            assert (len(pair.at_target) - before, len(pair.at_app) - back) == (count, count), "each once"
        assert pair.count(SessionDown) == 0


@CARRIED
def test_keys_are_renewed_every_two_minutes_and_the_old_ones_forgotten(cipher: Cipher, kinds: Kinds) -> None:
    with Pair(cipher=cipher, kinds=kinds, client={"flows": 3, "idle_timeout": 0.0}) as pair:
        pair.up()
        took = pair.run_until(lambda: epochs(pair) == (1, 1, 1, 1), INTERVAL + 1.5)
        assert took > INTERVAL * 0.8
        assert not ring(pair, pair.client).settled
        assert not ring(pair, pair.server).settled
        pair.run(GRACE + 2.5)
        assert ring(pair, pair.client).settled
        assert ring(pair, pair.server).settled
        pair.run(INTERVAL)
        assert epochs(pair) == (2, 2, 2, 2)
        assert ring(pair, pair.client).newest.session_key == ring(pair, pair.server).newest.session_key
        assert pair.count(FlowClosed) == 0, "in place"


def test_a_client_that_falls_asleep_forgets_the_old_keys_too() -> None:
    with Pair(cipher=Cipher.AES_256_GCM, client={"flows": 2, "idle_timeout": 0.0}) as pair:
        pair.up()
        pair.run_until(lambda: epochs(pair) == (1, 1, 1, 1) and not keys_of(pair, pair.client).asking.unheard, 130.0)
        assert not ring(pair, pair.client).settled
        pair.client.role.sleep(pair.now, "for the test")
        pair.flush()
        assert ring(pair, pair.client).settled
        pair.run(GRACE + 3.0)
        assert ring(pair, pair.server).settled


def test_each_epoch_has_other_keys() -> None:
    with Pair(cipher=Cipher.AES_256_GCM, client={"flows": 1, "idle_timeout": 0.0}) as pair:
        pair.up()
        seen = set()
        for _ in range(4):
            seen.add(ring(pair, pair.client).newest.session_key)
            pair.run(INTERVAL + 2.0)
        assert len(seen) == 4


def test_a_flow_that_opens_during_a_rekey_carries() -> None:
    """Whatever epoch either end has at that moment."""
    with Pair(cipher=Cipher.AES_256_GCM, client={"flows": 3}, conditions=ROUGH) as pair:
        pair.up()
        count = exchange(pair, 2.0)
        pair.run(1.0)
        for _ in range(15):
            keys_of(pair, pair.client).asking.hasten(pair.now)
            pair.client.role.renew(pair.now)
            pair.flush()
            count += exchange(pair, GRACE / 3, b"%d" % count)
        pair.run(1.0)
        assert min(epochs(pair)) >= 3
        assert len({datagram for _, datagram in pair.at_target}) == count


@pytest.mark.parametrize("lost", [Rekey, Rekeyed])
def test_a_late_answer_is_waited_for(lost: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is lost 20 times.  Meanwhile the flows go on under the keys that both ends have."""
    with Pair(cipher=Cipher.AES_256_GCM, client={"flows": 2}) as pair:
        pair.up()
        exchange(pair, 2.0)
        node = pair.client if lost is Rekey else pair.server
        gone: list[object] = []

        def first_ones(message: object) -> bool:
            if isinstance(message, lost) and len(gone) < 20:
                gone.append(message)
                return True
            return False

        lose(monkeypatch, node, first_ones)
        began = len(pair.at_target)
        count = exchange(pair, INTERVAL + 10.0, b"on")
        assert epochs(pair)[0] == 0
        count += exchange(pair, 15.0, b"then")
        pair.run(0.5)
        assert epochs(pair) == (1, 1, 1, 1)
        assert len(set(gone)) == 1, "the same message each time"
        assert len(pair.at_target) - began == count


def test_a_server_that_never_answers_is_left() -> None:
    """No key is used for ever: the client says hello anew, and its conversations go on."""
    with Pair(cipher=Cipher.AES_256_GCM, client={"flows": 2, "idle_timeout": 0.0}) as pair:
        pair.up()
        (first,) = pair.client.sessions
        pair.server_wire.control = lambda *args: isinstance(args[-1], Rekey)
        pair.run(INTERVAL + MAX_TRIES - 15.0)
        assert pair.client.sessions == [first]
        pair.run_until(lambda: pair.client.sessions not in ([first], []), 30.0)
        down = [event for _, side, event in pair.events if isinstance(event, SessionDown) and side is Toward.CLIENT]
        assert [event.reason for event in down] == [
            "the server does not renew keys: is its rsock-nf of the same version?"
        ]
        del pair.server_wire.control
        exchange(pair, INTERVAL + 2.0)
        assert epochs(pair) == (1, 1, 1, 1)


@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP])
def test_a_session_that_resumes_has_fresh_keys_at_once(kinds: Kinds) -> None:
    with Pair(cipher=Cipher.AES_256_GCM, kinds=kinds, client={"flows": 2, "idle_timeout": 20.0}) as pair:
        pair.up()
        pair.client.role.sleep(pair.now, "for the test")
        pair.flush()
        pair.run(5.0)
        assert epochs(pair) == (0, 0, 0, 0)
        pair.say("app", b"again")
        pair.run(1.0)
        assert epochs(pair) == (1, 1, 1, 1)
        assert pair.count(SessionUp, Toward.CLIENT) == 1


@pytest.mark.parametrize("end", Toward)
def test_an_end_whose_host_went_back_gets_fresh_keys(end: Toward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the client can begin; the server says until then that it wants to, though two words of it are lost."""
    with Pair(cipher=Cipher.AES_256_GCM, client={"flows": 2}) as pair:
        pair.up()
        exchange(pair, 2.0)
        node = pair.client if end is Toward.CLIENT else pair.server
        told: list[object] = []

        def first_two(message: object) -> bool:
            if isinstance(message, RekeyWanted):
                told.append(message)
            return isinstance(message, RekeyWanted) and len(told) < 3

        lose(monkeypatch, pair.server, first_two)
        node.role.want_keys(pair.now)
        exchange(pair, 5.0)
        assert epochs(pair) == (1, 1, 1, 1)
        assert len(told) == (3 if end is Toward.SERVER else 0)


@pytest.mark.parametrize("when", [0.0, 0.03, 0.06, 0.2, 5.0])
@pytest.mark.parametrize("end", Toward)
def test_a_process_restarts_during_a_rekey(when: float, end: Toward) -> None:
    with Pair(cipher=Cipher.AES_256_GCM, client={"flows": 2}, conditions=ROUGH, resets_allowed=True) as pair:
        pair.up()
        exchange(pair, 2.0)
        keys = keys_of(pair, pair.client)
        keys.asking.hasten(pair.now)
        pair.run_until(lambda: keys.asking.tries == 1, 3.0)
        pair.run(when)
        if end is Toward.SERVER:
            pair.restart_server()
        else:
            pair.replace_client()
            pair.up()
        pass_again(pair, 20.0)


@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP])
def test_ends_whose_keys_differ_find_each_other_again(kinds: Kinds) -> None:
    """As after one of them went back to a snapshot: their session is lost, and a hello makes another one."""
    with Pair(cipher=Cipher.AES_256_GCM, kinds=kinds, client={"flows": 2}, resets_allowed=True) as pair:
        pair.up()
        exchange(pair, 2.0)
        ring(pair, pair.server).begin(bytes(64), send=True)
        ring(pair, pair.server).understood[0] = None
        pass_again(pair, 30.0)


def test_a_public_key_of_low_order_changes_nothing() -> None:
    with Pair(cipher=Cipher.NONE, client={"flows": 1}) as pair:
        pair.up()
        flow = pair.flows(pair.client)[0]
        pair.client._context.outbox.send([pair.client.pump.send_control(flow.pump, Rekey(1, bytes(32)))])
        pair.flush()
        pair.run(1.0)
        assert epochs(pair) == (0, 0, 0, 0)
        assert pair.server.counters["malformed control messages"] == 1
