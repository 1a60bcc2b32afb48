"""By the hint of a payload a server of a thousand clients finds the secret, at the price of one."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsock_nf.core.parameters import Cipher
from rsock_nf.core.types import Malformed
from rsock_nf.wire.native import hints
from rsock_nf.wire.native.envelope import Envelope
from rsock_nf.wire.native.handshake import NativeHandshake, NativeKeys
from rsock_nf.wire.native.hints import HOUR, SIZE, Form, Hinted, Hints, hour_of, read_hint
from rsock_nf.wire.native.holders import Holders
from rsock_nf.wire.native.opening import ConfirmMessage, HelloMessage, JoinMessage, Offer
from rsock_nf.wire.parameters import KnownClient, NativeParameters
from tests.wire.native import independent_peer

MANY = 1000
NOW = 1_700_000_000.0
OFFER = Offer(Cipher.NONE, 1400, 7)
KEYS = NativeKeys.derive(Cipher.NONE, bytes(32), bytes(range(32)))
CHANCE = random.Random(1)
SECRETS = [CHANCE.randbytes(32) for _ in range(MANY)]
CLIENTS = tuple(KnownClient(f"client-{number}", (secret,)) for number, secret in enumerate(SECRETS))
forms = pytest.mark.parametrize("form", list(Form), ids=lambda form: form.value)


@pytest.fixture(scope="module")
def thousand() -> Holders:
    return Holders(NativeParameters(b"", clients=CLIENTS), lambda: NOW)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the payloads that were opened under some secret."""
    opened: list[int] = []
    usual = Envelope.open

    def counting(self: Envelope, message: bytes, lengths: object) -> tuple[int, bytes]:
        opened.append(len(message))
        return usual(self, message, lengths)  # type: ignore[arg-type]

    monkeypatch.setattr(Envelope, "open", counting)
    return opened


def messages(secret: bytes, form: Form, time_of_day: float = NOW) -> list[bytes]:
    """A hello, a join and a confirmation."""
    handshake, hinted = NativeHandshake(secret), Hinted(form, hour_of(time_of_day))
    hello, _ = handshake.hello(OFFER, CHANCE.randbytes, hinted=hinted)
    join = handshake.join(KEYS, 7, 1, OFFER, CHANCE.randbytes)
    confirm = handshake.confirm(KEYS, 7, 1, bytes(16))
    return [hello, handshake.hints.attach(join, hinted), handshake.hints.attach(confirm, hinted)]


@forms
def test_each_of_a_thousand_is_found_by_one_try(thousand: Holders, tries: list[int], form: Form) -> None:
    for number, secret in enumerate(SECRETS):
        hello = messages(secret, form)[0]
        tries.clear()
        holder, message = thousand.read_untrusted(memoryview(hello))
        assert holder.identity.name == f"client-{number}"
        assert isinstance(message, HelloMessage)
        assert len(tries) == 1


@forms
def test_every_kind_of_message_has_a_hint(thousand: Holders, form: Form) -> None:
    kinds = [type(thousand.read_untrusted(message)[1]) for message in messages(SECRETS[3], form)]
    assert kinds == [HelloMessage, JoinMessage, ConfirmMessage]


def test_garbage_is_tried_with_nobody(thousand: Holders, tries: list[int]) -> None:
    for size in range(200):
        with pytest.raises(Malformed):
            thousand.read_untrusted(memoryview(CHANCE.randbytes(size)))
    assert tries == []


def test_beside_clients_garbage_costs_what_the_servers_own_secrets_cost(tries: list[int]) -> None:
    holders = Holders(NativeParameters(SECRETS[0], SECRETS[1], clients=CLIENTS[2:]), lambda: NOW)
    with pytest.raises(Malformed):
        holders.read_untrusted(CHANCE.randbytes(100))
    assert tries == [100, 100]


def test_a_client_of_before_has_no_hint_and_reaches_a_server_with_that_secret() -> None:
    holders = Holders(NativeParameters(SECRETS[0], SECRETS[1], clients=CLIENTS[2:]), lambda: NOW)
    for number, secret in enumerate(SECRETS[:2], 1):
        holder, _ = holders.read_untrusted(NativeHandshake(secret).hello(OFFER, CHANCE.randbytes)[0])
        assert (holder.identity.name, holder.identity.secret) == ("", number)
    with pytest.raises(Malformed, match="not made under a secret that is known here"):
        holders.read_untrusted(NativeHandshake(SECRETS[2]).hello(OFFER, CHANCE.randbytes)[0])


@pytest.mark.parametrize("wrong", [-HOUR, -1.0, 1.0, HOUR])
def test_a_clock_may_be_wrong_by_an_hour(thousand: Holders, wrong: float) -> None:
    assert thousand.read_untrusted(messages(SECRETS[5], Form.HOURLY, NOW + wrong)[0])


@pytest.mark.parametrize("wrong", [-NOW, -2 * HOUR, 2 * HOUR, 1e18])
def test_with_a_clock_that_is_wrong_by_more_the_lasting_hint_helps(thousand: Holders, wrong: float) -> None:
    with pytest.raises(Malformed):
        thousand.read_untrusted(messages(SECRETS[5], Form.HOURLY, NOW + wrong)[0])
    assert thousand.read_untrusted(messages(SECRETS[5], Form.LASTING, NOW + wrong)[0])


def test_the_table_follows_the_clock() -> None:
    clock = [NOW]
    holders = Holders(NativeParameters(b"", clients=CLIENTS[:3]), lambda: clock[0])
    for hours in (0, 1, 2, 1000, -3):
        clock[0] = NOW + hours * HOUR
        assert holders.read_untrusted(messages(SECRETS[1], Form.HOURLY, clock[0])[0])
    with pytest.raises(Malformed):
        holders.read_untrusted(messages(SECRETS[1], Form.HOURLY)[0])


