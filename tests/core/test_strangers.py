"""Hellos of strangers: garbage, recordings and copies shut no client out, and open no flow to anybody."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_network

import pytest

from rsock_nf.core.ends.accepting import STRANGERS_WHILE_BEHIND
from rsock_nf.core.ends.allowed import Allowed
from rsock_nf.core.parameters import Cipher, Kinds
from rsock_nf.core.protocols import Rng
from rsock_nf.core.types import Carried, Checksum, FlowKey, Packet
from rsock_nf.wire.native.half_open import BURST, MAX_AGE, MAX_FRESH, MAX_STRANGE, SAFE_AGE
from rsock_nf.wire.native.handshake import NativeHandshake
from rsock_nf.wire.native.opening import Hello, HelloMessage, Offer
from tests.core.conntrack import ACK, PSH, SYN, parse_tcp
from tests.core.pair import CLIENT_ADDRESS, SECRET, SERVER_ADDRESS, Pair
from tests.core.wire import Conditions, Crossing, Toward, is_udp, make_tcp, make_udp

SERVER = (SERVER_ADDRESS[4].packed, 10001)
CLIENT = CLIENT_ADDRESS[4].packed
VICTIM = (b"\xcb\x00\x71\x07", 4000)
both_kinds = pytest.mark.parametrize("kinds", [Kinds.TCP, Kinds.UDP], ids=["tcp", "udp"])


def hellos(count: int, seed: int = 1, cipher: Cipher = Cipher.NONE, mss: int = 1400) -> list[bytes]:
    """Recorded hellos of clients that have the secret."""
    pair = Pair(seed)
    handshake = NativeHandshake(SECRET)
    return [handshake.hello(Offer(cipher, mss, 7), pair.rng.randbytes)[0] for _ in range(count)]


def elsewhere(at: int) -> tuple[bytes, int]:
    """Another address for each number, IPv4."""
    return b"\xc6\x33" + (at // 250 % 250).to_bytes(1, "big") + (at % 250).to_bytes(1, "big"), 1024 + at % 60_000


def say(pair: Pair, source: tuple[bytes, int], payload: bytes, *, udp: bool, count: int = 1) -> None:
    """``payload`` reaches the server from ``source``; over TCP behind a handshake that its sender has completed."""
    if udp:
        packet = Carried(FlowKey(*SERVER, *source, udp=True), memoryview(payload), 0)
        for _ in range(count):
            pair.server.receive_carried(pair.now, [packet])
        return
    isn = pair.server_wire._cookie.isn(FlowKey(*SERVER, *source), 99, pair.now)
    made = make_tcp(source, SERVER, 100, isn + 1 & 0xFFFFFFFF, ACK | PSH, payload)
    for _ in range(count):
        pair.server.receive_packets(pair.now, [Packet(memoryview(made), 0, Checksum.VERIFY, b"link")])


def flood(pair: Pair, seconds: float, rate: int, one: Callable[[int], None], until: Callable[[], bool]) -> float:
    """``rate`` times a second, ``one`` happens.  Returns the seconds until ``until``."""
    began, number, step = pair.now, 0, 0.01
    while pair.now - began < seconds:
        if until():
            return pair.now - began
        for _ in range(int(rate * step)):
            one(number)
            number += 1
        pair.run(step)
    raise AssertionError(f"not within {seconds} s: {pair.client.role.reason!r}, {dict(pair.server.counters)}")


def is_up(pair: Pair) -> Callable[[], bool]:
    return lambda: all(slot.flow for slot in pair.client.role.slots)


# -- nobody is shut out


@both_kinds
def test_garbage_from_the_clients_address_costs_it_nothing(kinds: Kinds) -> None:
    """A stranger behind the same NAT has done a TCP handshake, and repeats one segment 500 times a second."""
    with Pair(kinds=kinds) as pair:
        pair.wire.strict = False
        say(pair, (CLIENT, 5555), bytes(93), udp=kinds is Kinds.UDP, count=1000)
        pair.start()
        took = flood(
            pair, 5.0, 500, lambda _: say(pair, (CLIENT, 5555), bytes(93), udp=kinds is Kinds.UDP), is_up(pair)
        )
        assert took < 1.0
        assert not pair.server.counters["hellos above the rate limit"]


@both_kinds
def test_recordings_from_the_clients_address_cost_it_nothing(kinds: Kinds) -> None:
    with Pair(kinds=kinds) as pair:
        pair.wire.strict = False
        recorded = hellos(300)
        udp = kinds is Kinds.UDP

        def one(at: int) -> None:
            say(pair, (CLIENT, 5000 + at % 100), recorded[at % len(recorded)], udp=udp)

        flood(pair, 1.0, 500, one, lambda: len(pair.server_wire.half_open) >= BURST)
        pair.start()
        assert flood(pair, 5.0, 500, one, is_up(pair)) < 1.0
        pair.wire.invalid.clear()


@both_kinds
def test_a_client_far_away_gets_in_among_recorded_hellos(kinds: Kinds) -> None:
    """2,000 of them a second, each from another address; the client's round trip takes 300 ms."""
    with Pair(kinds=kinds, conditions=Conditions(delay=0.3)) as pair:
        pair.wire.strict = False
        recorded = hellos(1000)

        def one(at: int) -> None:
            say(pair, elsewhere(at), recorded[at % len(recorded)], udp=kinds is Kinds.UDP)

        flood(pair, 2.0, 2000, one, lambda: pair.server.counters["hellos that were asked for a cookie"] > 1000)
        pair.start()
        assert flood(pair, 6.0, 2000, one, lambda: any(slot.flow for slot in pair.client.role.slots)) < 3.0
        assert pair.server.counters["hellos that were asked for a cookie"] > 2000
        assert not pair.server.counters["confirmations of nothing"]
        pair.wire.invalid.clear()


