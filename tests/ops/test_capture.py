"""Packets with other payloads, the file as tshark reads it, the loop, and what is asked of a running instance."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.core.parameters import Cipher
from rsock_nf.errors import ControlError, InstanceError
from rsock_nf.link import Seen
from rsock_nf.ops.capture import pcapng
from rsock_nf.ops.capture.clear import CUT, NO_KEY, PREFIX, Clear
from rsock_nf.ops.capture.located import locate, replaced
from rsock_nf.ops.capture.record import AsTheyAre, Limits, open_output, record
from rsock_nf.runtime.reports.frame_keys import frame_keys
from rsock_nf.wire.native.epochs import KeyRing
from rsock_nf.wire.native.frames import flow_codec
from rsock_nf.wire.native.handshake import NativeHandshake
from tests.core.conntrack import ACK, PSH
from tests.core.pair import SECRET, Pair
from tests.core.wire import checksummed, make_tcp, make_udp
from tests.wire.native.scene import DISSECTOR, Scene, dissected, payload_of, write_pcap

CLIENT, SERVER = ip_address("192.0.2.1").packed, ip_address("192.0.2.2").packed
CLIENT_6, SERVER_6 = ip_address("2001:db8::1").packed, ip_address("2001:db8::2").packed
ETHERNET = bytes(12) + b"\x08\x00"
ABOUT = "tunnel x", "x", 262144


@pytest.mark.parametrize("ends", [(CLIENT, SERVER), (CLIENT_6, SERVER_6)], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("size", [1, 2, 33, 1400])
def test_a_right_checksum_stays_right_and_a_wrong_one_wrong(ends: tuple[bytes, bytes], size: int) -> None:
    rng = random.Random(size)
    before, after = rng.randbytes(size), rng.randbytes(size)

    def packet(payload: bytes) -> bytes:
        return make_tcp((ends[0], 40000), (ends[1], 10001), 7, 9, ACK | PSH, payload)

    where = locate(packet(before), ethernet=False)
    assert where is not None
    assert (where.source, where.destination, where.udp) == ((ends[0], 40000), (ends[1], 10001), False)
    assert replaced(packet(before), where, after) == packet(after)
    wrong = bytearray(packet(before))
    wrong[where.checksum] ^= 0x10
    assert checksummed(bytearray(replaced(bytes(wrong), where, after))) == packet(after)
    assert replaced(bytes(wrong), where, after) != packet(after)


def test_an_absent_udp_checksum_stays_absent_and_padding_behind_the_packet_stays() -> None:
    frame = ETHERNET + make_udp((CLIENT, 40000), (SERVER, 10001), b"before") + bytes(12)
    where = locate(frame, ethernet=True)
    assert where is not None
    assert replaced(frame, where, b"after!") == ETHERNET + make_udp(
        (CLIENT, 40000), (SERVER, 10001), b"after!"
    ) + bytes(12)


def test_no_bytes_confuse_it() -> None:
    rng = random.Random(1)
    whole = make_tcp((CLIENT, 40000), (SERVER, 10001), 7, 9, ACK, b"some payload")
    for _ in range(2000):
        packet = bytearray(whole[: rng.randrange(len(whole) + 1)])
        for _ in range(rng.randrange(4)):
            if packet:
                packet[rng.randrange(len(packet))] = rng.randrange(256)
        for ethernet in (False, True):
            found = locate(bytes(packet), ethernet=ethernet)
            assert found is None or 0 < found.start <= found.end


class Shown:
    """A watch that shows packets which are there already."""

    def __init__(self, packets: list[Seen]) -> None:
        self._packets = list(packets)
        self._readable, self._feed = socket.socketpair()
        self._feed.send(b"x")

    def fileno(self) -> int:
        return self._readable.fileno()

    def read(self, budget: int) -> list[Seen]:
        found, self._packets = self._packets[:budget], self._packets[budget:]
        if not self._packets:
            self._readable.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                self._readable.recv(1)
        return found

    def drops(self) -> int:
        return 3

    def close(self) -> None:
        self._readable.close()
        self._feed.close()


@pytest.fixture
def watches() -> Iterator[list[Shown]]:
    made: list[Shown] = []
    yield made
    for one in made:
        one.close()


def packets(count: int) -> list[Seen]:
    found = []
    for number in range(count):
        packet = make_tcp((CLIENT, 40000), (SERVER, 10001), 7, 9, ACK, bytes([number]))
        when = 1_700_000_000_123_456_789 + number
        device, ethernet = ("eth0", True) if number % 2 else ("wg0", False)
        data = ETHERNET + packet if ethernet else packet
        found.append(Seen(when, device, bool(number % 2), ethernet, data, len(data) + number))
    return found


def tshark(path: Path, *fields: str) -> list[list[str]]:
    argv = ["tshark", "-n", "-r", str(path), "-T", "fields", *(word for field in fields for word in ("-e", field))]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "cut short" not in ran.stderr
    assert "damaged" not in ran.stderr
    return [line.split("\t") for line in ran.stdout.splitlines()]


def test_the_file_is_what_tshark_reads(tmp_path: Path, watches: list[Shown]) -> None:
    watches.append(Shown(packets(5)))

    class Commenting:
        @staticmethod
        def read(batch: Any) -> Any:
            return ((seen, f"about {seen.when}") for seen in batch)

    with open_output(str(tmp_path / "c.pcapng"), private=False) as output:
        tally = record(watches[0], output, Commenting(), Limits(packets=5), ABOUT)
    assert (tally.packets, tally.drops, tally.received) == (5, 3, [3, 2])
    shown = tshark(
        tmp_path / "c.pcapng", "frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction",
        "frame.len", "frame.cap_len", "frame.comment", "tcp.len",
    )  # fmt: skip
    for number, (seen, row) in enumerate(zip(packets(5), shown, strict=True)):
        when, device, direction, length, captured, comment, _ = row
        assert when == f"1700000000.{123_456_789 + number:09d}"
        assert device == seen.device
        assert int(direction, 0) == (2 if seen.outgoing else 1)
        assert (int(length), int(captured)) == (seen.length, len(seen.data))
        assert comment == f"about {seen.when}"
    told = subprocess.run(["capinfos", "-M", tmp_path / "c.pcapng"], capture_output=True, text=True, check=True).stdout
    assert "tunnel x" in told
    assert "Number of packets filtered" not in told or "dropped" in told


def test_a_file_without_packets_is_whole(tmp_path: Path, watches: list[Shown]) -> None:
    watches.append(Shown([]))
    with open_output(str(tmp_path / "c.pcapng"), private=True) as output:
        tally = record(watches[0], output, AsTheyAre(), Limits(seconds=0.01), ABOUT)
    assert tally.packets == 0
    assert tshark(tmp_path / "c.pcapng", "frame.number") == []
    assert (tmp_path / "c.pcapng").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_whole_file(tmp_path: Path, watches: list[Shown], number: signal.Signals) -> None:
    class Interrupted(Shown):
        def read(self, budget: int) -> list[Seen]:
            found = super().read(min(budget, 2))
            if found:
                os.kill(os.getpid(), number)
            return found

    watches.append(Interrupted(packets(6)))
    with open_output(str(tmp_path / "c.pcapng"), private=False) as output:
        tally = record(watches[0], output, AsTheyAre(), Limits(), ABOUT)
    assert tally.packets == len(tshark(tmp_path / "c.pcapng", "frame.number")) == 6
    assert signal.getsignal(number) is not None


def test_it_ends_with_who_reads_the_pipe(watches: list[Shown]) -> None:
    watches.append(Shown(packets(3)))
    reading, writing = os.pipe()
    os.close(reading)
    output = os.fdopen(writing, "wb")
    tally = record(watches[0], output, AsTheyAre(), Limits(), ABOUT)
    assert tally.reader_gone
    with pytest.raises(BrokenPipeError):
        output.close()


# -- in clear


def captured(scene: Scene) -> list[Seen]:
    """What the client's host sees."""
    found = []
    for when, packet in scene.merged():
        outgoing = packet[12:16] == ip_address("10.0.0.1").packed
        found.append(Seen(round(when * 1e9), "eth0", outgoing, False, packet, len(packet)))
    return found


