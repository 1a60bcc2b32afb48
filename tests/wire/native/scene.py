"""A tunnel of two real cores, what it put on the wire as a capture, and what its codecs say that they put there.

scene = Scene.played(Cipher.NONE, monkeypatch)
scene.packets               # IP packets in order: (time, packet)
scene.frames[payload]       # what the core packed into that payload: one ``Said`` for each frame
scene.messages[payload]     # which handshake message a payload is
"""

from __future__ import annotations

import struct
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.core.flows.session import Session
from rsock_nf.core.parameters import Cipher, Kinds
from rsock_nf.core.protocols import Kind
from rsock_nf.core.types import Buffer
from rsock_nf.wire.native.control import build_control
from rsock_nf.wire.native.envelope import MessageKind
from rsock_nf.wire.native.frames import PlainCodec, SealedCodec
from rsock_nf.wire.native.handshake import NativeHandshake
from rsock_nf.wire.native.hints import Hints
from tests.core.conntrack import parse_tcp
from tests.core.pair import START, Pair
from tests.core.wire import Toward, _continues, _merge, endpoints, is_udp

DISSECTOR = Path(__file__).parents[3] / "contrib" / "wireshark" / "rsock-nf.lua"
HEADER = 8
RAW_IP = 101
"""LINKTYPE_RAW"""


@dataclass(frozen=True, slots=True)
class Said:
    """One frame as the core made it."""

    kind: int
    conversation: int
    """0 of a control frame."""
    counter: int
    body: bytes
    """With the index of the target or the fragment header; of a control frame the message."""
    token: int
    """0 of a control frame, and of sealed ones."""


@dataclass
class Scene:
    """See the module."""

    pair: Pair
    packets: list[tuple[float, bytes]] = field(default_factory=list)
    frames: dict[bytes, Said] = field(default_factory=dict)
    """By the frame's bytes: a payload of several is cut by their lengths."""
    messages: dict[bytes, MessageKind] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    """The client's, shortly before the end."""

    @classmethod
    def played(
        cls,
        cipher: Cipher,
        patch: pytest.MonkeyPatch,
        *,
        kinds: Kinds = Kinds.TCP,
        family: int = 4,
        before_the_end: Callable[[Pair], None] | None = None,
    ) -> Scene:
        """Handshake, datagrams of all kinds both ways, farewell."""
        pair = Pair(seed=5, cipher=cipher, kinds=kinds, family=family)
        scene = cls(pair)
        pair.wire.drop.append(scene._record)
        with patch.context() as within:
            scene._listen(within)
            with pair:
                pair.up()
                pair.echo = True
                pair.say("app", b"question")
                pair.run(0.5)
                pair.say("app", *[bytes([n]) * 1200 for n in range(5)], b"short")
                pair.say("app", b"")
                pair.say("app", b"x" * 4000)
                pair.run(3)
                scene.sessions = list(pair.client.sessions)
                if before_the_end:
                    before_the_end(pair)
                pair.client.role.stop(pair.now)
                pair.flush()
                pair.run(1)
        return scene

    def _record(self, _: Toward, packet: bytes) -> bool:
        self.packets.append((self.pair.now - START, packet))
        return False

    def _listen(self, patch: pytest.MonkeyPatch) -> None:
        for codec in (PlainCodec, SealedCodec):
            patch.setattr(codec, "pack", self._packing(codec.pack))
            patch.setattr(codec, "pack_control", self._packing_control(codec.pack_control))
        made = {
            "hello": MessageKind.HELLO,
            "challenged": MessageKind.ANSWER,
            "join": MessageKind.JOIN,
            "join_answer": MessageKind.JOIN_ANSWER,
            "confirm": MessageKind.CONFIRM,
        }
        for name, kind in made.items():
            patch.setattr(NativeHandshake, name, self._making(kind, getattr(NativeHandshake, name)))
        patch.setattr(Hints, "attach", self._attaching(Hints.attach))

    def _making(self, kind: MessageKind, make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **named: Any) -> Any:
            message = make(*arguments, **named)
            self.messages[message[0] if isinstance(message, tuple) else message] = kind
            return message

        return made

    def _attaching(self, attach: Callable[..., bytes]) -> Callable[..., bytes]:
        """Behind join and confirmation, when they have been made; behind a hello, while it is."""

        def attached(*arguments: Any) -> bytes:
            message = attach(*arguments)
            if arguments[1] in self.messages:
                self.messages[message] = self.messages[arguments[1]]
            return message

        return attached

    def _packing(self, pack: Callable[..., list[Buffer]]) -> Callable[..., list[Buffer]]:
        def packed(
            codec: Any, kind: int, conversation: int, counter: int, prefix: bytes, datagrams: Sequence[Buffer]
        ) -> list[Buffer]:
            made = pack(codec, kind, conversation, counter, prefix, datagrams)
            whole, at = b"".join(made), 0
            token = codec.keys.token_out if isinstance(codec, PlainCodec) else 0
            for number, datagram in enumerate(datagrams):
                size = codec.overhead + len(prefix) + len(datagram)
                said = Said(kind, conversation, counter + number, prefix + bytes(datagram), token)
                self.frames[whole[at : at + size]] = said
                at += size
            assert at == len(whole)
            return made

        return packed

    def _packing_control(self, pack: Callable[..., bytes]) -> Callable[..., bytes]:
        def packed(codec: Any, counter: int, message: object) -> bytes:
            made = pack(codec, counter, message)
            self.frames[made] = Said(Kind.CONTROL, 0, counter, build_control(message), 0)
            return made

        return packed

    def said_in(self, payload: bytes) -> list[Said]:
        """What the core packed into a payload, which may be a merged one."""
        found, at = [], 0
        while at < len(payload):
            sizes = range(HEADER, len(payload) - at + 1)
            size = next(size for size in sizes if payload[at : at + size] in self.frames)
            found.append(self.frames[payload[at : at + size]])
            at += size
        return found

    def merged(self) -> list[tuple[float, bytes]]:
        """The packets as a receiver's GRO merges them (``tests.core.wire``)."""
        found: list[tuple[float, bytes]] = []
        run: list[bytes] = []
        for now, packet in self.packets:
            if run and not is_udp(run[0]) and _continues(run, packet):
                run.append(packet)
                found[-1] = found[-1][0], bytes(_merge(run, sized=False).data)
            else:
                run = [packet]
                found.append((now, packet))
        return found


