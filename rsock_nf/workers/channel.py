r"""What supervisor and worker tell each other: lines of JSON on a pair of sockets that nobody else has.

    {"number": 3, "verb": "status"}                  →  {"number": 3, "answer": {…}} or {"number": 3, "error": "…"}
                                                        {"event": "headline", "text": "serving: 2 sessions, 20 flows"}

When one end has gone, the other one's reading ends: a worker that outlives its supervisor stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

_MOST_BYTES: Final = 32 << 20
"""Of a line: the state of some ten thousand flows, or the settings of as many clients."""
_MOST_WAITING: Final = 4 << 20
"""Bytes that nobody reads, above which events are dropped: the other end hangs."""


class Channel:
    """One end.  To be made and used on the event loop that runs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def on(cls, end: socket.socket) -> Channel:
        """The channel that has this socket as its end, and closes it."""
        end.setblocking(False)
        return cls(*await asyncio.open_connection(sock=end, limit=_MOST_BYTES))

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send it soon.  What a dead end would get is lost."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    def mention(self, message: Mapping[str, Any]) -> None:
        """The same for what may be lost: a log line."""
        if self._writer.transport.get_write_buffer_size() < _MOST_WAITING:
            self.tell(message)

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """What comes, until the other end has gone."""
        with contextlib.suppress(OSError, ValueError):  # it was cut off in the middle of a line
            while (line := await self._reader.readline()).endswith(b"\n"):
                yield json.loads(line)

    async def close(self, patience: float = 0.0) -> None:
        """Nothing more is told; what was is sent first, for at most ``patience`` seconds."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(patience):
                await self._writer.drain()
                self._writer.write_eof()
                while self._writer.transport.get_write_buffer_size():  # noqa: ASYNC110 - it calls nobody
                    await asyncio.sleep(0.01)
        self._writer.close()
