"""A server's flows over UDP follow their clients to another address, and nobody else."""

from __future__ import annotations

import random
from ipaddress import ip_network

import pytest

from rsock_nf.core.ends.moving import TRIALS, TRIED_A_SECOND, UNPROVED_SHARE
from rsock_nf.core.events import FlowClosed, FlowMoved, SessionUp
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.states import State
from rsock_nf.core.parameters import Cipher, Kinds
from rsock_nf.core.types import Carried, FlowKey, PortRange
from rsock_nf.wire.native.epochs import GRACE
from rsock_nf.wire.native.frames import PlainCodec, SealedCodec
from rsock_nf.wire.native.handshake import NativeKeys
from rsock_nf.wire.native.rekeying import INTERVAL
from tests.core.many import Many
from tests.core.outputs import outputs
from tests.core.pair import SERVER_ADDRESS, Pair, numbered
from tests.core.wire import Conditions, Merge, Nat, Toward, endpoints, is_udp, make_udp

PUBLIC, OTHER = b"\xcb\x00\x71\x07", b"\xcb\x00\x71\x08"
THIRD = (b"\xc6\x33\x64\x63", 5555)
SERVER = SERVER_ADDRESS[4].packed
ONE_PORT = (PortRange(10001, 10001),)
CIPHERS = [Cipher.NONE, Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305]


def standing(cipher: Cipher = Cipher.AES_256_GCM, kinds: Kinds = Kinds.UDP, **options: object) -> Pair:
    """A pair behind a NAT, with all its flows and one conversation."""
    pair = Pair(cipher=cipher, kinds=kinds, nat=Nat(PUBLIC), **options)  # type: ignore[arg-type]
    pair.up()
    pair.say("app", b"hello")
    pair.run(3.0)
    return pair


def rebind(pair: Pair, public: bytes | None = None) -> None:
    assert pair.wire.nat is not None
    pair.wire.nat.rebind(public)


def talk(pair: Pair, seconds: float, tag: bytes) -> tuple[int, int]:
    """A datagram every 10 ms each way; how many did not arrive at the target and at the application."""
    before, count = (len(pair.at_target), len(pair.at_app)), round(seconds * 100)
    for up, down in zip(numbered(count, 600, tag + b"u"), numbered(count, 600, tag + b"d"), strict=True):
        pair.say("app", up)
        pair.reply(pair.server_peer(), down)
        pair.run(0.01)
    pair.run(0.5)
    return count - (len(pair.at_target) - before[0]), count - (len(pair.at_app) - before[1])


def toward_server(pair: Pair) -> list[bytes]:
    """From now on, the UDP packets that the client sends, as they leave it."""
    seen: list[bytes] = []

    def note(toward: Toward, packet: bytes) -> bool:
        if toward is Toward.SERVER and is_udp(packet):
            seen.append(packet)
        return False

    pair.wire.drop.append(note)
    return seen


def from_elsewhere(packet: bytes, source: tuple[bytes, int] = THIRD) -> bytes:
    _, destination, payload = endpoints(packet)
    return make_udp(source, destination, payload)


def flow_at(pair: Pair, packet: bytes) -> Established:
    """The server's flow to which a packet of the client belongs, by the port to which it went."""
    (flow,) = [flow for flow in pair.flows(pair.server) if flow.key.local_port == endpoints(packet)[1][1]]
    return flow


@pytest.mark.parametrize("public", [None, OTHER], ids=["another port", "another address"])
@pytest.mark.parametrize("kinds", [Kinds.UDP, Kinds.ALL])
@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_nat_that_rebinds_costs_a_round_trip(cipher: Cipher, kinds: Kinds, public: bytes | None) -> None:
    with standing(cipher, kinds) as pair:
        assert talk(pair, 2.0, b"before") == (0, 0)
        pumps = {flow.pump for flow in pair.flows(pair.server) if flow.key.udp}
        closed, sockets = pair.count(FlowClosed), dict(pair.sockets)
        if kinds is Kinds.ALL:  # the judge takes part in TCP, and is asked about UDP alone here
            assert pair.wire.nat is not None
            pair.wire.nat.rebind_udp(public)
        else:
            rebind(pair, public)
        up, down = talk(pair, 5.0, b"after")
        # Each of ten flows is out for a round trip of 20 ms from its first datagram on.
        assert up <= (20 if cipher is Cipher.NONE else 0), "what is not sealed waits for the address to prove itself"
        assert down <= 40
        assert {flow.pump for flow in pair.flows(pair.server) if flow.key.udp} == pumps, "the same flows"
        assert pair.count(FlowClosed) == closed
        assert pair.count(FlowMoved, Toward.SERVER) == 10
        assert pair.sockets == sockets
        assert pair.count(SessionUp, Toward.SERVER) == 1
        assert not any(flow.health.unanswered for flow in pair.flows(pair.client))
        assert pair.server.sessions[0].peer.startswith("203.0.113.7:" if public is None else "203.0.113.8:")
        assert talk(pair, 2.0, b"later") == (0, 0)


