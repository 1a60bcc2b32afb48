"""A worker: a process with a tunnel of its own, which the supervisor has forked.

It is forked, not executed anew: so it has what the supervisor had opened as root, runs as the same user, with the same
privileges and the same denied system calls, and needs no file that another user cannot read.  It keeps its channel, its
sockets toward applications, and the lock of the instance's directory, which all share: so the instance counts as
running until the last worker has ended.  It also keeps standard input, output and error, and what was opened as root
for changes of iptables' rules (its own lock, the lists of tables).  All other descriptors of the supervisor are closed.

A fork has no other thread than the one that forked.  The supervisor has others only while it reads its file again or
asks for a name; a worker uses nothing of theirs.

It ends when the supervisor says so or has gone, or by SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias

from rsock_firewall import kept_by
from rsock_nf.errors import NotYetError, RsockError
from rsock_nf.ops import handover
from rsock_nf.runtime import Tunnel, make_tunnel
from rsock_nf.runtime.pump_choice import event_loop
from rsock_nf.settings import Settings
from rsock_nf.sockets.datagrams import Listener
from rsock_nf.workers.channel import Channel

HEADLINE: Final = 1.0
"""Seconds from one sign of life to the next."""
_IGNORED: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""What a terminal or an operator tells the supervisor, perhaps with its whole process group."""
_HANDLED: Final = (*_IGNORED, signal.SIGTERM)
_LAST_WORDS: Final = 1.0
"""Seconds that they may take to leave."""
_FIRST_INHERITED: Final = 3

Answer: TypeAlias = dict[str, Any]


def fork(settings: Settings, listeners: Sequence[Listener], kept: Collection[int]) -> tuple[int, socket.socket]:
    """Start a worker with ``settings``, which are its share.  Its process id, and our end of its channel.

    ``kept``: the descriptors that it keeps, besides those of ``listeners``.  Raises ``OSError``.
    """
    ours, its = socket.socketpair()
    gc.freeze()  # what there is now is not to be written to by the worker's collector, nor closed
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)  # else the worker could tell us of its signals
    try:
        pid = os.fork()
        if pid == 0:
            _be(settings, its, listeners, kept)
    except OSError:
        ours.close()
        raise
    finally:
        gc.unfreeze()  # else the supervisor would keep for ever what is garbage now, or becomes so
        its.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid, ours


