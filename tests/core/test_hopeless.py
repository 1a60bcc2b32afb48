"""When a client may say that waiting will not help: a wrong secret or cipher, and no accident of the path."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from rsock_nf.core.parameters import Cipher, Kinds
from rsock_nf.core.types import PortRange
from rsock_nf.wire.native.client import MEANT_HELLOS
from rsock_nf.wire.parameters import NativeParameters
from tests.core.pair import SERVER_ADDRESS, Pair
from tests.core.wire import Conditions, Nat, Toward

WRONG = {"secret": b"x" * 32}


def hopeless(pair: Pair) -> bool:
    return pair.client.role.hopeless


@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.ALL])
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.15])
def test_a_wrong_secret_is_known_within_two_seconds(kinds: Kinds, delay: float) -> None:
    with Pair(client=WRONG, kinds=kinds, conditions=Conditions(delay=delay)) as pair:
        pair.start()
        pair.run(0.8)
        assert not hopeless(pair), "two lost hellos would look the same"
        assert pair.run_until(lambda: hopeless(pair), 2.0) + 0.8 <= 2.0
        assert "are secret, wire and version" in pair.client.role.reason
        pair.run(5.0)
        assert hopeless(pair)
        assert not pair.client.role.turned_away, "the server says nothing"


@pytest.mark.parametrize("count", [1, 2])
def test_few_ports_take_longer(count: int) -> None:
    ports = (PortRange(10001, 10000 + count),)
    with Pair(client={**WRONG, "ports": ports}, server={"ports": ports}) as pair:
        pair.start()
        pair.run(2.0)
        assert not hopeless(pair)
        pair.run_until(lambda: hopeless(pair), 20.0)


def test_another_cipher_is_known_at_once() -> None:
    with Pair(client={"cipher": Cipher.AES_256_GCM}) as pair:
        pair.start()
        pair.run_until(lambda: hopeless(pair), 0.5)
        assert pair.client.role.reason.startswith("the server uses cipher none")
        assert pair.client.role.turned_away


def test_udp_that_may_be_blocked_is_waited_for() -> None:
    with Pair(client=WRONG, kinds=Kinds.UDP) as pair:
        pair.start()
        pair.run(30.0)
        assert not hopeless(pair)


def test_a_silent_host_is_waited_for() -> None:
    with Pair() as pair:
        pair.wire.drop.append(lambda *_: True)
        pair.start()
        pair.run(30.0)
        assert not hopeless(pair)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("loss", [0.3, 0.5])
def test_a_path_that_loses_much_is_waited_for(seed: int, loss: float) -> None:
    with Pair(seed, conditions=Conditions(loss=loss)) as pair:
        pair.start()
        for _ in range(100):
            pair.run(0.1)
            assert not hopeless(pair), pair.client.role.reason


@pytest.mark.parametrize("delay", [0.3, 0.6, 1.2])
def test_a_slow_path_is_waited_for(delay: float) -> None:
    with Pair(conditions=Conditions(delay=delay), late_syns=True) as pair:
        pair.start()
        for _ in range(150):
            pair.run(0.1)
            assert not hopeless(pair), pair.client.role.reason
        assert pair.client.role.reason == ""


def test_hellos_that_are_lost_for_a_second_are_waited_for() -> None:
    with Pair() as pair:
        pair.wire.drop.append(lambda toward, packet: toward is Toward.SERVER and len(packet) > 80)
        pair.start()
        pair.run(1.0)
        assert not hopeless(pair)
        pair.wire.drop.clear()
        pair.run(2.0)
        assert pair.client.role.reason == ""


def test_what_was_hopeless_is_over_when_the_server_answers() -> None:
    """Somebody has corrected the other side, and this one was told to wait."""
    with Pair() as pair:
        right = pair.server
        pair._server_secrets = NativeParameters(b"y" * 32)
        pair.server = pair._make_server()
        pair.start()
        pair.run_until(lambda: hopeless(pair), 3.0)
        pair.server = right
        pair.run_until(lambda: not pair.client.role.reason, 40.0)
        assert not hopeless(pair)


@pytest.mark.parametrize("what", ["secret", "address"])
def test_what_has_changed_is_tried_as_often_as_what_was_there_first(what: str) -> None:
    hellos: list[bytes] = []

    def count(toward: Toward, packet: bytes) -> bool:
        if toward is Toward.SERVER and len(packet) > 80:
            hellos.append(packet)
        return False

    with Pair(client=WRONG) as pair:
        pair.wire.drop.append(count)
        pair.start()
        pair.run_until(lambda: hopeless(pair), 3.0)
        first = len(hellos)
        if what == "secret":
            pair.client.role.use_secrets(pair.now, NativeParameters(b"z" * 32))
        else:
            pair.client.role.use_addresses(pair.now, [SERVER_ADDRESS[4] + 50])
        pair.flush()
        hellos.clear()
        pair.run_until(lambda: hopeless(pair), 5.0)
        assert len(hellos) >= first >= MEANT_HELLOS


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP])
def test_the_client_learns_its_address_as_the_server_sees_it(family: int, kinds: Kinds) -> None:
    public = b"\xc6\x33\x64\x01" if family == 4 else bytes.fromhex("20010db8000000000000000000000077")
    with Pair(family=family, kinds=kinds, nat=Nat(public)) as pair:
        pair.up()
        pair.run(1.0)
        (session,) = pair.client.sessions
        seen = IPv6Address(session.seen_as)
        assert (seen.ipv4_mapped or seen).packed == public
