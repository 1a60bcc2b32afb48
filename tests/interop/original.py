"""An original rsock, as far as a peer can tell: written from a description of its behaviour, errors included.

It shares no code with ours.  Kernel TCP sockets make the connections and stay open; beside them segments are forged
through a raw socket, and received through a tap:

* never PSH; the client's first number is one too far; ACKs begin at the own number + 1, and are raised only where what
  was received is *numerically* larger, so that half of them stay meaningless;
* each frame, keepalives too, takes a flow at random; a server makes a flow of DATA only, delivers DATA even of
  addresses that it never accepted, and resets flows that it does not know;
* a client believes any RST or FIN by its ports alone, and dials again, from another port;
* a frame has no length: payloads above 1,468 bytes are thrown away, merged ones with them;
* version 1 takes all connections between two addresses for one: forged segments of each begin at the numbers of the
  first one.

What it saw is counted in ``seen``.  One thread each; ``settle`` and ``keepalive`` are what they are there, or shorter.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

from rsock_nf.lab.netns import Namespace

DATA, CONV_RST, NETCONN_RST, KEEP_ALIVE_REQ, KEEP_ALIVE_RESP = range(5)
FIN, SYN, RST, ACK = 1, 2, 4, 16
ETH_P_ALL, OUTGOING = 3, 4
LARGEST_RECEIVED = 1468
HEADS = {1: struct.Struct("<8sBB8sIIB"), 2: struct.Struct("<8sBB8sIQB")}
KEYS = {1: struct.Struct("<I"), 2: struct.Struct("<Q")}
"""A flow's key, by version: 1.x or 2.x."""
TICK = 0.25
"""Seconds; the original's is 1."""
MASK = 0xFFFFFFFF

Address = tuple[str, int]


class Tcp(NamedTuple):
    """One captured segment."""

    source: Address
    destination: Address
    seq: int
    ack: int
    flags: int
    payload: bytes
    outgoing: bool


@dataclass(eq=False)
class Flow:
    """One connection of the kernel, and the numbers that are forged beside it."""

    key: int
    local: Address
    remote: Address
    kernel: socket.socket
    seq: int = 0
    ack: int = 0
    born: float = 0.0
    used: bool = False
    dead: bool = False
    pending: int = 0
    asked: float = 0.0


@dataclass(eq=False)
class Group:
    """What belongs to one client."""

    client: bytes
    flows: dict[int, Flow] = field(default_factory=dict)


