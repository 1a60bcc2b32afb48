"""A client that has the secret and does not behave: conversations, control messages, empty data, fragments, sessions.

It is made from docs/wire.md alone (``tests.wire.native.independent_peer``), over UDP.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import struct
from collections.abc import Callable, Iterable
from functools import partial

from rsock_nf.lab.traffic import Application, EchoTarget
from tests.attacks.attack import SEALED_UDP, SEALED_UDP6, Attack, Who
from tests.attacks.ground import PORTS, Done, Ground
from tests.attacks.packets import UDP, Packet
from tests.faults.field import AES, ELSEWHERE
from tests.netns.judges import wait_until
from tests.wire.native import independent_peer as peer

OTHER_TARGET = ("127.0.0.1", 9998)
SECONDS = 2.0
"""For which one flow is used.  Nobody answers the server's probes on it."""
RATE = 5000.0
FLOWS = 3
NEW = 20
"""Datagrams of a new conversation."""
Frames = Callable[[peer.Direction, int], bytes]
"""Direction, number → the frame."""


class Insider:
    """A session with one UDP flow, from an address of its own."""

    def __init__(self, site: Ground, done: Done, number: int) -> None:
        key = json.loads(site.site.tunnel.config("client").read_text())["secret"]
        self._site, self._done, self._secret = site, done, peer.Secret(base64.b64decode(key))
        self._cipher = peer.AES_256_GCM if site.site.variant.cipher == AES else peer.NONE
        self._source = (site.outsider(number), 5000 + number)
        self._port = PORTS[number % len(PORTS)]
        self._flow = peer.Flow(b"", b"", (0, 0), 0)

    @property
    def sending(self) -> peer.Direction:
        """What seals its frames."""
        assert self._flow.sending
        return self._flow.sending

    def packet(self, payload: bytes) -> bytes:
        """On its flow."""
        return Packet(self._source, (self._site.server, self._port), payload, UDP).octets()

    def answers(self) -> list[bytes]:
        """What the server has sent it since the last call of anybody."""
        return [packet.payload for packet in self._site.to_server.heard(toward=self._source[0])]

    def open(self) -> None:
        """Hello, perhaps twice, and confirmation."""
        offered = peer.offer(self._cipher, 1400, None)
        hello, noise = peer.hello(self._secret, offered, os.urandom(32), 7)
        answer, states = self._ask(hello), [noise]
        if self._secret.open(answer)[0] == peer.COOKIE:
            again = peer.read_cookie(self._secret, hello, answer), 0, 0
            hello, noise = peer.hello(self._secret, offered, os.urandom(32), 7, again)
            answer = self._ask(hello, peer.ANSWER)  # not another cookie: the first hello was perhaps repeated,
            states.append(noise)  # or answered without a cookie when it was
        said, session = self._read(states, answer)
        assert said.status == 0, f"the server answers {said.status}"
        self._flow.stand(session, self._cipher, 1)
        self._ask(peer.confirmation(self._secret, session, said.session_id, 1, said.challenge))

    def _kind(self, said: bytes) -> int | None:
        """Of an envelope; None: it is a frame."""
        try:
            return self._secret.open(said)[0]
        except peer.Garbage:
            return None

    def _read(self, states: list[peer.Noise], answer: bytes) -> tuple[peer.Answer, peer.Session]:
        """What the server answers to one of the hellos."""
        for noise in states[:-1]:
            with contextlib.suppress(peer.Garbage):
                return peer.read_answer(self._secret, noise, answer)
        return peer.read_answer(self._secret, states[-1], answer)

    def _ask(self, payload: bytes, kind: int | None = None) -> bytes:
        """What the server answers, of that ``kind`` if one is named; the question is repeated."""
        found: list[bytes] = []

        def answered() -> bool:
            if not found:
                self._site.to_server.send(self._done, self.packet(payload))
            found.extend(said for said in self.answers() if kind in (None, self._kind(said)))
            return bool(found)

        wait_until(answered, "the server's answer to the insider")
        return found[0]


def opened(site: Ground, done: Done, number: int) -> Insider:
    """One that has its flow."""
    made = Insider(site, done, number)
    made.open()
    return made


def _lost(site: Ground) -> int:
    """Of 20 datagrams of a new conversation of the honest client, there and back."""
    with Application(site.site.lab, ELSEWHERE) as application:
        return application.exchange(NEW).lost


