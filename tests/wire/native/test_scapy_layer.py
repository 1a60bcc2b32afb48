"""contrib/scapy/rsock_nf_layer.py against the real codec, both ways."""

from __future__ import annotations

import doctest
import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scapy.layers.inet import IP, TCP
from scapy.packet import Raw

from rsock_nf.core.messages import CloseFlow, FlowDown, Opened, Probe, ProbeAnswer, Ready, Refused, SeenAs, TargetState
from rsock_nf.core.parameters import Cipher
from rsock_nf.core.protocols import FlowCodec, Kind
from rsock_nf.wire.native.control import build_control, parse_control
from rsock_nf.wire.native.epochs import KeyRing
from rsock_nf.wire.native.frames import PlainCodec, flow_codec
from rsock_nf.wire.native.limits import TAG
from rsock_nf.wire.native.overheard import TO_SERVER, OverheardFlow, disclose
from rsock_nf.wire.native.rekeying import Rekey, RekeyWanted

LAYER = Path(__file__).parents[3] / "contrib" / "scapy" / "rsock_nf_layer.py"


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rsock_nf_layer", LAYER)
    assert spec
    assert spec.loader
    module = sys.modules["rsock_nf_layer"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


layer = loaded()


def codecs(cipher: Cipher) -> tuple[FlowCodec, FlowCodec]:
    """The client's and the server's of one flow."""
    ring = KeyRing(cipher, bytes(range(64)))
    return flow_codec(cipher, ring, 7, initiator=True), flow_codec(cipher, ring, 7, initiator=False)


def opened(codec: FlowCodec, payload: bytes) -> list[tuple[int, int, list[bytes]]]:
    """What the codec reads; fails if a frame of it is bad."""
    frames, bad = codec.unpack(memoryview(payload), 0)
    assert bad == 0
    return [(one.kind, one.conversation, [bytes(datagram) for datagram in one.datagrams]) for one in frames]


def test_what_scapy_builds_the_codec_takes() -> None:
    client, server = codecs(Cipher.NONE)
    assert isinstance(client, PlainCodec)
    token = client.keys.token_out
    frames = [
        layer.Data(conversation=7, token=token, datagram=b"first"),
        layer.Data(conversation=7, token=token, datagram=b""),
        layer.Opening(conversation=9, token=token, target=2, datagram=b"opening"),
        layer.Fragment(conversation=9, token=token, identification=0xCAFE, index=1, count=3, target=2, part=b"part"),
    ]
    payload = bytes(layer.RsockNf(frames=frames))
    assert opened(server, payload) == [
        (Kind.DATA, 7, [b"first"]),
        (Kind.DATA, 7, [b""]),
        (Kind.OPENING, 9, [b"\x00\x02opening"]),
        (Kind.FRAGMENT, 9, [b"\x00\x00\xca\xfe\x01\x03\x00\x02part"]),
    ]


def test_another_token_or_length_is_refused() -> None:
    """So the test above can fail."""
    client, server = codecs(Cipher.NONE)
    assert isinstance(client, PlainCodec)
    token = client.keys.token_out
    for frame in (
        layer.Data(conversation=7, token=token ^ 1, datagram=b"first"),
        layer.Data(conversation=7, token=token, length=6, datagram=b"first"),
    ):
        assert server.unpack(memoryview(bytes(layer.RsockNf(frames=[frame]))), 0) == ([], 1)


def test_what_the_codec_packs_scapy_reads() -> None:
    client, server = codecs(Cipher.NONE)
    assert isinstance(client, PlainCodec)
    control = client.pack_control(5, Probe(77))
    payload = b"".join(
        [
            *client.pack(Kind.DATA, 7, 0, b"", [b"a" * 9, b"b" * 9, b"c"]),
            *client.pack(Kind.OPENING, 8, 0, b"\x00\x03", [b"new"]),
            control,
        ]
    )
    read = layer.RsockNf(payload)
    assert [type(frame).__name__ for frame in read.frames] == ["Data", "Data", "Data", "Opening", "ControlFrame"]
    assert [frame.datagram for frame in read.frames[:4]] == [b"a" * 9, b"b" * 9, b"c", b"new"]
    assert {frame.token for frame in read.frames[:4]} == {client.keys.token_out}
    assert [frame.conversation for frame in read.frames[:4]] == [7, 7, 7, 8]
    assert read.frames[3].target == 3
    assert (read.frames[4].counter, read.frames[4].length) == (5, len(build_control(Probe(77))))
    assert read.frames[4].sealed + read.frames[4].tag == control[8:]
    assert read.rest == b""
    assert bytes(layer.RsockNf(frames=read.frames)) == payload
    assert len(opened(server, bytes(read))) == 5


@pytest.mark.parametrize("cipher", [Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305])
def test_sealed_frames_in_clear_are_read_with_their_messages(cipher: Cipher) -> None:
    client, _ = codecs(cipher)
    told = disclose(client)
    assert told
    payload = b"".join([*client.pack(Kind.DATA, 7, 3, b"", [b"hello"]), client.pack_control(5, ProbeAnswer(1, 2, 3))])
    clear = OverheardFlow(told).reveal(payload, TO_SERVER)
    assert clear
    data, control = layer.RsockNfClear(clear).frames
    assert (data.datagram, data.conversation, data.token, len(data.tag)) == (b"hello", 7, 3, TAG)
    message = control.message()
    assert (message.type, message.number, message.flow_id, message.received) == (3, 1, 2, 3)


MESSAGES = [
    (Ready(), {"type": 1}),
    (Probe(5, 11), {"type": "Probe", "number": 5, "padding": bytes(11)}),
    (ProbeAnswer(1, 2, 3), {"type": "ProbeAnswer", "number": 1, "flow_id": 2, "received": 3}),
    (FlowDown(9), {"type": "FlowDown", "flow_id": 9}),
    (CloseFlow(), {"type": "CloseFlow"}),
    (Opened(4), {"type": "Opened", "conversation": 4}),
    (Refused(4, 2), {"type": "Refused", "conversation": 4, "reason": 2}),
    (TargetState(1, 1), {"type": "TargetState", "target": 1, "refuses": 1}),
    (Rekey(1, bytes(32)), {"type": "Rekey", "epoch": 1, "key": bytes(32)}),
    (RekeyWanted(), {"type": "RekeyWanted"}),
    (
        SeenAs(bytes(10) + b"\xff\xff\xc6\x33\x64\x07", 7),
        {"type": "SeenAs", "address": "::ffff:198.51.100.7", "port": 7},
    ),
]


@pytest.mark.parametrize(("message", "fields"), MESSAGES, ids=lambda one: type(one).__name__)
def test_control_messages_both_ways(message: object, fields: dict[str, object]) -> None:
    built = layer.Control(**fields)
    assert bytes(built) == build_control(message)
    assert type(parse_control(bytes(built))) is type(message)
    assert bytes(layer.Control(build_control(message))) == build_control(message)


def test_nothing_that_comes_is_too_strange_to_be_read() -> None:
    rng = random.Random(3)
    for size in range(120):
        content = rng.randbytes(size)
        read = layer.RsockNf(content)
        assert isinstance(read, layer.RsockNf | Raw)


def test_ports_lead_to_it() -> None:
    client, _ = codecs(Cipher.NONE)
    layer.bind([10001])
    segment = b"".join(client.pack(Kind.DATA, 7, 0, b"", [b"hello"]))
    read = IP(bytes(IP(src="192.0.2.1", dst="192.0.2.2") / TCP(sport=4000, dport=10001) / Raw(segment)))
    assert read[layer.RsockNf].frames[0].datagram == b"hello"
    assert opened(codecs(Cipher.NONE)[1], bytes(read[layer.RsockNf]))


def test_the_examples_in_its_heading() -> None:
    found = doctest.testmod(layer)
    assert (found.attempted, found.failed) == (3, 0)
