"""The event loop that waits in C, with real sockets on the loopback device: what C carries, and what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import pytest

from rsock_nf.core.parameters import Cipher, Spread
from rsock_nf.core.pump.pump import Pump
from rsock_nf.core.pump.state import FlowGroup, Handover, PumpFlow
from rsock_nf.core.types import FlowKey, TransportAddress
from rsock_nf.native.path import HotPath, Left
from rsock_nf.native.selector import new_event_loop, selector_of
from rsock_nf.sockets.carriers import ClientCarrier, ServerCarrier
from rsock_nf.sockets.datagrams import DatagramCounters, Listener
from rsock_nf.sockets.source import Source
from rsock_nf.wire.native.epochs import KeyRing
from rsock_nf.wire.native.frames import flow_codec
from tests.native.hot_end import library

HERE = ip_address("127.0.0.1")
ANY_PORT = TransportAddress(HERE, 0)
CIPHERS = [Cipher.NONE, Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305]


def run_until(loop: asyncio.AbstractEventLoop, condition: Callable[[], Any]) -> None:
    """Run ``loop`` until ``condition`` holds."""

    async def wait() -> None:
        while not condition():  # noqa: ASYNC110 - a socket is asked, which tells nobody
            await asyncio.sleep(0.001)

    loop.run_until_complete(asyncio.wait_for(wait(), 20))


@dataclass
class Scene:
    """A client's hot path, whose one flow goes over a UDP carrier to ``server``; ``app`` is the application."""

    loop: asyncio.AbstractEventLoop
    path: HotPath
    listener: Listener
    source: Source
    app: socket.socket
    server: socket.socket
    carrier: ClientCarrier
    cipher: Cipher
    pump: Pump
    group: FlowGroup
    flow: PumpFlow
    left: list[Left] = field(default_factory=list)

    def until(self, condition: Callable[[], Any]) -> None:
        """Run the loop until ``condition`` holds."""
        run_until(self.loop, condition)

    def open_conversation(self) -> None:
        peer = _peer_of(self.app)
        made = self.pump.states.conversation(self.group, 5, peer, target=0, opening=False)
        self.pump.put_conversation(made)

    def frames(self, *datagrams: bytes) -> bytes:
        """What the server would send."""
        codec = flow_codec(self.cipher, KeyRing(self.cipher, b"k" * 32), 1, initiator=False)
        return b"".join(
            b"".join(codec.pack(0, 5, counter, b"", [datagram])) for counter, datagram in enumerate(datagrams)
        )


def _peer_of(app: socket.socket) -> bytes:
    port: int = app.getsockname()[1]
    return socket.AF_INET.to_bytes(2, "little") + port.to_bytes(2, "big") + HERE.packed + bytes(8)


@contextmanager
def scene(cipher: Cipher = Cipher.NONE) -> Iterator[Scene]:
    loop = new_event_loop(library())
    selector = selector_of(loop)
    assert selector is not None
    path = HotPath(selector, Spread.BURST)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    app = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    app.bind(("127.0.0.1", 0))
    listener = Listener(ANY_PORT)
    app.connect(("127.0.0.1", listener.local.port))
    for one in (server, app):
        one.setblocking(False)
    carrier = ClientCarrier(TransportAddress(HERE, server.getsockname()[1]))
    pump = Pump(seed=1, max_burst_bytes=0, states=path.states)
    group = path.states.group(None)
    codec = flow_codec(cipher, KeyRing(cipher, b"k" * 32), 1, initiator=True)
    source = Source(listener.fileno(), listener.receive, listener.counters)
    assert path.take_source(source)
    assert path.take_carrier(carrier)
    flow = path.states.flow(group, 1, carrier.key, codec, Handover(0, 0, None, 0, 1460, 0))
    pump.put_flow(flow)
    group.use(flow)
    made = Scene(loop, path, listener, source, app, server, carrier, cipher, pump, group, flow)
    loop.add_reader(path.bell, lambda: made.left.append(_copied(path.left())))
    path.pause(paused=False)
    try:
        yield made
    finally:
        loop.remove_reader(path.bell)
        path.close()
        loop.close()
        for closed in (listener, carrier, app, server):
            closed.close()