def _floods(site: Ground, done: Done, *, frames: Frames, count: int = int(RATE * SECONDS)) -> None:
    """Sealed frames on one flow after the other; new conversations of the honest client meanwhile, and after it."""
    with EchoTarget(site.site.lab, OTHER_TARGET):
        for number in range(FLOWS):
            insider = opened(site, done, number)
            packets = [insider.packet(frames(insider.sending, at)) for at in range(count)]
            with site.to_server.firing(done, packets, RATE, count / RATE):
                if number == 1:
                    lost = sum(_lost(site) for _ in range(5))
                    done.saw.append(f"the honest client's new conversations during it: {lost} of {5 * NEW} lost")
        took = wait_until(lambda: _lost(site) == 0, "a new conversation that loses nothing", 20)
        done.saw.append(f"one that loses nothing {took:.1f} s after it")
    held = [session["conversations"] for session in site.site.tunnel.status("server")["sessions"]]
    done.saw.append(f"conversations of each session after it: {', '.join(map(str, sorted(held, reverse=True)))}")


def _opening(sending: peer.Direction, at: int) -> bytes:
    return sending.frame(peer.OPENING, at % 65536, b"\0\1x")


def _probe(sending: peer.Direction, at: int) -> bytes:
    return sending.control_frame(struct.pack("!BI", peer.PROBE, at))


def _close(sending: peer.Direction, at: int) -> bytes:
    return sending.control_frame(struct.pack("!BH", peer.CLOSE_CONVERSATION, at % 65536))


def _unknown(sending: peer.Direction, at: int) -> bytes:
    """Empty data of conversations that do not exist."""
    return sending.frame(peer.DATA, at % 65536, b"")


def _empty(sending: peer.Direction, at: int) -> bytes:
    """Empty datagrams of one conversation."""
    return sending.frame(peer.OPENING, 7, b"\0\1") if at == 0 else sending.frame(peer.DATA, 7, b"")


def _parts(sending: peer.Direction, at: int) -> bytes:
    """The first of 255 parts of a datagram whose others never come."""
    return sending.frame(peer.FRAGMENT, 7, struct.pack("!IBBH", at, 0, 255, 1) + bytes(1200))


def _no_target(sending: peer.Direction, at: int) -> bytes:
    return sending.frame(peer.OPENING, at % 65536, struct.pack("!H", (2, 255, 65535)[at % 3]) + b"x")


def _sessions(site: Ground, done: Done, *, count: int = 300) -> None:
    """More sessions than a server keeps, each with one flow."""
    for number in range(count):
        opened(site, done, number)
    sessions = site.site.tunnel.status("server")["sessions"]
    done.saw.append(f"{len(sessions)} sessions at the server")


def _all(*frames: tuple[str, str, Frames, str]) -> Iterable[Attack]:
    for name, what, each, why in frames:
        flows = FLOWS if each is _opening else 0
        yield Attack(
            name, what, Who.INSIDER, partial(_floods, frames=each), (SEALED_UDP, SEALED_UDP6), flows=flows, why=why
        )


INSIDERS = (
    *_all(
        ("insider_conversations", "10,000 conversations a session, 3 sessions", _opening,
         "who has most makes room, at most 2,000/s; who shares a port with it shares the delay"),
        ("insider_probes", "probes, 5,000/s", _probe, "2,000/s of a session are answered; no state"),
        ("insider_closes", "ends of conversations that do not exist, 5,000/s", _close, "no state"),
        ("insider_unknown", "empty data of 10,000 unknown conversations, 5,000/s", _unknown, "dropped; told 1,000 times a second"),
        ("insider_empty", "empty datagrams of one conversation, 5,000/s", _empty, "as any datagram"),
        ("insider_parts", "first parts of datagrams that never end, 5,000/s", _parts, "1 MiB of parts for each session"),
        ("insider_targets", "targets that the server does not have, 5,000/s", _no_target, "refused, 1,000 times a second"),
    ),
    Attack("insider_sessions", "300 sessions with a flow each", Who.INSIDER, _sessions, (SEALED_UDP, SEALED_UDP6), after=8,
           why="the server keeps 256; one without flows makes room first"),
)  # fmt: skip
