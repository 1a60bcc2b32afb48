"""Where metrics are served: what a scraper gets, and what those get who ask too much."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.core.types import TransportAddress
from rsock_nf.errors import TunnelError
from rsock_nf.ops.control_socket import serve as serving
from rsock_nf.ops.metrics import serve
from rsock_nf.ops.metrics.serve import listening, serve_metrics
from tests.ops.metrics_snapshots import session, snapshot

LOG = logging.getLogger("tests.metrics")
GET = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Served:
    """A server of metrics, and how often it has looked."""

    def __init__(self, address: Any) -> None:
        self.address = address
        self.looks = 0
        self.shown: Callable[[], dict[str, Any]] = lambda: snapshot(session("anna"))

    async def look(self) -> dict[str, Any]:
        self.looks += 1
        return self.shown()

    async def open(self, stack: contextlib.ExitStack, *, slow: bool = False) -> socket.socket:
        """A connection, which the stack closes.  ``slow``: it has room for few bytes."""
        made = stack.enter_context(socket.socket(socket.AF_UNIX if isinstance(self.address, str) else self.family))
        made.setblocking(False)
        if slow:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_connect(made, self.address)
        return made

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET

    async def ask(self, request: bytes) -> bytes:
        """The whole answer, until the connection closes."""
        loop = asyncio.get_running_loop()
        answer = bytearray()
        with contextlib.ExitStack() as stack:
            asker = await self.open(stack)
            with contextlib.suppress(ConnectionError):
                await loop.sock_sendall(asker, request)
            with contextlib.suppress(ConnectionError):
                while read := await loop.sock_recv(asker, 1 << 16):
                    answer += read
        return bytes(answer)


def running(test: Callable[[Served], Awaitable[None]], where: TransportAddress | Path | None = None) -> None:
    """Run ``test`` beside a server of metrics."""

    @contextlib.asynccontextmanager
    async def served() -> AsyncIterator[Served]:
        with listening(where or TransportAddress(ip_address("127.0.0.1"), 0)) as listener:
            made = Served(listener.getsockname())
            async with await serve_metrics(listener, made.look, LOG):
                yield made

    async def run() -> None:
        async with served() as made:
            await test(made)

    asyncio.run(run())


@pytest.mark.parametrize("version", [4, 6])
def test_a_scraper_gets_the_metrics_of_the_instance(version: int) -> None:
    async def test(served: Served) -> None:
        answer = await served.ask(GET)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n")
        assert b"Content-Length: %d\r\n" % len(body) in head
        assert b'\nrsock_nf_session_bytes_total{client="anna",direction="sent",tunnel="edge"} 100000.0\n' in body

    running(test, TransportAddress(ip_address("127.0.0.1" if version == 4 else "::1"), 0))


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.0", b"200"),
        (b"GET /metrics?x=1 HTTP/1.1", b"200"),
        (b"HEAD /metrics HTTP/1.1", b"200"),
        (b"GET /other HTTP/1.1", b"404"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"GET /metrics", b"400"),
        (b"\x16\x03\x01\x02\x00", b"400"),
        (b"", b"400"),
    ],
)
def test_a_request_line_is_read(request_line: bytes, status: bytes) -> None:
    async def test(served: Served) -> None:
        head, _, body = (await served.ask(request_line + b"\r\n\r\n")).partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == status
        assert bool(body) == (not request_line.startswith(b"HEAD"))
        assert served.looks == (status == b"200")

    running(test)


def test_the_text_is_made_once_a_second_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "FRESH", 1000.0)

    async def test(served: Served) -> None:
        answers = await asyncio.gather(*(served.ask(GET) for _ in range(100)))
        assert len(set(answers)) == 1
        assert served.looks == 1
        monkeypatch.setattr(serve, "FRESH", 0.0)
        await served.ask(GET)
        assert served.looks == 2

    running(test)


def test_a_request_that_is_too_long_gets_nothing() -> None:
    async def test(served: Served) -> None:
        assert await served.ask(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 100_000) == b""
        assert (await served.ask(GET)).startswith(b"HTTP/1.1 200")

    running(test)


def test_who_asks_nothing_or_reads_nothing_does_not_keep_others_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_REQUESTS", serve._REQUESTS._replace(patience=0.1))
    monkeypatch.setattr(serving, "_MOST", 4)

    async def test(served: Served) -> None:
        served.shown = lambda: snapshot(*(session(f"client{number}", number=number) for number in range(2000)))
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                await served.open(stack)  # and asks nothing
                slow = await served.open(stack, slow=True)
                await asyncio.get_running_loop().sock_sendall(slow, GET)
            answer = await served.ask(GET)
        assert answer.count(b"rsock_nf_client_sessions{") == 1001

    running(test)


def test_what_cannot_be_made_is_told_and_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(served: Served) -> None:
        monkeypatch.setattr(serve, "FRESH", 0.0)
        served.shown = lambda: {"name": "edge"}
        assert (await served.ask(GET)).startswith(b"HTTP/1.1 500 ")
        assert [record.getMessage() for record in caplog.records] == ["metrics failed"]
        served.shown = snapshot
        assert (await served.ask(GET)).startswith(b"HTTP/1.1 200 ")

    running(test)


def test_a_unix_socket_is_for_the_group_of_its_directory(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    os.chown(directory, -1, 4242)
    path = directory / "metrics.sock"

    async def test(served: Served) -> None:
        found = path.lstat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, 4242)
        assert (await served.ask(GET)).startswith(b"HTTP/1.1 200 ")

    running(test, path)
    assert not path.exists()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))  # a process that has died
    running(test, path)


def test_where_it_cannot_listen_it_says_why_in_a_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        where = TransportAddress(ip_address("127.0.0.1"), port)
        said = f"^metrics: cannot listen on 127.0.0.1:{port}: address in use; `ss .*{port}` tells by whom$"
        with pytest.raises(TunnelError, match=said), listening(where):
            pass
    path = tmp_path / "file"
    path.write_text("precious")
    with (
        pytest.raises(TunnelError, match=r"^metrics: cannot listen on unix:.*: a file that is not a socket"),
        listening(path),
    ):
        pass
    assert path.read_text() == "precious"


def test_an_error_of_the_instance_stays_its_own() -> None:
    with pytest.raises(ConnectionResetError), listening(TransportAddress(ip_address("127.0.0.1"), 0)):
        raise ConnectionResetError
