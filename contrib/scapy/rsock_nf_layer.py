"""rsock-nf's native wire for scapy: frames and control messages are built and dissected (docs/wire.md, sections 5, 6).

    >>> from rsock_nf_layer import RsockNf, Data, Opening, bind
    >>> bytes(RsockNf(frames=[Data(conversation=7, token=0x1234, datagram=b"hello")])).hex()
    '000500070000123468656c6c6f'
    >>> bind(range(10001, 10011))       # from now on IP()/TCP()/… of these ports is dissected

It reads and writes cipher none, with control frames as they are: sealed.  With ``clear=True`` it reads what
``rsock-nf capture --decrypt`` wrote of sealed ciphers.  It encrypts nothing: tests that need sealed frames have the
codec in ``rsock_nf.wire.native.frames``.

The length of a frame is computed where it is not given.  So wrong lengths, kinds and tokens can be built, too.
Needs scapy 2.6 or later: ``pip install 'rsock-nf[tools]'``.  The tunnel itself imports nothing of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, ClassVar

from scapy.fields import (
    BitEnumField,
    BitField,
    ByteEnumField,
    ByteField,
    ConditionalField,
    IntField,
    PacketListField,
    ShortField,
    StrField,
    StrFixedLenField,
    StrLenField,
    XIntField,
)
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IP6Field
from scapy.packet import Packet, bind_layers

KINDS = {0: "data", 1: "opening", 2: "fragment", 3: "control"}
HEADER, TAG = 8, 16
CONTROLS = {
    1: "Ready",
    2: "Probe",
    3: "ProbeAnswer",
    4: "FlowDown",
    5: "CloseFlow",
    6: "Opened",
    7: "CloseConversation",
    8: "Refused",
    9: "CloseSession",
    10: "Rekey",
    11: "Rekeyed",
    12: "RekeyWanted",
    13: "TargetState",
    14: "SeenAs",
}


def _of(*types: int) -> Any:
    return lambda packet: packet.type in types


class Control(Packet):
    """A control message, as it is before it is sealed."""

    name = "rsock-nf control message"
    fields_desc: ClassVar = [
        ByteEnumField("type", 1, CONTROLS),
        ConditionalField(IntField("number", 0), _of(2, 3)),
        ConditionalField(IntField("flow_id", 0), _of(3, 4)),
        ConditionalField(IntField("received", 0), _of(3)),
        ConditionalField(ShortField("conversation", 0), _of(6, 7, 8)),
        ConditionalField(ByteField("reason", 1), _of(8)),
        ConditionalField(ShortField("target", 0), _of(13)),
        ConditionalField(ByteField("refuses", 0), _of(13)),
        ConditionalField(IntField("epoch", 0), _of(10, 11)),
        ConditionalField(StrFixedLenField("key", bytes(32), 32), _of(10, 11)),
        ConditionalField(IP6Field("address", "::"), _of(14)),
        ConditionalField(ShortField("port", 0), _of(14)),
        StrField("padding", b""),
    ]


class _Frame(Packet):
    """What all frames have: the first word, whose length is computed, and that another frame may follow."""

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Put the length in, unless it was given."""
        if self.length is None:
            (word,) = struct.unpack_from("!H", pkt)
            size = len(pkt) - HEADER - len(self.tag or b"")
            pkt = struct.pack("!H", word & 0xC000 | size & 0x3FFF) + pkt[2:]
        return pkt + pay

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        """What is behind a frame belongs to the next one."""
        return b"", s


def _header(kind: int) -> list[Any]:
    return [
        BitEnumField("kind", kind, 2, KINDS),
        BitField("length", None, 14),
        ShortField("conversation", 0),
        XIntField("token", 0),
    ]


def _tag() -> Any:
    """Of frames that were sealed and are in clear now; else there is none."""
    return StrLenField("tag", b"", length_from=lambda packet: TAG if _is_clear(packet) else 0)


def _is_clear(packet: Packet) -> bool:
    parent = packet.parent
    return bool(parent is not None and getattr(parent, "is_clear", False))


class Data(_Frame):
    """One datagram.  ``token``: of cipher none; with sealed ciphers epoch and counter are in its place."""

    name = "rsock-nf data"
    fields_desc: ClassVar = [
        *_header(0),
        StrLenField("datagram", b"", length_from=lambda packet: packet.length),
        _tag(),
    ]


class Opening(_Frame):
    """One datagram, and the target of its conversation."""

    name = "rsock-nf opening"
    fields_desc: ClassVar = [
        *_header(1),
        ShortField("target", 0),
        StrLenField("datagram", b"", length_from=lambda packet: max(packet.length - 2, 0)),
        _tag(),
    ]


class Fragment(_Frame):
    """A part of one datagram."""

    name = "rsock-nf fragment"
    fields_desc: ClassVar = [
        *_header(2),
        XIntField("identification", 0),
        ByteField("index", 0),
        ByteField("count", 1),
        ShortField("target", 0),
        StrLenField("part", b"", length_from=lambda packet: max(packet.length - 8, 0)),
        _tag(),
    ]


class ControlFrame(_Frame):
    """A control frame: ``sealed`` is the message, encrypted; in clear captures it is the message itself."""

    name = "rsock-nf control"
    fields_desc: ClassVar = [
        BitEnumField("kind", 3, 2, KINDS),
        BitField("length", None, 14),
        BitField("epoch_bit", 0, 1),
        BitField("counter", 0, 47),
        StrLenField("sealed", b"", length_from=lambda packet: packet.length),
        StrLenField("tag", bytes(TAG), length_from=lambda _: TAG),
    ]

    def message(self) -> Control:
        """What is in it, where that is in clear."""
        return Control(self.sealed)


_FRAMES: dict[int, type[_Frame]] = {0: Data, 1: Opening, 2: Fragment, 3: ControlFrame}


def _next_frame(_: Packet, __: list[Packet], ___: Packet | None, rest: bytes) -> type[Packet] | None:
    """The class of the frame at the beginning of ``rest``; None = there is no header any more."""
    return _FRAMES[rest[0] >> 6] if len(rest) >= HEADER else None


class RsockNf(Packet):
    """The payload of a segment or datagram: one frame, or several where GRO has merged segments.

    ``rest``: bytes that are no frame.
    """

    name = "rsock-nf"
    is_clear = False
    fields_desc: ClassVar = [
        PacketListField("frames", [], next_cls_cb=_next_frame),
        StrField("rest", b""),
    ]


class RsockNfClear(RsockNf):
    """The same of a sealed cipher, in clear: each frame has the tag that it came with."""

    name = "rsock-nf, in clear"
    is_clear = True


def bind(ports: Iterable[int], *, clear: bool = False) -> None:
    """Have the payloads of these TCP and UDP ports, the server's, dissected as frames from now on."""
    layer = RsockNfClear if clear else RsockNf
    for port in ports:
        for carrier in (TCP, UDP):
            bind_layers(carrier, layer, dport=port)
            bind_layers(carrier, layer, sport=port)
