"""Answering ``control``: the instance's end of the socket in its directory, on the tunnel's own event loop.

The modes of the directory (0700) and of the socket (0600) decide who can reach it; there is no further check.
It answers also when the process has no descriptor left: one is kept for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeAlias

from rsock_nf.errors import ControlError, RsockError

Handler: TypeAlias = Callable[[dict[str, Any]], dict[str, Any] | Awaitable[dict[str, Any]]]

_READ_BYTES = 64 << 10
_LINE_BYTES = 3 << 20
"""Of a question: settings of 10,000 clients."""
_PATIENCE = 2.0
"""Seconds that a question may take to arrive, and its answer to leave."""
_THOUGHT = 10.0
"""Seconds that an answer may take that is waited for."""
_BACKLOG = 16
_MOST = 32
"""Askers at the same time; the others wait in the backlog."""
_PAUSE = 1.0
"""Seconds until another look, when not even the kept descriptor was of use."""
_SAY_AGAIN = 60.0
"""Seconds between two lines in the log about the same trouble."""


def listen(path: Path) -> socket.socket:
    """Make the socket ``path``; askers wait until it is served.  Raises ``ControlError`` when it cannot be made."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ControlError(f"{path}: no control socket can be made: {error.strerror or error}") from None
    return listener


async def serve_control(listener: socket.socket, handlers: Mapping[str, Handler], log: logging.Logger) -> ControlServer:
    """Call the verb's handler for each question that comes to ``listener``, which it closes at the end.

    A handler gets the whole question and returns the answer, which JSON can hold, or what can be awaited for it; it
    must not block.  What it raises is told to the asker, in one line, and logged by ``log`` unless it is a
    ``RsockError``: to be asked must not end a tunnel.
    """

    async def reply(line: bytes) -> bytes:
        return await _reply(line, handlers, log) + b"\n"

    return ControlServer(listener, reply, log)


class Manner(NamedTuple):
    """How questions come."""

    end: bytes
    """A question ends with this."""
    most_bytes: int
    """Of a question; a longer one gets no answer."""
    patience: float
    """Seconds that a question may take to arrive, and its answer to leave."""
    called: str
    """What the log calls it."""


LINES: Final = Manner(b"\n", _LINE_BYTES, _PATIENCE, "control")


class ControlServer:
    """Takes askers from ``listener`` and gives each the answer to its question; an asynchronous context manager."""

    def __init__(
        self,
        listener: socket.socket,
        reply: Callable[[bytes], Awaitable[bytes]],
        log: logging.Logger,
        manner: Manner = LINES,
    ) -> None:
        self._listener = listener
        self._reply = reply
        self._log = log
        self._manner = manner
        self._loop = asyncio.get_running_loop()
        self._spare: int | None = None
        self._askers: set[asyncio.Task[None]] = set()
        self._told_at = float("-inf")
        self._pause: asyncio.TimerHandle | None = None
        self._resume()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
        askers = list(self._askers)
        for asker in askers:
            asker.cancel()
        await asyncio.gather(*askers, return_exceptions=True)
        self._loop.remove_reader(self._listener)
        self._listener.close()
        if self._spare is not None:
            os.close(self._spare)

    def _resume(self) -> None:
        """Take askers, with a descriptor in reserve if there is one."""
        self._pause = None
        if self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """Take one asker: the event loop calls again while there are others."""
        connection = self._accepted()
        if connection is None:
            return
        connection.setblocking(False)
        asker = self._loop.create_task(self._converse(connection))
        self._askers.add(asker)
        asker.add_done_callback(self._done)
        if self._spare is None or len(self._askers) >= _MOST:
            self._loop.remove_reader(self._listener)

    def _accepted(self) -> socket.socket | None:
        try:
            return self._listener.accept()[0]
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                return None  # the asker has gone, or another was told of it
            self._tell(error)
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
            with contextlib.suppress(OSError):
                return self._listener.accept()[0]
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(_PAUSE, self._resume)
        return None

    def _tell(self, error: OSError) -> None:
        now = self._loop.time()
        if now - self._told_at >= _SAY_AGAIN:
            self._told_at = now
            remedy = "raise its limit of open files (LimitNOFILE= in systemd, ulimit -n)"
            self._log.warning("%s: no descriptor for who asks: %s: %s", self._manner.called, error.strerror, remedy)

    async def _converse(self, connection: socket.socket) -> None:
        # An asker that is slow, endless or gone is not our trouble.
        with connection, contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(self._manner.patience):
                question = bytearray()
                while not question.endswith(self._manner.end) and len(question) <= self._manner.most_bytes:
                    read = await self._loop.sock_recv(connection, _READ_BYTES)
                    if not read:
                        break
                    question += read
            if len(question) > self._manner.most_bytes:
                return
            answer = await self._reply(bytes(question))
            async with asyncio.timeout(self._manner.patience):
                await self._loop.sock_sendall(connection, answer)

    def _done(self, asker: asyncio.Task[None]) -> None:
        self._askers.discard(asker)
        if self._pause is None and self._listener.fileno() >= 0:
            self._resume()


async def _reply(line: bytes, handlers: Mapping[str, Handler], log: logging.Logger) -> bytes:
    try:
        question = json.loads(line)
        verb = question["verb"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return _refusal('a line of JSON with a "verb" is wanted')
    if not isinstance(verb, str):
        return _refusal("the verb has to be a string")
    handler = handlers.get(verb)
    if handler is None:
        return _refusal(f"unknown verb {json.dumps(verb)}")
    try:
        answer = handler(question)
        if not isinstance(answer, dict):
            async with asyncio.timeout(_THOUGHT):
                answer = await answer
        return json.dumps({"ok": True, "answer": answer}).encode()
    except RsockError as error:
        return _refusal(str(error))
    except TimeoutError:
        return _refusal(f"{verb} takes longer than {_THOUGHT:g} s")
    except Exception as error:
        log.exception("control: %s failed", verb)
        return _refusal(f"{verb} failed: {type(error).__name__}: {' '.join(str(error).split())}")


def _refusal(reason: str) -> bytes:
    return json.dumps({"ok": False, "error": reason}).encode()
