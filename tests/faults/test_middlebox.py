"""The middlebox does to packets what it was told, and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.faults import frames
from tests.faults.middlebox import Middlebox
from tests.faults.spoilt import Hostility, Spoil, Spoilt
from tests.netns.judges import wait_until

CLIENT, SERVER = "10.77.1.2", "10.77.2.2"


class Wires:
    """A middlebox between two pairs of sockets, which take the place of devices."""

    def __init__(self) -> None:
        self._sockets = [*socket.socketpair(type=socket.SOCK_DGRAM), *socket.socketpair(type=socket.SOCK_DGRAM)]
        for one in self._sockets:
            one.setblocking(False)
        self.client, near, self.server, far = self._sockets
        self.near, self.far = near, far
        self.box = Middlebox(near, far)

    def close(self) -> None:
        for one in self._sockets:
            one.close()

    def pass_up(self, *sent: bytes) -> list[bytes]:
        """What the server's side gets of what the client sends."""
        for frame in sent:
            self.client.send(frame)
        self.box.arrived(self.near)
        return self.taken(self.server)

    @staticmethod
    def taken(end: socket.socket) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(end.recv(65536))
            except BlockingIOError:
                return found


@pytest.fixture
def wires() -> Iterator[Wires]:
    made = Wires()
    yield made
    made.close()


def tcp(size: int = 100, *, port: int = 10001, sport: int = 40000) -> bytes:
    layers = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src=CLIENT, dst=SERVER)
    return bytes(layers / TCP(sport=sport, dport=port, seq=1000, ack=5000, flags="PA") / Raw(b"x" * size))


def udp(size: int = 100) -> bytes:
    return bytes(Ether() / IP(src=CLIENT, dst=SERVER) / UDP(sport=1, dport=10001) / Raw(b"x" * size))


def test_nothing_is_done_unless_it_is_told(wires: Wires) -> None:
    sent = [tcp(), udp(), b"\x02" * 12 + b"\x08\x06" + b"arp"]
    assert wires.pass_up(*sent) == sent
    assert wires.taken(wires.client) == []


def test_all_or_nothing_is_lost_or_doubled(wires: Wires) -> None:
    wires.box.use(Spoilt(up=Spoil(loss=1.0)))
    assert wires.pass_up(tcp()) == []
    wires.box.use(Spoilt(up=Spoil(duplicate=1.0)))
    assert wires.pass_up(tcp()) == [tcp()] * 2


def test_a_share_is_lost(wires: Wires) -> None:
    wires.box.use(Spoilt(up=Spoil(loss=0.3)))
    arrived = sum(len(wires.pass_up(tcp())) for _ in range(2000))
    assert 1300 < arrived < 1500


@pytest.mark.parametrize("frame", [tcp(), udp(), tcp(1), udp(33)])
def test_a_bit_is_flipped_and_the_checksum_is_good(wires: Wires, frame: bytes) -> None:
    wires.box.use(Spoilt(up=Spoil(corrupt=1.0)))
    (found,) = wires.pass_up(frame)
    different = int.from_bytes(bytes(Ether(frame)[Raw])) ^ int.from_bytes(bytes(Ether(found)[Raw]))
    assert different.bit_count() == 1
    layer = TCP if TCP in Ether(found) else UDP
    again = Ether(found)
    said = again[layer].chksum
    del again[layer].chksum
    assert Ether(bytes(again))[layer].chksum == said


def test_what_is_too_big_is_dropped_and_its_sender_told(wires: Wires) -> None:
    wires.box.use(Spoilt(up=Spoil(mtu=600, icmp=True)))
    assert wires.pass_up(tcp(560)) == [tcp(560)]
    assert wires.pass_up(tcp(561)) == []
    (told,) = wires.taken(wires.client)
    packet = Ether(told)
    assert (packet[IP].dst, packet[ICMP].type, packet[ICMP].code, packet[ICMP].nexthopmtu) == (CLIENT, 3, 4, 600)
    assert (packet.src, packet.dst) == ("02:00:00:00:00:02", "02:00:00:00:00:01")
    assert bytes(packet[ICMP].payload)[:20] == bytes(Ether(tcp(561))[IP])[:20]
    copy = packet.copy()
    del copy[ICMP].chksum
    assert Ether(bytes(copy))[ICMP].chksum == packet[ICMP].chksum


def test_ports_and_protocols_are_blocked_in_both_directions(wires: Wires) -> None:
    wires.box.use(Spoilt(flows=Hostility(ports=(10003,), protocols=(frames.UDP,))))
    assert wires.pass_up(tcp(port=10003), udp(), tcp()) == [tcp()]
    back = bytes(Ether() / IP(src=SERVER, dst=CLIENT) / TCP(sport=10003, dport=40000, flags="A"))
    wires.server.send(back)
    wires.box.arrived(wires.far)
    assert wires.taken(wires.client) == []


def test_both_ends_get_a_reset_that_fits(wires: Wires) -> None:
    wires.box.use(Spoilt(flows=Hostility(reset=True)))
    (ahead,) = wires.pass_up(tcp(100))
    (back,) = wires.taken(wires.client)
    for frame, source, number in ((ahead, CLIENT, 1000), (back, SERVER, 5000)):
        packet = Ether(frame)
        assert (packet[IP].src, packet[TCP].seq, bool(packet[TCP].flags & "R")) == (source, number, True)
        copy = packet.copy()
        del copy[TCP].chksum
        assert Ether(bytes(copy))[TCP].chksum == packet[TCP].chksum
    assert Ether(back)[TCP].ack == 1100


def test_a_flow_is_reset_after_so_many_packets_and_another_is_not(wires: Wires) -> None:
    wires.box.use(Spoilt(flows=Hostility(packets=3)))
    assert wires.pass_up(*[tcp()] * 3) == [tcp()] * 3
    assert tcp() not in wires.pass_up(tcp())
    assert wires.pass_up(tcp(sport=40001)) == [tcp(sport=40001)]


def test_a_flow_that_is_too_old_is_dropped(wires: Wires) -> None:
    wires.box.use(Spoilt(flows=Hostility(lifetime=1e-9)))
    wires.pass_up(tcp())
    assert wires.pass_up(tcp()) == []


def test_what_is_delayed_comes_when_it_is_due(wires: Wires) -> None:
    wires.box.use(Spoilt(up=Spoil(delay=0.02)))
    assert wires.pass_up(tcp()) == []
    got: list[bytes] = []

    def due() -> bool:
        wires.box.release()
        got.extend(wires.taken(wires.server))
        return bool(got)

    wait_until(due, "the frame")
    assert got == [tcp()]
    assert wires.box.timeout() is None


def test_a_narrow_path_keeps_a_queue_and_drops_the_rest(wires: Wires) -> None:
    wires.box.use(Spoilt(up=Spoil(rate=1.0, queue=400)))
    wires.pass_up(*[tcp(100)] * 10)
    assert wires.box.counters["queue full"] >= 5


def test_json_keeps_everything() -> None:
    spoilt = Spoilt(Spoil(loss=0.1, icmp=True), Spoil(rate=5.0), Hostility(ports=(1, 2), lifetime=3.0))
    assert Spoilt.from_json(spoilt.as_json()) == spoilt