def test_two_clients_with_the_same_hint_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hints, "_of", lambda *_: 12345)
    holders = Holders(NativeParameters(b"", clients=CLIENTS[:5]), lambda: NOW)
    for number in range(5):
        for message in messages(SECRETS[number], Form.HOURLY):
            assert holders.read_untrusted(message)[0].identity.name == f"client-{number}"


def test_what_a_hint_shows_to_who_watches() -> None:
    """In one hour the same, behind its mask; in another hour another; and the bytes on the wire never repeat."""
    said = [messages(SECRETS[0], Form.HOURLY, NOW)[0] for _ in range(20)]
    assert len({read_hint(message) for message in said}) == 1
    assert len({message[-SIZE:] for message in said}) == 20
    later = messages(SECRETS[0], Form.HOURLY, NOW + HOUR)[0]
    other = messages(SECRETS[1], Form.HOURLY, NOW)[0]
    lasting = messages(SECRETS[0], Form.LASTING)[0]
    assert len({read_hint(message) for message in (said[0], later, other, lasting)}) == 4


def test_the_message_before_its_hint_is_that_of_before() -> None:
    secret = SECRETS[0]
    rng = random.Random(4).randbytes
    bare, _ = NativeHandshake(secret).hello(OFFER, rng)
    hinted, _ = NativeHandshake(secret).hello(OFFER, random.Random(4).randbytes, hinted=Hinted(Form.HOURLY, 9))
    assert hinted[:-SIZE] == bare


def test_the_independent_peer_has_the_same_hints() -> None:
    ours, theirs = NativeHandshake(SECRETS[0]).hints, independent_peer.Secret(SECRETS[0])
    message = messages(SECRETS[0], Form.HOURLY)[0]
    assert theirs.hinted(message[:-SIZE], int(NOW) // 3600) == message
    assert theirs.hinted(message[:-SIZE], None) == ours.attach(message[:-SIZE], Hinted(Form.LASTING))


def change(message: bytes, at: int) -> bytes:
    return message[:at] + bytes((message[at] ^ 1,)) + message[at + 1 :]


@pytest.mark.parametrize(
    "cut", [lambda m: m[:-1], lambda m: m + b"\0", lambda m: change(m, len(m) - 1), lambda m: change(m, 20)]
)
def test_a_changed_message_is_garbage(thousand: Holders, cut: Callable[[bytes], bytes]) -> None:
    for message in messages(SECRETS[9], Form.HOURLY):
        with pytest.raises(Malformed):
            thousand.read_untrusted(cut(message))


def test_two_secrets_of_one_client_and_what_becomes_of_them() -> None:
    before = Holders(NativeParameters(b"", clients=(KnownClient("alice", tuple(SECRETS[:2])),)), lambda: NOW)
    found = [before.read_untrusted(messages(secret, Form.HOURLY)[0])[0].identity for secret in SECRETS[:2]]
    assert [(one.name, one.secret, one.text) for one in found] == [
        ("alice", 1, "alice (first secret)"),
        ("alice", 2, "alice (second secret)"),
    ]
    after = Holders(NativeParameters(b"", clients=(KnownClient("alicia", (SECRETS[1],)),)), lambda: NOW)
    assert after.now_of(found[0]) is None
    renamed = after.now_of(found[1])
    assert renamed is not None
    assert (renamed.name, renamed.secret, renamed.text) == ("alicia", 0, "alicia")


def test_no_secret_in_what_may_be_printed() -> None:
    secret = os.urandom(32)
    parameters = NativeParameters(secret, secret[::-1], clients=(KnownClient("alice", (secret,)),))
    identity = Holders(parameters, hints.no_clock).read_untrusted(messages(secret, Form.LASTING)[0])[0].identity
    assert repr(secret) not in repr(parameters)
    assert repr(secret) not in repr(identity)


@st.composite
def lists_of_clients(draw: st.DrawFn) -> NativeParameters:
    """Some of eight secrets, given out anew: to clients with one or two, and to the server itself."""
    secrets = draw(st.permutations(SECRETS[:8]))
    sizes = draw(st.lists(st.integers(1, 2), max_size=4))
    own, secrets = secrets[: draw(st.integers(0, 2))], secrets[2:]
    clients = []
    for number, size in enumerate(sizes):
        given_out, secrets = secrets[:size], secrets[size:]
        if given_out:
            clients.append(KnownClient(draw(st.sampled_from("abc")) + str(number), tuple(given_out)))
    first, second = [*own, b"", b""][:2]
    return NativeParameters(first, second, tuple(clients))


@settings(max_examples=25)
@given(st.lists(lists_of_clients(), min_size=1, max_size=5))
def test_after_any_changes_exactly_those_are_known_who_are_on_the_list(lists: list[NativeParameters]) -> None:
    holders: Holders | None = None
    for parameters in lists:
        was, holders = holders, Holders(parameters, lambda: NOW, holders)
        expected = dict.fromkeys(parameters.own_secrets, "")
        expected |= {secret: client.name for client in parameters.clients for secret in client.secrets}
        for secret in SECRETS[:8]:
            hello = messages(secret, Form.HOURLY)[0]
            for payload, known in ((hello, secret in expected), (hello[:-SIZE], secret in parameters.own_secrets)):
                try:
                    found = holders.read_untrusted(payload)[0].identity
                except Malformed:
                    assert not known
                else:
                    assert known
                    assert found.name == expected[secret]
                    assert holders.now_of(found) == found
        for tag, holder in was.by_tag.items() if was is not None else ():
            assert (holders.now_of(holder.identity) is None) is (tag not in holders.by_tag)