class Original:
    """What client and server have in common."""

    def __init__(
        self,
        host: Namespace,
        address: str,
        *,
        key: bytes = b"hello135",
        keepalive: float = 4.0,
        settle: float = 15.0,
        version: int = 2,
    ) -> None:
        self.version = version
        self._head, self._key = HEADS[version], KEYS[version]
        self.host = host
        self.address = address
        self.key = key
        self.keepalive = keepalive
        self.settle = settle
        self.seen = Counter[str]()
        self.rng = random.Random(7)
        self._conversation = 0
        """Of the last DATA: what control frames carry."""
        self._identification = 0
        self._isns: dict[Hashable, int] = {}
        """The initial sequence number of this side, by connection: from captured SYN-ACKs."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__)
        self._tap = host.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)))
        self._tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._tap.bind(("eth0", ETH_P_ALL))
        self._raw = host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """As a process that ends: its kernel closes every socket."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for opened in (self._tap, self._raw, *self._all_sockets()):
            opened.close()

    def _all_sockets(self) -> list[socket.socket]:
        return self._sockets()

    def _sockets(self) -> list[socket.socket]:
        raise NotImplementedError

    def _readable(self, one: socket.socket) -> None:
        raise NotImplementedError

    def _segment(self, tcp: Tcp) -> None:
        raise NotImplementedError

    def _tick(self, now: float) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        due = time.monotonic() + TICK
        while not self._stop.is_set():
            readable, _, _ = select.select([self._tap, *self._sockets()], [], [], max(due - time.monotonic(), 0))
            for one in readable:
                if one is self._tap:
                    self._drain()
                elif one.fileno() >= 0:
                    self._readable(one)
            if time.monotonic() >= due:
                due = time.monotonic() + TICK
                self._tick(time.monotonic())

    def _connection(self, place: tuple[Address, Address]) -> Hashable:
        """What names a connection (the client's address, the server's).  Version 1 compares no ports."""
        return place if self.version == 2 else (place[0][0], place[1][0])

    def _remember(self, place: tuple[Address, Address], isn: int) -> None:
        """Keep the first number of a connection; what has the same name keeps the number that is there."""
        if self.version == 2:
            self._isns[self._connection(place)] = isn
        else:
            self._isns.setdefault(self._connection(place), isn)

    # -- packets

    def _drain(self) -> None:
        for _ in range(64):
            try:
                data, (_, protocol, kind, *_rest) = self._tap.recvfrom(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if protocol == 0x0800 and len(data) >= 40 and data[9] == 6:
                self._segment(parse(data, outgoing=kind == OUTGOING))

    def _frames_of(self, tcp: Tcp, flow: Flow | None) -> tuple[int, bytes, int, int, bytes] | None:
        """(command, client, conversation, key, body) of a captured segment that is one; raises the flow's ack."""
        size = len(tcp.payload)
        if flow is not None and size:
            end = (tcp.seq + size) & MASK
            flow.ack = max(flow.ack, end)  # numerically: wrong for half of all flows
        if size > LARGEST_RECEIVED:
            self.seen["payloads too large"] += 1
            return None
        if size <= self._head.size:
            self.seen["bare segments"] += not size
            return None
        digest, length, command, client, conversation, key, _ = self._head.unpack_from(tcp.payload)
        body = tcp.payload[8 + length :]
        if length > size - 8 or not body or digest != self._digest(body):
            self.seen["bad frames"] += 1
            return None
        self.seen[f"command {command}"] += 1
        return command, client, conversation, key, body

    def _digest(self, body: bytes) -> bytes:
        return hashlib.md5(self.key + body[:1], usedforsecurity=False).digest()[8:]

    def _send(self, group: Group, command: int, body: bytes, avoid: Flow | None = None) -> None:
        """On a flow at random."""
        flow = self._pick(group, avoid)
        if flow is None:
            self.seen["frames without a flow"] += 1
            return
        head = self._head.pack(
            self._digest(body), self._head.size - 8, command, group.client, self._conversation, flow.key, 0
        )
        payload = head + body
        flow.used = True
        with contextlib.suppress(OSError):
            self._raw.sendto(self._packet(flow, payload), flow.remote)
        flow.seq = (flow.seq + len(payload)) & MASK

    def _pick(self, group: Group, avoid: Flow | None) -> Flow | None:
        """At random; dead ones that are met are dropped."""
        while live := [flow for flow in group.flows.values() if flow is not avoid]:
            flow = self.rng.choice(live)
            if not flow.dead:
                return flow
            self._drop(group, flow)
        return None

    def _packet(self, flow: Flow, payload: bytes) -> bytes:
        source, destination = socket.inet_aton(flow.local[0]), socket.inet_aton(flow.remote[0])
        self._identification = self._identification + 1 & 0xFFFF
        tcp = struct.pack("!HHIIBBHHH", flow.local[1], flow.remote[1], flow.seq, flow.ack, 5 << 4, ACK, 65535, 0, 0)
        total = source + destination + struct.pack("!HH", 6, len(tcp) + len(payload)) + tcp + payload
        tcp = tcp[:16] + checksum(total) + tcp[18:]
        size = 20 + len(tcp) + len(payload)
        ip = struct.pack("!BBHHHBBH", 0x45, 0, size, self._identification, 0x4000, 64, 6, 0) + source + destination
        return ip + tcp + payload

    def _drop(self, group: Group, flow: Flow) -> None:
        group.flows.pop(flow.key, None)
        flow.kernel.close()
        self.seen["flows dropped"] += 1

    def _keep_alive(self, group: Group, now: float) -> None:
        for flow in list(group.flows.values()):
            if flow.used and now - flow.born >= self.settle and now - flow.asked >= self.keepalive:
                if flow.pending >= 3:
                    flow.dead = True
                    self.seen["flows found dead"] += 1
                    continue
                flow.pending += 1
                flow.asked = now
                self._send(group, KEEP_ALIVE_REQ, self._key.pack(flow.key))

    def _control(self, group: Group, command: int, body: bytes) -> None:
        (key,) = self._key.unpack_from(body)
        flow = group.flows.get(key)
        if command == KEEP_ALIVE_REQ:
            if flow is None:
                self._send(group, NETCONN_RST, body[: self._key.size])
            else:
                self._send(group, KEEP_ALIVE_RESP, body[: self._key.size])
        elif flow is not None and command == KEEP_ALIVE_RESP:
            flow.pending = 0
        elif flow is not None:
            self.seen["flows refused"] += 1
            flow.dead = True

    def _kernel_readable(self, flow: Flow) -> None:
        """Whatever the kernel took for data is thrown away; its end is the flow's."""
        try:
            if not flow.kernel.recv(1 << 16):
                flow.dead = True
        except BlockingIOError:
            return
        except OSError:
            flow.dead = True


class OriginalServer(Original):
    """Listens on every one of ``ports``, and hands datagrams to ``target``."""

    def __init__(self, host: Namespace, address: str, ports: range, target: Address, **more: object) -> None:
        super().__init__(host, address, **more)  # type: ignore[arg-type]
        self.ports = ports
        self.target = target
        self.groups: dict[bytes, Group] = {}
        self._listeners = [host.call(lambda port=port: listen(address, port)) for port in ports]  # type: ignore[misc]
        self._accepted: dict[tuple[Address, Address], socket.socket] = {}
        self._targets: dict[tuple[bytes, str, int], socket.socket] = {}
        self._of_socket: dict[socket.socket, tuple[bytes, str, int]] = {}

    def _sockets(self) -> list[socket.socket]:
        flows = [flow.kernel for group in self.groups.values() for flow in group.flows.values() if not flow.dead]
        return [*self._listeners, *self._of_socket, *flows]

    def _readable(self, one: socket.socket) -> None:
        if one in self._listeners:
            with contextlib.suppress(BlockingIOError):
                kernel, client = one.accept()
                kernel.setblocking(False)
                self._accepted[client, kernel.getsockname()] = kernel
        elif one in self._of_socket:
            client_id, _, conversation = self._of_socket[one]
            with contextlib.suppress(OSError):
                datagram = one.recv(1 << 16)
                self._conversation = conversation
                self._send(self.groups[client_id], DATA, datagram)
        else:
            for group in self.groups.values():
                for flow in group.flows.values():
                    if flow.kernel is one:
                        self._kernel_readable(flow)

    def _segment(self, tcp: Tcp) -> None:
        if tcp.flags & SYN:
            if tcp.outgoing and tcp.source[1] in self.ports:
                self._remember((tcp.destination, tcp.source), tcp.seq)
            return
        if (
            tcp.outgoing
            or tcp.destination != (self.address, tcp.destination[1])
            or tcp.destination[1] not in self.ports
        ):
            return
        known = [flow for group in self.groups.values() for flow in group.flows.values() if flow.remote == tcp.source]
        parsed = self._frames_of(tcp, known[0] if known else None)
        if parsed is None:
            return
        command, client, conversation, key, body = parsed
        group = self.groups.get(client)
        if command == DATA:
            if group is None:
                group = self.groups[client] = Group(client)
            if key not in group.flows:
                self._new_flow(group, key, tcp)
            self._to_target(client, tcp.source[0], conversation, body)
        elif group is not None and command == CONV_RST:
            (number,) = struct.unpack_from("<I", body)
            opened = self._targets.pop((client, tcp.source[0], number), None)
            if opened is not None:
                del self._of_socket[opened]
                opened.close()
        elif group is not None:
            self._control(group, command, body)
        else:
            self.seen["control frames of a stranger"] += 1

    def _new_flow(self, group: Group, key: int, tcp: Tcp) -> None:
        place = tcp.source, tcp.destination
        for listener in self._listeners:  # accepted by the kernel, perhaps not by us yet
            while select.select([listener], [], [], 0)[0]:
                self._readable(listener)
        kernel, isn = self._accepted.pop(place, None), self._isns.get(self._connection(place))
        if kernel is None or isn is None:
            self.seen["datagrams without a connection"] += 1
            self._send(group, NETCONN_RST, self._key.pack(key))
            return
        flow = Flow(key, tcp.destination, tcp.source, kernel, born=time.monotonic())
        flow.seq = (isn + 1) & MASK
        flow.ack = max((isn + 2) & MASK, (tcp.seq + len(tcp.payload)) & MASK)  # the first frame raises it, too
        group.flows[key] = flow
        self.seen["flows"] += 1

    def _to_target(self, client: bytes, source: str, conversation: int, body: bytes) -> None:
        place = client, source, conversation
        opened = self._targets.get(place)
        if opened is None:
            opened = self.host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            opened.connect(self.target)
            opened.setblocking(False)
            self._targets[place] = opened
            self._of_socket[opened] = place
            self.seen["conversations"] += 1
        with contextlib.suppress(OSError):
            opened.send(body)

    def _tick(self, now: float) -> None:
        for group in self.groups.values():
            self._keep_alive(group, now)

    def _all_sockets(self) -> list[socket.socket]:
        flows = [flow.kernel for group in self.groups.values() for flow in group.flows.values()]
        return [*self._sockets(), *flows, *self._accepted.values()]


class OriginalClient(Original):
    """Dials ``ports`` of ``server``, and takes datagrams at ``listen``."""

    def __init__(
        self, host: Namespace, address: str, server: str, ports: range, listen: Address, **more: object
    ) -> None:
        super().__init__(host, address, **more)  # type: ignore[arg-type]
        self.server = server
        self.ports = ports
        self.group = Group(self.rng.randbytes(8))
        self._next = 2
        self._applications: dict[Address, int] = {}
        self._captured: set[tuple[Address, Address]] = set()
        """The connections (our address, the server's) whose SYN-ACK was captured."""
        self._redial: list[tuple[float, int, int]] = []
        """(when, port, failures)."""
        self._listener = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._listener.bind(listen)
        self._listener.setblocking(False)
        for port in ports:
            self._dial(port, 0)

    def _sockets(self) -> list[socket.socket]:
        return [self._listener, *(flow.kernel for flow in self.group.flows.values() if not flow.dead)]

    def _all_sockets(self) -> list[socket.socket]:
        return [self._listener, *(flow.kernel for flow in self.group.flows.values())]

    def _name(self, port: int, local_port: int) -> int:
        """The key of a flow."""
        return 0x10000000 | port << 16 | local_port if self.version == 2 else local_port << 1

    def _dial(self, port: int, failures: int) -> None:
        """Blocking, as there; then the SYN-ACK is looked for in what was captured."""
        kernel = self.host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        kernel.settimeout(2.0)
        try:
            kernel.connect((self.server, port))
        except OSError:
            kernel.close()
            self._redial.append((time.monotonic() + min(2**failures, 32), port, failures + 1))
            return
        kernel.setblocking(False)
        place = kernel.getsockname(), kernel.getpeername()
        end = time.monotonic() + 0.5
        while place not in self._captured and time.monotonic() < end:
            select.select([self._tap], [], [], 0.05)
            self._drain()
        if place not in self._captured:
            kernel.close()
            return
        isn = self._isns[self._connection(place)]
        key = self._name(port, place[0][1])
        flow = Flow(key, place[0], place[1], kernel, born=time.monotonic())
        flow.seq = (isn + 2) & MASK  # one byte too far
        flow.ack = (isn + 3) & MASK
        self.group.flows[key] = flow
        self.seen["flows"] += 1

    def _readable(self, one: socket.socket) -> None:
        if one is not self._listener:
            for flow in self.group.flows.values():
                if flow.kernel is one:
                    self._kernel_readable(flow)
            return
        for _ in range(64):
            try:
                datagram, application = one.recvfrom(1 << 16)
            except BlockingIOError:
                return
            number = self._applications.get(application)
            if number is None:
                number = self._applications[application] = self._next
                self._next += 1
            self._conversation = number
            self._send(self.group, DATA, datagram)

    def _segment(self, tcp: Tcp) -> None:
        if tcp.outgoing or tcp.source[0] != self.server or tcp.source[1] not in self.ports:
            return
        if tcp.flags & SYN:
            place = tcp.destination, tcp.source
            self._captured.add(place)
            self._remember(place, (tcp.ack - 1) & MASK)
            return
        key = self._name(tcp.source[1], tcp.destination[1])
        flow = self.group.flows.get(key)
        if tcp.flags & (RST | FIN) and len(tcp.payload) <= self._head.size:
            self.seen["RST" if tcp.flags & RST else "FIN"] += 1
            if flow is not None:
                flow.dead = True
            return
        parsed = self._frames_of(tcp, flow)
        if parsed is None:
            return
        command, _, conversation, named, body = parsed
        if command == DATA:
            if named not in self.group.flows:
                self.seen["data of unknown flows"] += 1
                self._send(self.group, NETCONN_RST, self._key.pack(named))
            self._to_application(conversation, body)
        elif command != CONV_RST:  # which a client ignores
            self._control(self.group, command, body)

    def _to_application(self, conversation: int, body: bytes) -> None:
        for application, number in self._applications.items():
            if number == conversation:
                with contextlib.suppress(OSError):
                    self._listener.sendto(body, application)
                return
        self._send(self.group, CONV_RST, struct.pack("<I", conversation))

    def _drop(self, group: Group, flow: Flow) -> None:
        super()._drop(group, flow)
        self._redial.append((time.monotonic() + 1.0, flow.remote[1], 0))

    def _tick(self, now: float) -> None:
        self._keep_alive(self.group, now)
        for flow in [flow for flow in self.group.flows.values() if flow.dead]:
            self._drop(self.group, flow)
        due = [entry for entry in self._redial if entry[0] <= now]
        for entry in due:
            self._redial.remove(entry)
            self._dial(entry[1], entry[2])


def listen(address: str, port: int) -> socket.socket:
    """A listening socket of the kernel."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(5)
    listener.setblocking(False)
    return listener


def parse(data: bytes, *, outgoing: bool) -> Tcp:
    """A captured IPv4 packet that carries TCP."""
    start = (data[0] & 15) * 4
    total = int.from_bytes(data[2:4], "big")
    sport, dport, seq, ack, offset, flags = struct.unpack_from("!HHIIBB", data, start)
    source, destination = socket.inet_ntoa(data[12:16]), socket.inet_ntoa(data[16:20])
    payload = data[start + (offset >> 4) * 4 : total]
    return Tcp((source, sport), (destination, dport), seq, ack, flags, payload, outgoing)


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = int.from_bytes(data + b"\0" * (len(data) & 1), "big") % 0xFFFF or 0xFFFF
    return (0xFFFF - total).to_bytes(2, "big")