def _copied(left: Left) -> Left:
    """Its buffers are used again."""
    runs = [run._replace(datagrams=[bytes(one) for one in run.datagrams]) for run in left.runs]
    carried = [item._replace(data=memoryview(bytes(item.data))) for item in left.carried]
    return left._replace(runs=runs, carried=carried)


def read(sock: socket.socket, into: list[bytes]) -> Callable[[], int]:
    """Reads all that waits; how much was read so far."""

    def poll() -> int:
        while True:
            try:
                into.append(sock.recv(1 << 16))
            except BlockingIOError:
                return len(into)

    return poll


@pytest.mark.parametrize("cipher", CIPHERS)
def test_datagrams_leave_and_come_without_python(cipher: Cipher) -> None:
    sent = [b"one" * 100, b"two" * 100, b"3", b""]
    with scene(cipher) as it:
        it.open_conversation()
        for datagram in sent:
            it.app.send(datagram)
        arrived: list[bytes] = []
        poll = read(it.server, arrived)
        it.until(lambda: poll() >= len(sent))
        far = flow_codec(cipher, KeyRing(cipher, b"k" * 32), 1, initiator=False)
        opened = [frames for one in arrived for frames in far.unpack(memoryview(one), 0)[0]]
        assert [bytes(one) for frames in opened for one in frames.datagrams] == sent
        answers = [b"a" * 700, b"b" * 700, b"c" * 20]
        it.server.sendto(it.frames(*answers), ("127.0.0.1", it.carrier.key.local_port))
        got: list[bytes] = []
        poll = read(it.app, got)
        it.until(lambda: poll() == len(answers))
        assert got == answers
        assert it.left == [], "Python had nothing to do"
        it.path.fold()
        assert (it.listener.counters.received, it.listener.counters.sent) == (len(sent), len(answers))
        assert it.carrier.counters.sent == len(sent)
        assert (it.flow.sent_frames, it.flow.received_frames) == (len(sent), len(answers))


def test_who_is_not_known_is_left_to_python() -> None:
    with scene() as it:
        it.app.send(b"who is that")
        it.until(lambda: it.left)
        (run,) = it.left[0].runs
        assert (run.peer, run.datagrams) == (_peer_of(it.app), [b"who is that"])


def test_what_is_no_data_is_left_to_python_whole() -> None:
    with scene() as it:
        it.open_conversation()
        payload = it.frames(b"good") + b"garbage"
        it.server.sendto(payload, ("127.0.0.1", it.carrier.key.local_port))
        it.until(lambda: it.left)
        (item,) = it.left[0].carried
        assert (item.key, bytes(item.data)) == (it.carrier.key, payload)
        assert it.flow.received_frames == 0, "nothing of it was counted"


def test_what_follows_on_a_flow_waits_for_what_was_left() -> None:
    with scene() as it:
        it.open_conversation()
        for payload in (b"garbage", it.frames(b"good")):
            it.server.sendto(payload, ("127.0.0.1", it.carrier.key.local_port))
        it.until(lambda: it.left)
        items = [bytes(item.data) for left in it.left for item in left.carried]
        assert items[0] == b"garbage"
        if len(it.left) == 1 and len(items) == 1:  # they came in two passes
            got: list[bytes] = []
            poll = read(it.app, got)
            it.until(lambda: poll() == 1)
        else:
            assert items[1] == it.frames(b"good")


def test_sources_are_not_read_while_paused() -> None:
    with scene() as it:
        it.open_conversation()
        it.path.pause(paused=True)
        it.app.send(b"later")
        it.loop.run_until_complete(asyncio.sleep(0.05))
        arrived: list[bytes] = []
        poll = read(it.server, arrived)
        assert poll() == 0
        it.path.pause(paused=False)
        it.until(lambda: poll() == 1)


def test_a_closed_port_is_told() -> None:
    with scene() as it:
        it.open_conversation()
        it.server.close()
        it.app.send(b"nobody there")
        it.until(lambda: any(left.refused for left in it.left))
        assert it.carrier.refused()


