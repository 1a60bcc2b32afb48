"""contrib/wireshark/rsock-nf.lua in the real tshark, on what the real cores put on the wire."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest

from rsock_nf.core.parameters import Cipher, Kinds
from rsock_nf.core.protocols import Kind
from rsock_nf.wire.native.envelope import FROM_CLIENT, MessageKind
from rsock_nf.wire.native.limits import TAG
from tests.core.conntrack import ACK, PSH
from tests.core.wire import make_tcp, make_udp
from tests.wire.native.scene import Said, Scene, Shown, bytes_of, dissected, payload_of, write_pcap

PORTS = ("rsock_nf.tcp_ports:10001-10010", "rsock_nf.udp_ports:10001-10010")
HEADER = 8
AMBIGUOUS = {100: {MessageKind.HELLO, MessageKind.JOIN}, 101: {MessageKind.JOIN_ANSWER, MessageKind.COOKIE}}
"""What the dissector calls a message of which lengths alone do not tell the kind."""
NONE, AES = Cipher.NONE, Cipher.AES_256_GCM


@pytest.fixture(scope="module")
def scenes() -> Iterator[dict[tuple[Cipher, Kinds, int], Scene]]:
    with pytest.MonkeyPatch.context() as patch:
        chosen = [(NONE, Kinds.TCP, 4), (NONE, Kinds.UDP, 6), (AES, Kinds.TCP, 6), (AES, Kinds.UDP, 4)]
        yield {
            (cipher, kinds, family): Scene.played(cipher, patch, kinds=kinds, family=family)
            for cipher, kinds, family in chosen
        }


def value(frame: Element, name: str) -> int:
    field = frame.find(f"field[@name='rsock_nf.{name}']")
    assert field is not None, name
    return int(field.get("show", ""), 0)


def content(frame: Element, name: str) -> bytes:
    field = frame.find(f"field[@name='rsock_nf.{name}']")
    return b"" if field is None else bytes_of(field)


def read_plain(frame: Element) -> Said:
    """A frame of cipher none as the dissector tells it."""
    kind = value(frame, "kind")
    length = value(frame, "length")
    if kind == Kind.CONTROL:
        assert len(content(frame, "sealed")) == length + TAG
        return Said(kind, 0, value(frame, "counter"), b"", 0)
    body = content(frame, "datagram")
    if kind == Kind.OPENING:
        body = struct.pack("!H", value(frame, "target")) + body
    elif kind == Kind.FRAGMENT:
        fields = [value(frame, f"fragment.{name}") for name in ("identification", "index", "count")]
        body = struct.pack("!IBBH", *fields, value(frame, "target")) + content(frame, "fragment.part")
    assert len(body) == length
    return Said(kind, value(frame, "conversation"), 0, body, value(frame, "token"))


def comparable(said: Said) -> Said:
    """Without what cipher none does not show."""
    return (
        Said(said.kind, 0, said.counter, b"", 0)
        if said.kind == Kind.CONTROL
        else Said(said.kind, said.conversation, 0, said.body, said.token)
    )


@pytest.mark.parametrize("key", [(NONE, Kinds.TCP, 4), (NONE, Kinds.UDP, 6)], ids=str)
@pytest.mark.parametrize("shape", ["segments", "merged"])
def test_every_field_of_a_plain_frame_is_what_the_core_made(
    scenes: dict[tuple[Cipher, Kinds, int], Scene], key: tuple[Cipher, Kinds, int], tmp_path: Path, shape: str
) -> None:
    scene = scenes[key]
    packets = scene.merged() if shape == "merged" else scene.packets
    write_pcap(tmp_path / "c.pcap", packets)
    shown = dissected(tmp_path / "c.pcap", *PORTS)
    kinds: Counter[int] = Counter()
    most = 0
    for (_, packet), seen in zip(packets, shown, strict=True):
        payload = payload_of(packet)
        if not payload or payload in scene.messages:
            assert not seen.all("frame")
            continue
        expected = [comparable(said) for said in scene.said_in(payload)]
        assert [read_plain(frame) for frame in seen.all("frame")] == expected
        kinds.update(said.kind for said in expected)
        most = max(most, len(expected))
    assert set(kinds) == set(Kind)
    assert most > 1 or shape == "segments" or key[1] is Kinds.UDP


@pytest.mark.parametrize("key", [(NONE, Kinds.TCP, 4), (AES, Kinds.TCP, 6), (AES, Kinds.UDP, 4)], ids=str)
@pytest.mark.parametrize("ports", [PORTS, ()], ids=["by port", "by itself"])
def test_every_handshake_message_is_named(
    scenes: dict[tuple[Cipher, Kinds, int], Scene],
    key: tuple[Cipher, Kinds, int],
    tmp_path: Path,
    ports: tuple[str, ...],
) -> None:
    scene = scenes[key]
    write_pcap(tmp_path / "c.pcap", scene.packets)
    shown = dissected(tmp_path / "c.pcap", *ports, argv=() if ports else ("-2",))
    named: Counter[MessageKind] = Counter()
    for (_, packet), seen in zip(scene.packets, shown, strict=True):
        payload = payload_of(packet)
        kind = scene.messages.get(payload)
        if kind is None:
            assert not seen.all("handshake.message")
            assert (seen.tree is not None) == bool(payload)
            continue
        (message,) = seen.numbers("handshake.message")
        assert kind in AMBIGUOUS.get(message, {message})
        shown_bytes = [seen.bytes(f"handshake.{name}") for name in ("salt", "masked", "hint")]
        if kind in FROM_CLIENT.of:
            assert shown_bytes == [[payload[:16]], [payload[16:-4]], [payload[-4:]]]
        else:
            assert shown_bytes == [[payload[:16]], [payload[16:]], []]
        named[kind] += message not in AMBIGUOUS
    assert len(named) == 5
    assert all(named.values())


@pytest.mark.parametrize("key", [(AES, Kinds.TCP, 6), (AES, Kinds.UDP, 4)], ids=str)
def test_sealed_frames_are_said_to_be_sealed_and_nothing_is_invented(
    scenes: dict[tuple[Cipher, Kinds, int], Scene], key: tuple[Cipher, Kinds, int], tmp_path: Path
) -> None:
    scene = scenes[key]
    write_pcap(tmp_path / "c.pcap", scene.merged())
    shown = dissected(tmp_path / "c.pcap", *PORTS)
    sealed = 0
    for (_, packet), seen in zip(scene.merged(), shown, strict=True):
        payload = payload_of(packet)
        if payload and payload not in scene.messages:
            assert not seen.all("frame")
            assert seen.bytes("sealed") == [payload]
            assert len(seen.all("is_sealed")) == 1
            sealed += 1
    assert sealed > 50


def test_a_capture_that_begins_in_the_middle_is_recognised_with_cipher_none(
    scenes: dict[tuple[Cipher, Kinds, int], Scene], tmp_path: Path
) -> None:
    scene = scenes[NONE, Kinds.TCP, 4]
    late = next(at for at, (_, packet) in enumerate(scene.packets) if payload_of(packet) in scene.frames and at > 100)
    bulk = [(when, packet) for when, packet in scene.packets[late:] if len(packet) > 1200]
    write_pcap(tmp_path / "c.pcap", bulk)
    shown = dissected(tmp_path / "c.pcap", argv=("-2",))
    by_flow = Counter(packet[20:24] for _, packet in bulk)
    for (_, packet), seen in zip(bulk, shown, strict=True):
        if by_flow[packet[20:24]] >= 3:
            assert seen.all("frame")


def foreign() -> list[tuple[float, bytes]]:
    """Conversations of others, some with the lengths of a handshake."""
    rng = random.Random(4)
    ends = ("192.0.2.1", 50000), ("192.0.2.2", 8080)
    found: list[tuple[float, bytes]] = []

    def talk(number: int, *payloads: bytes, udp: bool = False) -> None:
        sides = [(ip_address(address).packed, port + number) for address, port in ends]
        numbers = [1000, 9000]
        for at, payload in enumerate(payloads):
            out, back = at % 2, 1 - at % 2
            if udp:
                packet = make_udp(sides[out], sides[back], payload)
            else:
                packet = make_tcp(sides[out], sides[back], numbers[out], numbers[back], ACK | PSH, payload)
            numbers[out] += len(payload)
            found.append((len(found) / 1000, packet))

    text = (
        b"GET / HTTP/1.1\r\nHost: example.org\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\nX: 0123456789012345678901\r\n"
    )
    zeros = bytes(200)
    for udp in (False, True):
        shift = 20 if udp else 0
        talk(shift, text[:93], text[:93], text[:61], text[:25], text, text, udp=udp)
        talk(shift + 1, zeros[:93], zeros[:93], zeros[:61], zeros[:25], zeros, zeros, udp=udp)
        prefixed = [struct.pack("!H", size) + rng.randbytes(size) for size in (64, 120, 91, 300, 91, 59, 23, 64)]
        talk(shift + 2, *prefixed, *prefixed, udp=udp)
        records = [b"\x17\x03\x03" + struct.pack("!H", size) + rng.randbytes(size) for size in (512, 120, 1300, 70)]
        talk(shift + 3, b"\x16\x03\x01\x02\x00" + rng.randbytes(512), *records, *records, udp=udp)
        talk(shift + 4, *[rng.randbytes(rng.randrange(1, 1460)) for _ in range(40)], udp=udp)
    return found


def test_what_others_say_is_not_taken_for_ours(tmp_path: Path) -> None:
    write_pcap(tmp_path / "c.pcap", foreign())
    for argv in ((), ("-2",)):
        assert all(seen.tree is None for seen in dissected(tmp_path / "c.pcap", argv=argv))


def harmed(packets: list[tuple[float, bytes]], rng: random.Random) -> list[tuple[float, bytes]]:
    """Each packet with some bytes of its payload changed, or cut off behind the headers' lengths."""
    found = []
    for when, packet in packets:
        head = len(packet) - len(payload_of(packet))
        body = bytearray(packet)
        for _ in range(rng.randrange(4)):
            if len(body) > head:
                at = rng.choice([head, head + 1, rng.randrange(head, len(body))])
                body[min(at, len(body) - 1)] = rng.randrange(256)
        found.append((when, bytes(body)))
    return found