def payload_of(packet: bytes) -> bytes:
    """What a segment or a UDP datagram carries."""
    return endpoints(packet)[2] if is_udp(packet) else parse_tcp(packet).payload


def write_pcap(path: Path, packets: list[tuple[float, bytes]], snap: int = 0) -> None:
    """A classic capture file of IP packets.  ``snap``: cut each to so many bytes; 0 = whole."""
    with path.open("wb") as file:
        file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0x40000, RAW_IP))
        for when, packet in packets:
            kept = packet[:snap] if snap else packet
            micros = round(when * 1_000_000)
            file.write(struct.pack("=IIII", *divmod(micros, 1_000_000), len(kept), len(packet)) + kept)


@dataclass
class Shown:
    """One packet as tshark shows it with the dissector."""

    protocols: list[str]
    tree: ET.Element | None
    """Of rsock-nf; None = it is not taken for that."""

    def all(self, name: str) -> list[ET.Element]:
        """The fields with that name (``rsock_nf.`` before it), also those in frames."""
        return [] if self.tree is None else self.tree.findall(f".//field[@name='rsock_nf.{name}']")

    def numbers(self, name: str) -> list[int]:
        """Their values."""
        return [int(one.get("show", ""), 0) for one in self.all(name)]

    def bytes(self, name: str) -> list[bytes]:
        """The bytes of fields."""
        return [bytes_of(one) for one in self.all(name)]


def bytes_of(shown: ET.Element) -> bytes:
    """The bytes that a field stands for."""
    return bytes.fromhex(shown.get("value", ""))


def dissected(path: Path, *options: str, argv: tuple[str, ...] = ()) -> list[Shown]:
    """All packets of a file, by the real tshark.  ``options``: preferences.  Fails if Lua has an error."""
    command = ["tshark", "-n", "-X", f"lua_script:{DISSECTOR}", "-r", str(path), "-T", "pdml", *argv]
    command += [word for option in options for word in ("-o", option)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Lua" not in ran.stderr, ran.stderr
    assert "Lua Error" not in ran.stdout
    found = []
    for packet in ET.fromstring(ran.stdout).iter("packet"):  # noqa: S314 - tshark's own
        trees = packet.findall("proto[@name='rsock_nf']")
        names = [proto.get("name", "") for proto in packet.findall("proto")]
        found.append(Shown(names, trees[0] if trees else None))
    return found