@pytest.mark.slow
def test_keys_are_renewed_on_a_flow_that_has_moved() -> None:
    with standing() as pair:
        rebind(pair)
        talk(pair, 2.0, b"moved")
        assert talk(pair, INTERVAL + GRACE + 5.0, b"rekeyed") == (0, 0)
        (session,) = pair.server.sessions
        assert isinstance(session.keys, NativeKeys)
        assert session.keys.ring.sending.number >= 1
        assert talk(pair, 2.0, b"later") == (0, 0)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_recording_from_a_third_address_moves_nothing_and_gets_nothing(cipher: Cipher) -> None:
    with standing(cipher) as pair:
        seen = toward_server(pair)
        talk(pair, 2.0, b"recorded")
        recorded, heard = list(seen), len(pair.at_target)
        to_third: list[bytes] = []
        pair.wire.drop.append(lambda toward, packet: toward is Toward.CLIENT and _is_to(packet, THIRD, to_third))
        for packet in recorded:
            pair.wire.inject(pair.now, Toward.SERVER, from_elsewhere(packet), behind_judge=True)
            pair.run(0.002)
        pair.run(2.0)
        assert pair.count(FlowMoved) == 0
        assert len(pair.at_target) == heard
        said = sum(len(endpoints(packet)[2]) for packet in recorded)
        got = sum(len(endpoints(packet)[2]) for packet in to_third)
        assert got == 0 if cipher is not Cipher.NONE else got <= said, "data without a seal only asks for a proof"
        assert talk(pair, 1.0, b"later") == (0, 0)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_who_sends_copies_of_the_newest_frames_first_moves_nothing(cipher: Cipher) -> None:
    """He reads and is faster, but does not get what goes to the client.  The probe's answer never comes from him."""
    with standing(cipher) as pair:
        to_third: list[bytes] = []
        said = 0

        def race(toward: Toward, packet: bytes) -> bool:
            nonlocal said
            if toward is Toward.SERVER:
                pair.wire.inject(pair.now, Toward.SERVER, from_elsewhere(packet), behind_judge=True)
                said += len(endpoints(packet)[2])
            return toward is Toward.CLIENT and _is_to(packet, THIRD, to_third)

        pair.wire.drop.append(race)
        assert talk(pair, 8.0, b"raced")[1] == 0, "what goes down stays on the old addresses"
        assert pair.count(FlowMoved) == 0
        assert pair.count(FlowClosed) == 0
        got = sum(len(endpoints(packet)[2]) for packet in to_third)
        assert 0 < got <= UNPROVED_SHARE * said
        pair.wire.drop.remove(race)
        assert talk(pair, 2.0, b"later") == (0, 0)


def test_an_address_that_has_not_proved_itself_gets_three_bytes_for_one() -> None:
    """The client is elsewhere, and asks; what goes to it is lost, so it cannot prove where it is."""
    with standing(client={"flows": 1}) as pair:
        lost: list[bytes] = []
        rebind(pair, OTHER)

        def lose(toward: Toward, packet: bytes) -> bool:
            if toward is Toward.CLIENT and endpoints(packet)[1][0] == OTHER:
                lost.append(packet)
            return toward is Toward.CLIENT

        pair.wire.drop.append(lose)
        seen = toward_server(pair)
        moved = pair.server.flows.established()[0]
        for number in range(300):
            pair.say("app", b"%d" % number)
            pair.reply(pair.server_peer(), b"a" * 1000)
            pair.run(0.01)
        assert moved.key.remote == PUBLIC
        got = sum(len(endpoints(packet)[2]) for packet in lost)
        said = sum(len(endpoints(packet)[2]) for packet in seen)
        assert 0 < got <= UNPROVED_SHARE * said


def test_a_frame_that_comes_late_from_the_old_address_moves_nothing_back() -> None:
    with standing(client={"flows": 1}) as pair:
        held = toward_server(pair)
        pair.say("app", b"late")
        (late,) = held
        pair.wire._queue.clear()
        rebind(pair)
        talk(pair, 1.0, b"after")
        assert pair.count(FlowMoved) == 1
        key = pair.flows(pair.server)[0].key
        pair.wire.inject(pair.now, Toward.SERVER, from_elsewhere(late, (PUBLIC, 50_001)), behind_judge=True)
        pair.run(0.5)
        assert b"late" in pair.heard(), "it is the client's, and has not come before"
        assert pair.flows(pair.server)[0].key == key
        assert pair.count(FlowMoved) == 1