def test_the_same_loop_serves_a_second_tunnel() -> None:
    with scene() as it:
        it.open_conversation()
        it.app.send(b"x")
        arrived: list[bytes] = []
        poll = read(it.server, arrived)
        it.until(lambda: poll() == 1)
        it.path.close()
        it.path.close()
        selector = selector_of(it.loop)
        assert selector is not None
        again = HotPath(selector, Spread.BURST)
        assert again.take_source(it.source)
        it.loop.remove_reader(it.path.bell)
        it.loop.add_reader(again.bell, lambda: it.left.append(_copied(again.left())))
        again.pause(paused=False)
        it.app.send(b"y")
        it.until(lambda: it.left)
        assert it.left[0].runs[0].datagrams == [b"y"], "no conversation of the first one is left"
        again.close()


def test_a_server_finds_the_flow_by_sender_and_port() -> None:
    loop = new_event_loop(library())
    selector = selector_of(loop)
    assert selector is not None
    path = HotPath(selector, Spread.BURST)
    left: list[Left] = []
    with contextlib.ExitStack() as stack:
        stack.callback(loop.close)
        carrier = _any_port(stack)
        client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.connect(("127.0.0.1", carrier.endpoint.port))
        to_target, target = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        target.setblocking(False)
        stack.callback(path.close)
        assert path.take_carrier(carrier)
        loop.add_reader(path.bell, lambda: left.append(_copied(path.left())))
        stack.callback(loop.remove_reader, path.bell)
        key = FlowKey(HERE.packed, carrier.endpoint.port, HERE.packed, client.getsockname()[1], udp=True)
        pump = Pump(seed=1, max_burst_bytes=0, states=path.states)
        group = path.states.group(None)
        near, far = (
            flow_codec(Cipher.NONE, KeyRing(Cipher.NONE, b"k" * 32), 1, initiator=end) for end in (False, True)
        )
        flow = path.states.flow(group, 1, key, near, Handover(0, 0, None, 0, 1460, 0))
        pump.put_flow(flow)
        pump.put_conversation(path.states.conversation(group, 5, ("session", 5), target=0, opening=False))
        assert path.take_source(Source(to_target.fileno(), list, DatagramCounters(), ("session", 5)))
        client.send(b"".join(far.pack(0, 5, 0, b"", [b"to the target"])))
        got: list[bytes] = []
        run_until(loop, read(target, got))
        assert got == [b"to the target"]
        pump.drop_flow(flow)
        client.send(b"".join(far.pack(0, 5, 1, b"", [b"again"])))
        run_until(loop, lambda: left)
        assert left[0].carried[0].key == key


def _any_port(stack: contextlib.ExitStack) -> ServerCarrier:
    """A server's carrier on a port that is free on all addresses."""
    everywhere = ip_address("0.0.0.0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("0.0.0.0", 0))
        port = free.getsockname()[1]
    carrier = ServerCarrier(TransportAddress(everywhere, port))
    stack.callback(carrier.close)
    return carrier


# -- the loop as any program uses it


def test_timers_threads_readers_and_signals_work() -> None:
    loop = new_event_loop(library())
    heard: list[str] = []

    async def main() -> None:
        one, other = socket.socketpair()

        def readable() -> None:
            heard.append("reader")
            loop.remove_reader(one)

        loop.add_reader(one, readable)
        loop.add_signal_handler(signal.SIGUSR1, lambda: heard.append("signal"))
        done = asyncio.Event()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(done.set))
        other.send(b"x")
        os.kill(os.getpid(), signal.SIGUSR1)
        thread.start()
        await asyncio.wait_for(done.wait(), 20)
        await asyncio.sleep(0.01)
        while len(heard) < 2:  # noqa: ASYNC110 - that is what the loop is tested with
            await asyncio.sleep(0.001)
        thread.join()
        one.close()
        other.close()
        assert await loop.run_in_executor(None, lambda: 7) == 7
        child = await asyncio.create_subprocess_exec("true")
        assert await child.wait() == 0

    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
        loop.close()
    assert sorted(heard) == ["reader", "signal"]
