r"""Answering a scraper: a small part of HTTP/1.1 (RFC 9112), on a loopback address or a Unix-domain socket.

    GET /metrics HTTP/1.1\r\n …\r\n\r\n   →   200, the text of ``exposition``, and the connection closes

It runs on the tunnel's own event loop.  So everything is bounded: how many ask, how long a request is and takes, how
long an answer takes to leave, and how often the text is made: once in ``FRESH`` seconds, with pauses for the tunnel.
Each user of this host can ask at a loopback address: what the metrics tell is no secret from them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rsock_nf.core.types import TransportAddress
from rsock_nf.errors import TunnelError
from rsock_nf.link import LinkError, system
from rsock_nf.ops.control_socket.serve import ControlServer, Manner
from rsock_nf.ops.metrics.clients import Clients
from rsock_nf.ops.metrics.exposition import pieces
from rsock_nf.ops.metrics.names import Sample, samples
from rsock_nf.sockets.unix_path import BoundPath

FRESH: Final = 1.0
"""Seconds for which a text is given again."""
_REQUESTS: Final = Manner(b"\r\n\r\n", 8 << 10, 5.0, "metrics")
_BACKLOG: Final = 16
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_PATHS: Final = (b"/metrics", b"/")
_AT_ONCE: Final = 200
"""Values from one pause for the tunnel to the next."""
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


@contextlib.contextmanager
def listening(where: TransportAddress | Path) -> Iterator[socket.socket]:
    """A socket that listens there; scrapers wait until it is served.  Raises ``TunnelError``, one line."""
    bound = BoundPath(where) if isinstance(where, Path) else None
    family = socket.AF_UNIX if isinstance(where, Path) else _FAMILIES[where.address.version]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        _listen(listener, where, bound)
        yield listener
    finally:
        listener.close()
        if bound is not None:
            bound.remove()


def _listen(listener: socket.socket, where: TransportAddress | Path, bound: BoundPath | None) -> None:
    try:
        listener.setblocking(False)
        if bound is not None:
            bound.bind(listener)
        elif isinstance(where, TransportAddress):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((str(where.address), where.port))
        listener.listen(_BACKLOG)
    except LinkError as error:
        raise TunnelError(f"metrics: {error}") from error
    except OSError as error:
        raise TunnelError(f"metrics: {_why_not(where, error)}") from error


def _why_not(where: TransportAddress | Path, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE and isinstance(where, TransportAddress):
        asked = system().remedies.tcp_port.format(port=where.port)
        return f"cannot listen on {where}: address in use; `{asked}` tells by whom"
    return f"cannot listen on {where}: {os.strerror(error.errno) if error.errno else error}"


async def serve_metrics(
    listener: socket.socket, look: Callable[[], Awaitable[Mapping[str, Any]]], log: logging.Logger
) -> ControlServer:
    """Answer scrapers that come to ``listener`` by what ``look`` finds: the snapshot of this instance."""
    page = _Page(look, log)
    return ControlServer(listener, page.reply, log, _REQUESTS)


class _Page:
    """The text, and the answers that carry it."""

    def __init__(self, look: Callable[[], Awaitable[Mapping[str, Any]]], log: logging.Logger) -> None:
        self._look = look
        self._log = log
        self._clients = Clients()
        self._making = asyncio.Lock()
        self._text = b""
        self._made_at = float("-inf")

    async def reply(self, head: bytes) -> bytes:
        """The answer to a request, of which the head is read."""
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _answer("400 Bad Request", b"GET /metrics is wanted\n")
        if method not in {b"GET", b"HEAD"}:
            return _answer("405 Method Not Allowed", b"GET /metrics is wanted\n", "Allow: GET, HEAD\r\n")
        if target.partition(b"?")[0] not in _PATHS:
            return _answer("404 Not Found", b"metrics are at /metrics\n")
        try:
            text = await self._fresh()
        except Exception:  # noqa: BLE001 - to be asked must not end a tunnel
            self._log.exception("metrics failed")
            return _answer("500 Internal Server Error", b"the log of the instance tells why\n")
        return _answer("200 OK", text, kind=_TEXT, send_body=method == b"GET")

    async def _fresh(self) -> bytes:
        loop = asyncio.get_running_loop()
        async with self._making:
            if loop.time() - self._made_at >= FRESH:
                snapshot = await self._look()
                values: list[Sample] = []
                for sample in samples(snapshot, self._clients):
                    values.append(sample)
                    if not len(values) % _AT_ONCE:
                        await asyncio.sleep(0)
                made = []
                for piece in pieces({snapshot["name"]: values}):
                    made.append(piece)
                    await asyncio.sleep(0)
                self._text, self._made_at = b"".join(made), loop.time()
        return self._text


def _answer(
    status: str, body: bytes, fields: str = "", *, kind: str = "text/plain; charset=utf-8", send_body: bool = True
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{fields}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if send_body else b"")