@both_kinds
def test_entries_of_strangers_are_bounded_and_short_lived(kinds: Kinds) -> None:
    with Pair(kinds=kinds) as pair:
        for at, hello in enumerate(hellos(MAX_STRANGE + 50)):
            say(pair, elsewhere(at), hello, udp=kinds is Kinds.UDP)
        pair.run(1.0)
        assert len(pair.server_wire.half_open) == MAX_STRANGE
        assert pair.server.counters["hellos that were asked for a cookie"] == 50
        pair.run(MAX_AGE + 5.0)
        assert len(pair.server_wire.half_open) == 0
        assert pair.server.next_timeout() is None
        assert not pair.server.role.sessions_by_id
        pair.wire.invalid.clear()


def with_cookies(pair: Pair, count: int, source: Callable[[int], tuple[bytes, int]]) -> None:
    """Hellos of clients that have the server's cookie, and do not confirm."""
    handshake = NativeHandshake(SECRET)
    for at in range(count):
        key = FlowKey(*SERVER, *source(at), udp=True)
        cookie = pair.server_wire._hello_cookies.make(pair.now, key)
        say(pair, source(at), handshake.hello(Offer(Cipher.NONE, 1400, 7), pair.rng.randbytes, cookie)[0], udp=True)
    pair.flush()


def test_an_entry_with_a_cookie_is_safe_for_two_seconds() -> None:
    with Pair(kinds=Kinds.UDP) as pair:
        with_cookies(pair, MAX_FRESH, elsewhere)
        with_cookies(pair, 10, lambda at: elsewhere(5000 + at))
        assert len(pair.server_wire.half_open) == MAX_FRESH
        assert pair.server.counters["hellos above the rate limit"] == 10
        pair.run(SAFE_AGE)
        with_cookies(pair, 10, lambda at: elsewhere(6000 + at))
        assert len(pair.server_wire.half_open) == MAX_FRESH
        assert pair.server.counters["half-open entries that gave way to later ones"] == 10


@pytest.mark.parametrize("family", [4, 6])
def test_one_source_has_a_rate_limit(family: int) -> None:
    """An IPv6 source is a /64: one host may use every address of it."""
    server = (SERVER_ADDRESS[family].packed, 10001)
    with Pair(kinds=Kinds.UDP, family=family) as pair:
        handshake = NativeHandshake(SECRET)
        for at in range(200):
            address = b"\xc6\x33\x64\x63" if family == 4 else bytes.fromhex("20010db8000000aa") + at.to_bytes(8, "big")
            key = FlowKey(*server, address, 2000 + at, udp=True)
            cookie = pair.server_wire._hello_cookies.make(pair.now, key)
            hello, _ = handshake.hello(Offer(Cipher.NONE, 1400, None), pair.rng.randbytes, cookie)
            pair.server.receive_carried(pair.now, [Carried(key, memoryview(hello), 0)])
        assert len(pair.server_wire.half_open) == BURST
        assert pair.server.counters["hellos above the rate limit"] == 200 - BURST


@both_kinds
def test_a_client_that_is_limited_says_so(kinds: Kinds) -> None:
    with Pair(kinds=kinds) as pair:
        for at, hello in enumerate(hellos(MAX_STRANGE)):
            say(pair, elsewhere(at), hello, udp=True)
        with_cookies(pair, int(BURST), lambda at: (CLIENT, 1000 + at))
        pair.start()
        pair.run_until(lambda: "takes no more hellos from this client's address" in pair.client.role.reason, 0.1)
        assert pair.client.role.turned_away
        assert pair.run_until(is_up(pair), 5.0)


