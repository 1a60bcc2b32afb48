"""The target is a whole tunnel: both ends on a virtual clock, and an input that is a program of what happens to them.

The first four bytes choose wire, kind of flow, cipher and limits.  Each further step is four bytes: what happens, and
its arguments.  Applications speak, time passes, real packets come again (whole or mutated), strangers forge segments,
and a holder of the secret says what he likes.  After each step hold the standing orders of ``_check``.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from rsock_nf.core.ends.endpoint import Endpoint
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.states import State
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.parameters import Cipher, Kinds, OnProbe, Spread
from rsock_nf.core.protocols import Kind
from rsock_nf.core.types import Carried, Checksum, FlowKey, Packet
from rsock_nf.wire.native.envelope import MessageKind
from rsock_nf.wire.native.half_open import MAX_FRESH, MAX_STRANGE
from rsock_nf.wire.native.handshake import NativeHandshake
from rsock_nf.wire.native.hints import Form, Hinted
from rsock_nf.wire.native.opening import Offer
from tests.core.conntrack import ACK, PSH
from tests.core.pair import SECRET, SERVER_ADDRESS, Pair, numbered
from tests.core.wire import Conditions, Merge, Nat, Toward, checksummed, endpoints, is_udp, make_tcp
from tests.fuzz.insider import Raw, raw_control
from tests.fuzz.mutate import mutated
from tests.fuzz.target import Target
from tests.wire.rsock.pair import RsockPair

HANDSHAKE = NativeHandshake(SECRET)

STEP = 4
MOST_STEPS = 40
SERVER = SERVER_ADDRESS[4].packed
MAX_SESSIONS, MAX_CONVERSATIONS = 2, 3
_ENDS = tuple(Toward)
_SIZES = (24, 25, 400, 1400, 1460, 3000)
_WAITS = (0.0, 0.001, 0.02, 0.3, 2.0, 15.0, 70.0, 700.0)
_STALE = 256
"""Deadlines that were moved and wait in the heap, for each that is set; beside some at the beginning."""


class Step(NamedTuple):
    """What happens, and with what."""

    verb: int
    a: int
    b: int
    c: int


class Tunnel:
    """See the module."""

    def __init__(self, head: bytes) -> None:
        a, b, c, d = head
        self.rsock = bool(a & 1)
        self.cipher = Cipher.NONE if self.rsock else tuple(Cipher)[(a >> 1) % 3]
        limits = {"max_sessions": MAX_SESSIONS, "max_conversations": MAX_CONVERSATIONS, "duration": 20.0}
        # What a middlebox says, and what a server on wire rsock owes to originals, is not what is looked for here.
        common: dict[str, Any] = {
            "kinds": tuple(Kinds)[b % 3],
            "cipher": self.cipher,
            "nat": Nat(b"\xc6\x33\x64\x01") if b & 8 else None,
            "client": {"flows": 1 + c % 3, "spread": tuple(Spread)[c // 3 % 3], "duration": 20.0, "idle_timeout": 10.0},
            "server": {**limits, "on_probe": tuple(OnProbe)[c // 9 % 2]},
            "conditions": Conditions(merge=tuple(Merge)[d % len(Merge)]),
            "strict": False,
            "resets_allowed": True,
        }
        self.pair = (RsockPair if self.rsock else Pair)(1 + d, **common)
        self.rng = random.Random(head)
        self.seen: deque[tuple[Toward, bytes]] = deque(maxlen=48)
        """What the ends have sent lately."""
        self.pair.wire.drop.append(self._record)
        self.pair.start()
        self.pair.run(0.5)

    def _record(self, toward: Toward, packet: bytes) -> bool:
        self.seen.append((toward, packet))
        return False

    def end(self, toward: Toward) -> Endpoint[Any]:
        return self.pair.server if toward is Toward.SERVER else self.pair.client

    # -- what happens

    def say(self, step: Step) -> None:
        self.pair.say(
            f"app {step.a % 8}", *numbered(1 + step.b % 40, _SIZES[step.c % 6], b"a", self.rng.getrandbits(24))
        )

    def reply(self, step: Step) -> None:
        if self.pair.sockets:
            peer = sorted(self.pair.sockets, key=repr)[step.a % len(self.pair.sockets)]
            self.pair.reply(peer, *numbered(1 + step.b % 40, _SIZES[step.c % 6], b"b", self.rng.getrandbits(24)))

    def wait(self, step: Step) -> None:
        self.pair.run(_WAITS[step.a % len(_WAITS)])

    def repeat(self, step: Step) -> None:
        """A packet comes again: as it was, or mutated; where it went, or at the end that sent it."""
        if not self.seen:
            return
        toward, packet = self.seen[step.a % len(self.seen)]
        if step.b:
            self._distrust()
            packet = checksummed_again(mutated(random.Random(step.b << 8 | step.c), [packet]))
        if step.c % 5 == 4:
            toward = _ENDS[toward is _ENDS[0]]
        self._receive(toward, packet)

    def forge(self, step: Step) -> None:
        """A segment with any flags, and numbers near those of a flow or not, from its peer or from a stranger."""
        toward = _ENDS[step.b & 1]
        flows = list(self.end(toward).flows.established())
        payload = self.rng.randbytes((0, 0, 1, 100, 1400)[step.c % 5])
        if not flows or step.b & 2:
            source = bytes((198, 51, step.b, step.c)), 1024 + step.c
            self._receive(toward, make_tcp(source, (SERVER, 10001), step.c * 7, step.b, step.a & 0x3F, payload))
            return
        flow = flows[step.b % len(flows)]
        seq = flow.pump.received + (0, 1, -1, 1000, -1000, 1 << 31)[step.c % 6] & 0xFFFFFFFF
        ack = flow.pump.next_seq + (0, 1, -1, 1 << 20)[step.c // 6 % 4] & 0xFFFFFFFF
        key = flow.key
        source = key.remote, key.remote_port
        self._receive(toward, make_tcp(source, (key.local, key.local_port), seq, ack, step.a & 0x3F, payload))

    def inside(self, step: Step) -> None:
        """A holder of the session's keys sends frames of any kind, or the bytes of a control message, from one end."""
        node = self.end(_ENDS[step.a & 1])
        flows = [flow for flow in node.flows.established() if flow.state is not State.CONFIRMING]
        if not flows:
            return
        self._distrust()
        pump = flows[step.b % len(flows)].pump
        kind = Kind.DATA if self.rsock else step.a >> 1 & 3
        if kind == Kind.CONTROL:
            body = bytes((step.c % 11,)) + self.rng.randbytes((0, 1, 2, 4, 12, 40)[step.b // 16 % 6])
            node._context.outbox.send([node.pump.send_control(pump, Raw(body))])
        else:
            bodies: list[Any] = [self._body(kind, step) or b"-" * self.rsock] * (1 + step.a // 16)
            payload = pump.codec.pack(kind, step.c % 12, pump.counter, b"", bodies)
            pump.counter += len(bodies)
            size = len(bodies[0]) + pump.codec.overhead if len(bodies) > 1 else 0
            node._context.outbox.send([node.pump._segment(pump, payload, size, PSH | ACK)])
        self.pair.flush()

    def _body(self, kind: int, step: Step) -> bytes:
        size = (0, 1, 8, 9, 40, 1300)[step.b // 16 % 6]
        if kind == Kind.FRAGMENT:
            count = (0, 1, 2, 255)[step.c // 12 % 4]
            index = self.rng.randrange(max(count, 1))
            return self.rng.randbytes(2) + bytes((0, step.c % 3, index, count, 0, step.c % 4)) + bytes(size)
        return (step.c % 5).to_bytes(2, "big") + bytes(size) if size else self.rng.randbytes(step.c % 3)

    def handshake(self, step: Step) -> None:
        """A holder of the secret says a message of any kind with any body, from any address, to the server."""
        if self.rsock:
            return
        server, source = self.pair.server, (bytes((198, 51, 100, step.b)), 2000 + step.b)
        messages = HANDSHAKE
        if step.c & 1:
            message = messages._envelope.wrap(MessageKind(step.a % 7 + 1), self.rng.randbytes(33 + step.c // 2))
        else:
            message = messages.hello(Offer(tuple(Cipher)[step.a % 3], step.c * 8, None), self.rng.randbytes)[0]
        if step.b & 1:
            message = messages.hints.attach(message, Hinted(Form.LASTING))
        if step.a & 0x80:
            key = FlowKey(SERVER, 10001, *source, udp=True)
            server.receive_carried(self.pair.now, [Carried(key, memoryview(message), 0)])
        else:
            isn = self.pair.server_wire._cookie.isn(FlowKey(SERVER, 10001, *source), 99, self.pair.now)
            packet = make_tcp(source, (SERVER, 10001), 100, isn + 1 & 0xFFFFFFFF, ACK | PSH, message)
            server.receive_packets(self.pair.now, [Packet(memoryview(packet), 0, Checksum.VERIFY, b"link")])
        self.pair.flush()

    def weather(self, step: Step) -> None:
        loss, twice, mixed = ((0.0, 0.1, 0.5, 1.0)[at % 4] for at in (step.a, step.b, step.c))
        now = Conditions(loss=loss, duplicate=twice, reorder=mixed, merge=tuple(Merge)[step.a // 4 % len(Merge)])
        self.pair.wire.conditions = dict.fromkeys(Toward, now)

    def lifecycle(self, step: Step) -> None:
        pair = self.pair
        match step.a % 8:
            case 0:
                pair.restart_server()
            case 1:
                pair.client.role.reconnect(pair.now)
            case 2 if pair.wire.nat:
                pair.wire.nat.rebind()
            case 3:
                pair.client.role.renew(pair.now)
            case 4:
                pair.client.role.use_addresses(pair.now, [ip_address("192.0.2.2")], move=bool(step.b & 1))
            case 5:
                node = self.end(_ENDS[step.b & 1])
                node.receive_mtu(pair.now, (576, 1280, 1400, 1500, 9000)[step.c % 5], (0, 64_000)[step.c // 5 % 2])
            case 6 if pair.sockets and not self.rsock:
                pair.server.role.socket_refused(pair.now, min(pair.sockets, key=repr), "none")
            case 7 if step.b > 240:
                pair.server.role.stop(pair.now)
            case 7:
                pair.replace_client()
                pair.client.role.start(pair.now)
        pair.flush()

    def _distrust(self) -> None:
        """From now on something may be delivered that no application has sent, if its cipher or its sender allows."""
        self.pair.forged = True

    def _receive(self, toward: Toward, packet: bytes) -> None:
        node, pair = self.end(toward), self.pair
        if len(packet) >= 40 and packet[0] >> 4 in (4, 6) and is_udp(packet):
            source, destination, payload = endpoints(packet)
            key = FlowKey(*destination, *source, udp=True)
            if toward is Toward.SERVER or key in pair.carriers:
                node.receive_carried(pair.now, [Carried(key, memoryview(payload), 0)])
        else:
            node.receive_packets(pair.now, [Packet(memoryview(packet), 0, Checksum.VERIFY, b"link")])
        pair.flush()


VERBS: Sequence[Callable[[Tunnel, Step], None]] = (
    *(Tunnel.say, Tunnel.reply, Tunnel.wait, Tunnel.repeat, Tunnel.forge),
    *(Tunnel.inside, Tunnel.handshake, Tunnel.weather, Tunnel.lifecycle),
)


def checksummed_again(packet: bytes) -> bytes:
    """With right checksums if it still looks like IPv4 and TCP, so that the damage gets past them."""
    if len(packet) < 40 or packet[0] != 0x45 or packet[9] != 6:
        return packet
    return checksummed(bytearray(packet))


def _check(tunnel: Tunnel) -> None:
    """The standing orders: no flow without a timer, and bounds on everything that is kept."""
    for toward in _ENDS:
        node = tunnel.end(toward)
        deadlines = node._context.deadlines
        for flow in node.flows:
            if flow.state is not State.TCP_UP:  # it waits for the hello of another, which has a timer
                assert any(deadlines.get(timer, flow) is not None for timer in Timer), f"{flow} has no timer"
            if isinstance(flow, Established):
                assert flow.session.reassembly._bytes <= flow.session.reassembly.max_bytes
                assert len(flow.session.flows) <= 1024
        assert len(deadlines._heap) <= 1000 + _STALE * len(deadlines._when), "deadlines that were moved pile up"
        assert len(node.counters) < 100
    server = tunnel.pair.server
    assert len(server.role.sessions_by_id) <= MAX_SESSIONS
    assert len(server.conversations) <= MAX_CONVERSATIONS
    assert len(tunnel.pair.sockets) <= MAX_CONVERSATIONS
    if not tunnel.rsock:
        assert len(tunnel.pair.server_wire.half_open) <= MAX_FRESH + MAX_STRANGE


def run(data: bytes) -> object:
    """Run the program.  Nothing is malformed: every byte means something."""
    tunnel = Tunnel(data[:STEP].ljust(STEP, b"\0"))
    steps = [data[at : at + STEP].ljust(STEP, b"\0") for at in range(STEP, len(data), STEP)]
    with raw_control():
        for verb, a, b, c in steps[:MOST_STEPS]:
            VERBS[verb % len(VERBS)](tunnel, Step(verb, a, b, c))
            _check(tunnel)
        tunnel.pair.run(1.0)
        _check(tunnel)
    return None


def seeds() -> list[bytes]:
    """Each wire and kind, with each verb a few times."""
    rng = random.Random(7)
    made = []
    for a in (0, 1, 2, 4):
        for b in (0, 1, 2, 9):
            steps = b"".join(
                bytes((verb,)) + rng.randbytes(3) for verb in (0, 2, *range(len(VERBS)), 0, 5, 0, 0, 2, 8, 2, 0, 8, 2)
            )
            made.append(bytes((a, b)) + rng.randbytes(2) + steps)
    return made


TARGETS: dict[str, Target] = {"whole": Target(run, seeds, cost=20, share=24)}