@pytest.mark.parametrize("cipher", ["none", "sealed", "found out for each flow"])
def test_no_harm_to_packets_causes_an_error_in_lua(
    scenes: dict[tuple[Cipher, Kinds, int], Scene], tmp_path: Path, cipher: str
) -> None:
    """``dissected`` fails when there is one."""
    rng = random.Random(6)
    path = tmp_path / "c.pcap"
    whole = [one for scene in scenes.values() for one in scene.packets]
    merged = [one for scene in scenes.values() for one in scene.merged()]
    for packets, cut in ((harmed(whole, rng), 0), (merged, rng.randrange(40, 120)), (harmed(merged, rng), 70)):
        write_pcap(path, packets, cut)
        assert len(dissected(path, *PORTS, f"rsock_nf.cipher:{cipher}")) == len(packets)


def test_what_was_not_captured_whole_is_said_so(scenes: dict[tuple[Cipher, Kinds, int], Scene], tmp_path: Path) -> None:
    scene = scenes[NONE, Kinds.TCP, 4]
    write_pcap(tmp_path / "c.pcap", scene.merged(), 60)
    shown: list[Shown] = dissected(tmp_path / "c.pcap", *PORTS)
    for (_, packet), seen in zip(scene.merged(), shown, strict=True):
        payload = payload_of(packet)
        if payload and payload not in scene.messages:
            assert bool(seen.all("cut")) == (len(packet) > 60)
            assert not seen.all("malformed")
            first = scene.said_in(payload)[0]
            assert value(seen.all("frame")[0], "kind") == first.kind
            if first.kind != Kind.CONTROL:
                assert value(seen.all("frame")[0], "conversation") == first.conversation


def test_a_frame_with_another_token_stands_out(scenes: dict[tuple[Cipher, Kinds, int], Scene], tmp_path: Path) -> None:
    scene = scenes[NONE, Kinds.TCP, 4]
    data = [
        (when, packet)
        for when, packet in scene.packets
        if (said := scene.frames.get(payload_of(packet)))
        and said.kind == Kind.DATA
        and len(payload_of(packet)) > HEADER
    ]
    flow, _ = Counter(packet[12:24] for _, packet in data).most_common(1)[0]
    several = [(when, packet) for when, packet in data if packet[12:24] == flow]
    assert len(several) >= 3
    when, packet = several[-1]
    forged = bytearray(packet)
    forged[40 + 4] ^= 1
    write_pcap(tmp_path / "c.pcap", [*several[:-1], (when, bytes(forged))])
    shown = dissected(tmp_path / "c.pcap", *PORTS)
    assert [len(seen.all("other_token")) for seen in shown] == [0] * (len(several) - 1) + [1]