def _be(settings: Settings, channel: socket.socket, listeners: Sequence[Listener], kept: Collection[int]) -> NoReturn:
    """The whole life of a worker.  No code of the supervisor runs in it any more."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        rules = kept_by(settings.tunnel.shard.number)
        _close_all_but({channel.fileno(), *kept, *rules, *(listener.fileno() for listener in listeners)})
        with asyncio.Runner(loop_factory=lambda: event_loop(settings)) as runner:
            status = runner.run(_Worker(settings, listeners).run(channel))
    except BaseException as error:  # noqa: BLE001 - nothing may return into the supervisor's frames
        _say_last(channel, error)
        traceback.print_exc()  # in the foreground somebody sees it
    finally:
        os._exit(status)


def _failed(error: BaseException) -> Answer:
    """How the supervisor is told why this worker ends."""
    reason = str(error)
    if not isinstance(error, RsockError):
        reason = f"unexpected {type(error).__name__}: {' '.join(reason.split())}"
    return {"event": "failed", "reason": reason, "not_yet": isinstance(error, NotYetError)}


def _say_last(channel: socket.socket, error: BaseException) -> None:
    """The same where no event loop runs.  If it did run, the channel may be closed: then all has been said."""
    with contextlib.suppress(OSError):
        channel.settimeout(_LAST_WORDS)
        channel.sendall(json.dumps(_failed(error)).encode() + b"\n")


def _close_all_but(kept: Collection[int]) -> None:
    """Close every other descriptor from 3 on."""
    at = _FIRST_INHERITED
    for descriptor in sorted(kept):
        os.closerange(at, descriptor)
        at = max(at, descriptor + 1)
    os.closerange(at, os.sysconf("SC_OPEN_MAX"))


class _Worker:
    """See the module."""

    def __init__(self, settings: Settings, listeners: Sequence[Listener]) -> None:
        self._settings = settings
        self._listeners = listeners
        self._stop = asyncio.Event()
        self._channel: Channel
        self._tunnel: Tunnel
        self._answering: set[asyncio.Task[None]] = set()
        """The event loop alone would not keep them alive."""

    async def run(self, end: socket.socket) -> int:
        """The exit status."""
        self._channel = await Channel.on(end)
        logger = _logger(self._settings, self._channel)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        attending: list[asyncio.Task[None]] = []
        status = 1
        try:
            self._tunnel = make_tunnel(self._settings, logger, listeners=self._listeners)
            attending += [loop.create_task(self._listen()), loop.create_task(self._tell_headline())]
            await self._tunnel.run(ready=lambda: self._channel.tell({"event": "ready"}), stop=self._stop)
            status = 0
        except RsockError as error:
            self._channel.tell(_failed(error))
        except Exception as error:
            logger.exception("unexpected: this is a defect of rsock-nf")
            self._channel.tell(_failed(error))
        finally:
            for task in (*attending, *self._answering):
                task.cancel()
            await self._channel.close(_LAST_WORDS)
        return status

    async def _listen(self) -> None:
        """Answer the supervisor.  When it was killed, end as it did: the rules stay, so the kernel answers nobody."""
        async for message in self._channel.messages():
            task = asyncio.get_running_loop().create_task(self._answer(message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        if not self._stop.is_set():
            os._exit(1)

    async def _tell_headline(self) -> None:
        while True:
            self._channel.mention({"event": "headline", "text": self._tunnel.headline()})
            await asyncio.sleep(HEADLINE)

    async def _answer(self, question: Mapping[str, Any]) -> None:
        number = question.get("number")
        try:
            answer = await self._handler(str(question.get("verb")))(question)
        except RsockError as error:
            self._channel.tell({"number": number, "error": str(error)})
        except Exception as error:
            logging.getLogger(_named(self._settings)).exception("%s failed", question.get("verb"))
            self._channel.tell({"number": number, "error": f"{type(error).__name__}: {error}"})
        else:
            self._channel.tell({"number": number, "answer": answer})

    def _handler(self, verb: str) -> Callable[[Mapping[str, Any]], Awaitable[Answer]]:
        handlers: dict[str, Callable[[Mapping[str, Any]], Awaitable[Answer]]] = {
            "status": self._status,
            "reconnect": self._reconnect,
            "ping": self._tunnel.ping,
            "speedtest": self._tunnel.speedtest,
            "keys": self._keys,
            "kick": self._kick,
            "adopt": self._adopt,
            "stop": self._end,
        }
        return handlers[verb]

    async def _status(self, _: Mapping[str, Any]) -> Answer:
        found = await self._tunnel.snapshot_in_steps()
        return {**found, "pid": os.getpid(), "processor_seconds": _processor_seconds()}

    async def _reconnect(self, _: Mapping[str, Any]) -> Answer:
        await self._tunnel.reconnect()
        return {}

    async def _keys(self, _: Mapping[str, Any]) -> Answer:
        return {"flows": await self._tunnel.keys()}

    async def _kick(self, question: Mapping[str, Any]) -> Answer:
        return {"ended": await self._tunnel.kick(str(question.get("client")))}

    async def _end(self, _: Mapping[str, Any]) -> Answer:
        self._stop.set()
        return {}

    async def _adopt(self, question: Mapping[str, Any]) -> Answer:
        settings = handover.from_text(question.get("settings")).settings
        await self._tunnel.adopt(settings)
        self._settings = settings
        logging.getLogger(_named(settings)).setLevel(settings.log.level.upper())
        return {}


def _processor_seconds() -> float:
    times = os.times()
    return round(times.user + times.system, 3)


def _named(settings: Settings) -> str:
    return f"rsock_nf.{settings.name}"


def _logger(settings: Settings, channel: Channel) -> logging.Logger:
    """Its lines go to the supervisor, which has the log."""
    logger = logging.getLogger(_named(settings))
    logger.propagate = False
    logger.setLevel(settings.log.level.upper())
    logger.addHandler(_ToSupervisor(channel))
    return logger


class _ToSupervisor(logging.Handler):
    """Each line with its level; a traceback is part of it."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """As the library has it."""
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            self._channel.mention({"event": "log", "level": record.levelno, "text": self.format(record)})