def test_everything_is_in_clear_for_the_dissector(
    tmp_path: Path, watches: list[Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    scene = Scene.played(
        Cipher.AES_256_GCM, monkeypatch, before_the_end=lambda pair: told.extend(frame_keys(pair.client.sessions))
    )
    watches.append(Shown(captured(scene)))
    clear = Clear(lambda: json.loads(json.dumps({"flows": told})), [NativeHandshake(SECRET)], serves=False)
    with open_output(str(tmp_path / "c.pcapng"), private=True) as output:
        record(watches[0], output, clear, Limits(packets=len(captured(scene))), ABOUT)
    assert clear.closed == 0
    shown = dissected(tmp_path / "c.pcapng", argv=("-2",))
    controls, offers = set(), 0
    for seen, packet in zip(shown, scene.merged(), strict=True):
        payload = payload_of(packet[1])
        assert (seen.tree is not None) == bool(payload)
        assert not seen.all("malformed")
        if payload in scene.messages:
            assert seen.numbers("handshake.kind") == [scene.messages[payload]]
            offers += bool(seen.numbers("offer.mss") == [1460])
        elif payload:
            said = scene.said_in(payload)
            assert [one.get("show", "") for one in seen.all("kind")] == [str(one.kind) for one in said]
            assert seen.numbers("counter") == [one.counter for one in said]
            assert seen.numbers("conversation") == [one.conversation for one in said if one.kind != 3]
            assert seen.numbers("control") == [one.body[0] for one in said if one.kind == 3]
            datagrams = [one.body[2 if one.kind == 1 else 0 :] for one in said if one.kind in {0, 1}]
            assert seen.bytes("datagram") == [datagram for datagram in datagrams if datagram]
            probes = [int.from_bytes(one.body[1:5]) for one in said if one.kind == 3 and one.body[0] in {2, 3}]
            assert seen.numbers("control.number") == probes
            controls.update(seen.numbers("control"))
    assert controls >= {1, 2, 3, 6, 9}
    assert offers == 1


def test_no_harm_to_what_is_in_clear_causes_an_error_in_lua(
    tmp_path: Path, watches: list[Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``dissected`` fails when there is one."""
    told: list[dict[str, Any]] = []
    scene = Scene.played(
        Cipher.AES_256_GCM, monkeypatch, before_the_end=lambda pair: told.extend(frame_keys(pair.client.sessions))
    )
    rng = random.Random(7)
    clear = Clear(lambda: {"flows": told}, [NativeHandshake(SECRET)], serves=False)

    def harmed(seen: Seen, comment: str) -> tuple[Seen, str]:
        data = bytearray(seen.data)
        for _ in range(rng.randrange(4)):
            at = rng.choice([40, 41, 40 + 16, rng.randrange(40, 80)])
            if at < len(data):
                data[at] = rng.randrange(256)
        cut = rng.choice([len(data), rng.randrange(40, 100)])
        word = rng.choice(["cipher none", "cipher", "", "handshake", comment.removeprefix(PREFIX)])
        return seen._replace(data=bytes(data[:cut])), PREFIX + word

    class Harming:
        @staticmethod
        def read(batch: Any) -> Any:
            return (harmed(seen, comment) if comment else (seen, "") for seen, comment in clear.read(batch))

    for number in range(2):
        watches.append(Shown(captured(scene)))
        with open_output(str(tmp_path / "c.pcapng"), private=True) as output:
            tally = record(watches[number], output, Harming(), Limits(packets=len(captured(scene))), ABOUT)
        shown = dissected(tmp_path / "c.pcapng", "rsock_nf.tcp_ports:10001-10010")
        assert len(shown) == tally.packets > 150
        assert sum(bool(one.all("malformed")) for one in shown) > 10
        assert sum(bool(one.all("cut")) for one in shown) > 10


def test_what_datagrams_hold_can_be_shown(tmp_path: Path) -> None:
    ring = KeyRing(Cipher.NONE, bytes(64))
    codec = flow_codec(Cipher.NONE, ring, 1, initiator=True)
    initiation = b"\x01\x00\x00\x00" + bytes(range(144))  # of WireGuard
    payload = b"".join(codec.pack(0, 5, 0, b"", [initiation]))
    write_pcap(tmp_path / "c.pcap", [(0.0, make_tcp((CLIENT, 40000), (SERVER, 10001), 7, 9, ACK | PSH, payload))])
    options = ("rsock_nf.tcp_ports:10001", "rsock_nf.inside:wg")
    argv = ["tshark", "-n", "-X", f"lua_script:{DISSECTOR}", "-r", str(tmp_path / "c.pcap"), "-T", "fields"]
    argv += ["-e", "rsock_nf.conversation", "-e", "wg.sender", *(word for one in options for word in ("-o", one))]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "5\t0x03020100\n"


def test_new_flows_are_asked_for_at_once_and_strangers_do_not_make_it_ask_again() -> None:
    with Pair(seed=2, cipher=Cipher.AES_256_GCM) as pair:
        pair.up()
        asked = []

        def ask() -> dict[str, Any]:
            asked.append(1)
            return {"flows": frame_keys(pair.client.sessions) if len(asked) > 1 else []}

        clear = Clear(ask, [], serves=False)
        clear.learn()
        flow = pair.client.flows.established()[0]
        payload = b"".join(flow.pump.codec.pack(0, 1, 5, b"", [b"text"]))
        ends = (flow.key.local, flow.key.local_port), (flow.key.remote, flow.key.remote_port)
        ours = make_tcp(*ends, 1, 1, ACK, payload)
        bare = make_tcp(*ends, 1, 1, ACK)
        strange = make_tcp(ends[0], (ends[1][0], 99), 1, 1, ACK, payload)
        batch = [Seen(0, "eth0", True, False, packet, len(packet)) for packet in (ours, strange, ours[:45], bare)]
        for _ in range(3):
            comments = [comment for _, comment in clear.read(batch)]
            about = f"cipher aes-256-gcm, session {flow.session.session_id:016x}, flow {flow.flow_id}, to the server"
            assert comments == [PREFIX + about, NO_KEY, CUT, ""]
        assert len(asked) == 2
        assert (clear.opened, clear.closed) == (3, 6)


def test_keys_that_make_no_sense_are_one_line() -> None:
    answers: list[dict[str, Any]] = [{}, {"flows": [{}]}, {"flows": [{"local": ["x", 1]}]}]
    for answer in answers:
        with pytest.raises(ControlError, match="make no sense"):
            Clear(lambda: answer, [], serves=False).learn()  # noqa: B023 - it is called at once


def test_an_instance_that_has_gone_leaves_what_is_known() -> None:
    def ask() -> dict[str, Any]:
        raise InstanceError("instance x is not running")

    clear = Clear(ask, [], serves=False)
    packet = make_tcp((CLIENT, 40000), (SERVER, 10001), 7, 9, ACK, b"text")
    assert [comment for _, comment in clear.read([Seen(0, "eth0", True, False, packet, len(packet))])] == [NO_KEY]


def test_blocks_are_padded_to_words() -> None:
    for size in range(9):
        block = pcapng.packet(0, 1, bytes(size), size, outgoing=True, comment="c" * size)
        assert len(block) % 4 == 0
        assert block[4:8] == block[-4:] == len(block).to_bytes(4, "little")