# -- what a recording costs


@pytest.mark.parametrize("refused", ["cipher", "full", "MSS"])
def test_a_hello_that_is_turned_away_is_remembered(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[HelloMessage] = []
    read_hello = NativeHandshake.read_hello

    def count(handshake: NativeHandshake, hello: HelloMessage, rng: Rng) -> Hello:
        done.append(hello)
        return read_hello(handshake, hello, rng)

    monkeypatch.setattr(NativeHandshake, "read_hello", count)
    with Pair(kinds=Kinds.UDP, client={"flows": 1}, server={"max_sessions": 1}) as pair:
        pair.up()
        done.clear()
        cipher = Cipher.AES_256_GCM if refused == "cipher" else Cipher.NONE
        [hello] = hellos(1, cipher=cipher, mss=200 if refused == "MSS" else 1400)
        for at in range(100):
            say(pair, elsewhere(at), hello, udp=True)
        assert len(done) == 1


def test_a_recording_of_a_hello_with_a_cookie_is_worth_as_little() -> None:
    """Its cookie is good for one address, and for two minutes."""
    with Pair(kinds=Kinds.UDP) as pair:
        handshake, key = NativeHandshake(SECRET), FlowKey(*SERVER, *elsewhere(1), udp=True)
        cookie = pair.server_wire._hello_cookies.make(pair.now, key)
        hello, _ = handshake.hello(Offer(Cipher.NONE, 1400, None), pair.rng.randbytes, cookie)
        for at, other in enumerate(hellos(MAX_STRANGE)):
            say(pair, elsewhere(10 + at), other, udp=True)
        say(pair, elsewhere(2), hello, udp=True)
        assert len(pair.server_wire.half_open) == MAX_STRANGE
        pair.run(128.0)
        for at, other in enumerate(hellos(MAX_STRANGE)):
            say(pair, elsewhere(10 + at), other, udp=True)
        say(pair, elsewhere(1), hello, udp=True)
        assert len(pair.server_wire.half_open) == MAX_STRANGE


# -- nobody else gets a flow


@both_kinds
def test_copies_under_another_address_open_no_flow_to_it(kinds: Kinds) -> None:
    """Somebody reads what the client sends, and sends copies in the name of a victim: they arrive first."""
    with Pair(kinds=kinds, client={"flows": 4}) as pair:
        pair.wire.strict = False
        sent = {"as the victim": 0, "to the victim": 0}

        def copy(toward: Toward, packet: bytes) -> bool:
            udp = is_udp(packet)
            source, destination = (packet[12:16], packet[16:20])
            if toward is Toward.SERVER and source == CLIENT:
                port = int.from_bytes(packet[22:24], "big")
                if udp:
                    made = make_udp(VICTIM, (SERVER[0], port), packet[28:])
                else:
                    tcp = parse_tcp(packet)
                    made = make_tcp(VICTIM, (SERVER[0], port), tcp.seq, tcp.ack, tcp.flags, tcp.payload)
                sent["as the victim"] += len(made)
                pair.wire.inject(pair.now, Toward.SERVER, made, behind_judge=True)
            elif toward is Toward.CLIENT and destination == VICTIM[0]:
                sent["to the victim"] += len(packet)
                return True
            return False

        pair.wire.drop.append(copy)
        pair.up(5.0)
        pair.echo = True
        for _ in range(20):
            pair.say("app", *[bytes((at,)) * 1000 for at in range(20)])
            pair.run(0.1)
        assert all(flow.key.remote == CLIENT for flow in pair.server.flows)
        assert len(pair.flows(pair.server)) == 4
        assert sent["to the victim"] <= sent["as the victim"]
        pair.wire.invalid.clear()


def test_the_cookie_of_a_busy_server_keeps_the_tcp_connection_whole() -> None:
    """The judge in the middle finds no segment INVALID, and the first number is still the client's own."""
    with Pair(client={"flows": 3}) as pair:
        for at, hello in enumerate(hellos(MAX_STRANGE)):
            say(pair, elsewhere(at), hello, udp=True)
        syns: dict[int, int] = {}

        def note(crossing: Crossing) -> None:
            if crossing.tcp.flags & SYN and crossing.toward is Toward.SERVER:
                syns.setdefault(crossing.tcp.source[1], crossing.tcp.seq)

        pair.wire.taps.append(note)
        pair.up(1.0)
        assert pair.server.counters["hellos that were asked for a cookie"] == 1
        for flow in pair.flows(pair.server):
            assert flow.peer_isn == syns[flow.key.remote_port]


# -- networks from which nobody is let in


@both_kinds
def test_a_server_answers_nobody_from_outside_of_allow(kinds: Kinds) -> None:
    inside = ip_network(f"{CLIENT_ADDRESS[4]}/31", strict=False)
    for allow, allowed in (((inside,), True), ((ip_network("10.99.0.0/16"), ip_network("::/0")), False)):
        with Pair(kinds=kinds, server={"allow": allow}) as pair:
            pair.start()
            pair.run(3.0)
            assert bool(pair.flows(pair.server)) == allowed
            if not allowed:
                assert pair.wire.sent[Toward.CLIENT] == 0
                assert len(pair.server_wire.half_open) == 0
                assert set(pair.server.counters) == {"packets from outside of allow"}


@pytest.mark.parametrize("family", [4, 6])
def test_allowed_networks(family: int) -> None:
    networks = [ip_network("192.0.2.128/25"), ip_network("203.0.113.7"), ip_network("2001:db8:1::/48")]
    allowed = Allowed(networks)
    for address in ("192.0.2.128", "192.0.2.255", "203.0.113.7", "2001:db8:1::", "2001:db8:1:ffff::1"):
        assert ip_address(address).packed in allowed
    for address in ("192.0.2.127", "192.0.3.128", "203.0.113.6", "2001:db8:2::", "::192.0.2.128"):
        assert ip_address(address).packed not in allowed
    assert CLIENT_ADDRESS[family].packed in Allowed(())


# -- while packets wait, flows come first


def syns(count: int) -> list[Packet]:
    made = [make_tcp(elsewhere(at), SERVER, at, 0, SYN) for at in range(count)]
    return [Packet(memoryview(one), 0, Checksum.VERIFY, b"link") for one in made]


def said_by_the_client(pair: Pair, datagram: bytes) -> list[Packet | Carried]:
    """What the client sends for it, taken off the wire."""
    taken: list[tuple[Toward, bytes]] = []

    def take(toward: Toward, packet: bytes) -> bool:
        taken.append((toward, packet))
        return True

    pair.wire.drop.append(take)
    pair.say("app", datagram)
    pair.wire.drop.remove(take)
    return [item for _, item in pair.wire._merged(taken)]


@both_kinds
def test_a_server_that_is_behind_serves_its_flows_and_few_strangers(kinds: Kinds) -> None:
    with Pair(kinds=kinds, client={"flows": 1}) as pair:
        pair.up()
        pair.say("app", b"first")
        pair.run(0.2)
        sent = pair.wire.sent[Toward.CLIENT]
        data = said_by_the_client(pair, b"second")
        if kinds is Kinds.TCP:
            packets = [item for item in data if isinstance(item, Packet)]
            pair.server.receive_packets(pair.now, [*syns(100), *packets], behind=True)
        else:
            garbage = [
                Carried(FlowKey(*SERVER, *elsewhere(at), udp=True), memoryview(bytes(93)), 0) for at in range(100)
            ]
            carried = [item for item in data if isinstance(item, Carried)]
            pair.server.receive_carried(pair.now, [*garbage, *carried], behind=True)
        pair.flush()
        assert pair.heard() == [b"first", b"second"]
        assert pair.server.counters["strangers' packets while behind"] == 100 - STRANGERS_WHILE_BEHIND
        if kinds is Kinds.TCP:
            assert pair.wire.sent[Toward.CLIENT] - sent <= STRANGERS_WHILE_BEHIND + 1, "SYN-ACKs, and perhaps an ACK"
            pair.server.receive_packets(pair.now, syns(100))
            pair.flush()
            assert pair.wire.sent[Toward.CLIENT] - sent >= 100, "all of them, when nothing waits"
        pair.wire.invalid.clear()


def test_a_new_client_comes_through_a_flood_at_a_server_that_is_behind() -> None:
    """SYNs have a queue of their own: each read of it has 8, and the client's is somewhere among them."""
    with Pair(client={"flows": 3}) as pair:
        receive = pair.server.receive_packets
        rng = random.Random(1)

        def crowded(now: float, packets: Iterable[Packet]) -> None:
            asking = [packet for packet in packets if packet.data[33] == SYN]
            receive(now, [packet for packet in packets if packet.data[33] != SYN], behind=True)
            read = [*asking, *syns(8 - len(asking))]
            rng.shuffle(read)
            receive(now, read, behind=True)

        pair.server.receive_packets = crowded  # type: ignore[method-assign, assignment]
        pair.wire.strict = False
        pair.start()
        pair.run_until(is_up(pair), 60.0)
        pair.wire.invalid.clear()


def test_a_client_that_is_behind_still_hears_of_the_flows_that_it_opens() -> None:
    with Pair() as pair:
        receive = pair.client.receive_packets
        pair.client.receive_packets = lambda now, packets: receive(now, packets, behind=True)  # type: ignore[method-assign, misc, assignment]
        pair.up(within=1.0)