def test_a_flow_that_was_dialled_anew_meanwhile() -> None:
    """The new address proves itself only after the client has given the flow up."""
    with standing(client={"flows": 2}) as pair:
        rebind(pair)
        pair.wire.drop.append(lambda toward, _: toward is Toward.CLIENT)
        talk(pair, 6.0, b"lost")
        pair.wire.drop.clear()
        pair.run(10.0)
        assert len(pair.flows(pair.client)) == 2
        assert talk(pair, 2.0, b"later") == (0, 0)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("merge", Merge)
def test_bursts_arrive_from_elsewhere_too(cipher: Cipher, merge: Merge) -> None:
    with standing(cipher, conditions=Conditions(merge=merge)) as pair:
        rebind(pair)
        for at in range(100):
            pair.say("app", *numbered(30, 700, first=30 * at))
            pair.run(0.01)
        pair.run(1.0)
        assert pair.count(FlowMoved) == 10
        assert len(set(pair.heard()) - {b"hello"}) >= (2900 if cipher is not Cipher.NONE else 2000)
        assert talk(pair, 1.0, b"later") == (0, 0)


def many(count: int, cipher: Cipher = Cipher.AES_256_GCM) -> Many:
    """So many clients, each with one flow to the same port."""
    common = {"cipher": cipher, "kinds": Kinds.UDP}
    site = Many(count, client={**common, "flows": 1, "ports": ONE_PORT}, server=common)
    for at in range(count):
        site.up(at)
        site.say(at, "app", [b"first"])
    return site


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_flood_of_strangers_is_tried_so_often_and_no_more(cipher: Cipher, monkeypatch: pytest.MonkeyPatch) -> None:
    """40,000 payloads of strangers in two seconds, half of them from a client's address."""
    trials = 0
    codec = PlainCodec if cipher is Cipher.NONE else SealedCodec
    ours = codec.may_open

    def counted(self: PlainCodec | SealedCodec, payload: memoryview) -> bool:
        nonlocal trials
        trials += 1
        return ours(self, payload)  # type: ignore[arg-type]

    site = many(40, cipher)
    inside = next(iter(site.server.flows)).key.remote
    monkeypatch.setattr(codec, "may_open", counted)
    most, rng = 0, random.Random(7)
    for number in range(40_000):
        address, before = inside if number % 2 else number.to_bytes(4, "big"), trials
        key = FlowKey(SERVER, 10001, address, 1 + number, udp=True)
        payload = memoryview(rng.randbytes(90))
        site.server.receive_carried(site.now + number / 20_000, [Carried(key, payload, 0)])
        most = max(most, trials - before)
    assert most <= 2 * TRIALS
    in_three_seconds = 3 * TRIED_A_SECOND + 1  # two, and what was saved before them
    assert TRIED_A_SECOND * TRIALS <= trials <= in_three_seconds * (1 + TRIALS), "on one flow, and on others"
    assert site.server.counters["payloads of no flow that were not tried"] > 30_000
    assert not outputs(site.server).bursts
    site.move(3, b"\x0b\0\0\3")
    site.run(3.0)
    for number in range(6):
        site.say(3, "app", [b"%d" % number])
    assert [flow for flow in site.server.flows if flow.key.remote[0] == 11], "a second later there are trials again"


def test_one_of_many_flows_is_found_from_another_address() -> None:
    """Each payload is tried on the next 16 flows, so one of 100 is found within seven payloads."""
    site = many(100)
    site.move(60, b"\x0b\0\0\1")
    for number in range(8):
        site.say(60, "app", [b"%d" % number])
    moved = [flow for flow in site.server.flows if flow.key.remote == b"\x0b\0\0\1"]
    assert len(moved) == 1
    assert site.counted["target"] >= 100 + 2
    before = site.counted["app"]
    site.reply(next(arrived.peer for arrived in site.at_target if arrived.datagrams == [b"7"]), [b"answer"])
    assert site.counted["app"] == before + 1


def test_a_client_gets_the_address_that_another_ones_flow_had() -> None:
    """A router restarts, and gives its clients' ports out anew: the flow that had the address before ends."""
    site = many(3)
    first, second, third = (next(iter(session.flows.values())) for session in site.server.sessions)
    had = second.key
    site.move(0, had.remote, had.remote_port - first.key.remote_port)
    site.say(0, "app", [b"from there"])
    assert first.key == had
    assert set(site.server.flows) == {first, third}
    assert second.state is State.CLOSED


def test_a_server_lets_nobody_move_out_of_allow() -> None:
    with standing(client={"flows": 2}, server={"allow": (ip_network("203.0.113.7/32"),)}) as pair:
        rebind(pair, OTHER)
        pair.say("app", *numbered(20, 300))
        pair.run(0.5)
        assert pair.count(FlowMoved) == 0


def _is_to(packet: bytes, address: tuple[bytes, int], kept: list[bytes]) -> bool:
    if endpoints(packet)[1] != address:
        return False
    kept.append(packet)
    return True
