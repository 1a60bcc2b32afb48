"""The supervisor of an instance that is several processes; to ``rsock_nf.daemon`` it is a tunnel.

It starts the workers, asks them what it is asked, and starts again one that has ended.  It carries nothing itself.  It
holds the sockets toward a client's applications: so the kernel goes on to give each worker the same applications while
one of them is started again, and what comes for that one waits.

Not here: one worker as it is seen from here (``worker``), what it does (``process``), and how answers become one
(``merge``).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from os import urandom
from typing import Any, Final

from rsock_firewall import FirewallError, select
from rsock_nf.config.configuration import Configuration
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.types import TransportAddress
from rsock_nf.errors import ControlError, NotYetError, RsockError, TunnelError
from rsock_nf.link import AbsentError, LinkError
from rsock_nf.ops import handover
from rsock_nf.policy import fake_tcp_ports
from rsock_nf.settings import Settings
from rsock_nf.shares import share, worker_name
from rsock_nf.sockets.datagrams import Listener
from rsock_nf.workers import process
from rsock_nf.workers.channel import Channel
from rsock_nf.workers.merge import Told, merged_headline, merged_pings, merged_snapshot
from rsock_nf.workers.worker import End, EndedError, Worker, reaped

AGAIN: Final = 0.2
"""Seconds until a worker that has ended is started again; twice as long after each further time within ``WINDOW``."""
WINDOW: Final = 60.0
MOST_ENDS: Final = 3
"""So many unexpected ends of one worker within ``WINDOW`` seconds end the instance."""
_SILENT: Final = 30
"""Seconds without a sign of life after which a worker is killed.  They are counted by the supervisor's own ticks, so
that a host which was suspended kills nobody."""
_ANSWER: Final = 2.0
"""Seconds that a worker may take to tell its state."""
_THOUGHT: Final = 8.0
"""Seconds that any other answer may take."""
_FAREWELL: Final = 3.5
"""Seconds that a worker may take to end: a little less than ``down`` waits."""


class Team:
    """See the module.  ``kept``: descriptors that each worker keeps.  ``run`` is called once."""

    def __init__(self, settings: Settings, log: logging.Logger, kept: Collection[int]) -> None:
        # Before it forks, so that no worker has to: what was imported is shared, and stays what it is after an upgrade.
        importlib.import_module(f"rsock_nf.runtime.{_role(settings)}")
        importlib.import_module(f"rsock_nf.wire.native.{_role(settings)}")
        self._settings = settings
        self._log = log
        self._kept = tuple(kept)
        self._first_port = int.from_bytes(urandom(2))
        self._began = time.monotonic()
        self._workers = [Worker(number, log) for number in range(settings.workers)]
        self._listeners: dict[int, list[Listener]] = {}
        """Of each worker, one for each local end; a server has none."""
        self._ending = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()
        """The event loop alone would not keep them alive."""
        self._was_ready = False

    async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """See ``rsock_nf.daemon.Tunnel``."""
        with contextlib.ExitStack() as stack:
            try:
                self._open_ends(stack)
            except AbsentError as error:
                raise NotYetError(str(error)) from error
            except LinkError as error:
                raise TunnelError(str(error)) from error
            loop = asyncio.get_running_loop()
            lives = [loop.create_task(self._keep_alive(worker, ready)) for worker in self._workers]
            others: list[asyncio.Task[Any]] = [loop.create_task(stop.wait()), loop.create_task(self._watch())]
            try:
                await asyncio.wait([*lives, *others], return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._ending.set()
                for task in others:
                    task.cancel()
                await self._end_all(lives)
                self._clear_rules()
            done = (task for task in (*lives, *others) if task.done() and not task.cancelled())  # cancelled: it hung
            self._raise_first([found for task in done if (found := task.exception()) is not None])

    def _raise_first(self, errors: Sequence[BaseException]) -> None:
        """The log has the others, if they say something else."""
        for error in errors[1:]:
            if str(error) != str(errors[0]):
                self._log.error("%s", error, exc_info=None if isinstance(error, RsockError) else error)
        if errors:
            raise errors[0]

    def _open_ends(self, stack: contextlib.ExitStack) -> None:
        """Raises ``LinkError``, also if somebody else is bound to one of them, be it in the same way."""
        ends = [end for end in self._settings.listen if isinstance(end, TransportAddress)]
        for end in ends:
            Listener(end).close()
        for worker in self._workers:
            self._listeners[worker.number] = [
                stack.enter_context(contextlib.closing(Listener(end, shared=True))) for end in ends
            ]

    # -- the life of a worker

    async def _keep_alive(self, worker: Worker, ready: Callable[[], None]) -> None:
        """Until the instance ends.  Raises ``TunnelError``."""
        ends: list[float] = []
        while not self._ending.is_set():
            end = await self._live(worker, ready)
            if self._ending.is_set():
                return
            if not self._was_ready:
                raise (NotYetError if end.not_yet else TunnelError)(end.reason)
            now = time.monotonic()
            ends = [*(at for at in ends if now - at < WINDOW), *([] if end.not_yet else [now])]
            if len(ends) >= MOST_ENDS:
                raise TunnelError(f"{worker.name} has ended {MOST_ENDS} times within {WINDOW:g} s: {end.reason}")
            pause = AGAIN * 2 ** max(len(ends) - 1, 0)
            worker.note_end(end.reason)
            self._log.error("%s: %s: it is started again", worker.name, end.reason)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)

    async def _live(self, worker: Worker, ready: Callable[[], None]) -> End:
        """One process from its beginning to its end."""
        begun_with = self._settings
        settings = share(begun_with, worker.number, self._first_port)
        try:
            pid, end = process.fork(settings, self._listeners[worker.number], self._kept)
        except OSError as error:
            return End(f"cannot be started: {error.strerror}")
        try:
            await worker.begin(pid, await Channel.on(end))
            if self._ending.is_set():
                worker.stop()
            async for event in worker.events():
                if event == "ready":
                    self._ready(ready)
                    self._catch_up(worker, begun_with)
            return worker.end(await reaped(pid, _FAREWELL))
        except asyncio.CancelledError:
            os.kill(pid, signal.SIGKILL)  # our child, which nobody has waited for
            await reaped(pid, _FAREWELL)
            raise

    def _ready(self, ready: Callable[[], None]) -> None:
        if not self._was_ready and all(worker.ready for worker in self._workers):
            self._was_ready = True
            ready()

    def _catch_up(self, worker: Worker, begun_with: Settings) -> None:
        """Tell a worker what was adopted since it was forked, when it could not follow yet."""
        if begun_with is not self._settings:
            self._tell_soon(worker)

    def _tell_soon(self, worker: Worker) -> None:
        """Hand over the settings; what is asked later comes to the worker later."""
        task = asyncio.get_running_loop().create_task(self._tell_settings(worker))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell_settings(self, worker: Worker) -> None:
        """Raises nothing: if it has ended meanwhile, the next one begins with them."""
        try:
            await self._hand_over(worker)
        except EndedError:
            pass
        except ControlError as error:
            self._log.error("%s does not follow the file: %s", worker.name, error)

    async def _hand_over(self, worker: Worker) -> None:
        mine = share(self._settings, worker.number, self._first_port)
        await worker.ask("adopt", {"settings": handover.as_text(Configuration(mine, ()))}, _THOUGHT)

    async def _watch(self) -> None:
        """Kill a worker that hangs: its end is noticed as any other."""
        while True:
            await asyncio.sleep(process.HEADLINE)
            for worker in self._workers:
                if worker.alive and worker.silent_for() > _SILENT:
                    worker.kill(f"it gave no sign of life for {_SILENT} s")

    async def _end_all(self, lives: Sequence[asyncio.Task[None]]) -> None:
        for worker in self._workers:
            worker.stop()
        await asyncio.wait(lives, timeout=_FAREWELL)
        for life in lives:
            life.cancel()
        await asyncio.wait(lives)

    def _clear_rules(self) -> None:
        """Of workers that could not do it themselves."""
        if not fake_tcp_ports(self._settings) or self._settings.backend == "manual":
            return
        for worker in self._workers:
            if worker.ended_badly:
                try:
                    select(self._settings.backend).clear(worker_name(self._settings.name, worker.number))
                except FirewallError as error:
                    self._log.error("%s: its rules cannot be removed: %s", worker.name, error)

    # -- what an operator asks

    async def _ask(self, verb: str, fields: Mapping[str, Any] | None = None, patience: float = _THOUGHT) -> list[Told]:
        """What each worker answers that lives.  Raises ``ControlError`` with the reason of the first one, if all
        refuse."""
        living = [worker for worker in self._workers if worker.alive]
        asked = [worker.ask(verb, fields or {}, patience) for worker in living]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        told = [
            Told(one.number, answer) for one, answer in zip(living, answers, strict=True) if isinstance(answer, dict)
        ]
        if not told:
            refusals = [answer for answer in answers if isinstance(answer, ControlError)]
            raise refusals[0] if refusals else ControlError(f"{verb}: no worker of {self._settings.name} runs now")
        return told

    async def snapshot_in_steps(self) -> dict[str, Any]:
        """See ``rsock_nf.daemon.Tunnel``."""
        told: list[Told] = []
        with contextlib.suppress(ControlError):
            told = await self._ask("status", patience=_ANSWER)
        troubles = [trouble for worker in self._workers if (trouble := worker.trouble(told))]
        uptime = round(time.monotonic() - self._began, 3)
        return merged_snapshot(self._settings, told, troubles, uptime)

    def headline(self) -> str:
        """See ``rsock_nf.daemon.Tunnel``."""
        return merged_headline([worker.headline for worker in self._workers])

    async def reconnect(self) -> None:
        """Dial every flow of every worker anew."""
        await self._ask("reconnect")

    async def keys(self) -> list[dict[str, Any]]:
        """Of the flows of all workers."""
        return [flow for told in await self._ask("keys") for flow in told.answer["flows"]]

    async def ping(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """On the flows of all workers.  Raises ``ControlError``."""
        return merged_pings(await self._ask("ping", question))

    async def speedtest(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """By the first worker: one process carries one test.  Raises ``ControlError``."""
        first = self._workers[0]
        if not first.alive:
            raise ControlError(f"speedtest: {first.name}, which tests, is being started again")
        return await first.ask("speedtest", question, _THOUGHT)

    async def kick(self, name: str) -> int:
        """End the sessions of this client at every worker; returns how many."""
        return sum(told.answer["ended"] for told in await self._ask("kick", {"client": name}))

    async def adopt(self, settings: Settings) -> None:
        """See ``rsock_nf.daemon.Tunnel``.  A worker that is being started again begins with these settings.

        Raises ``TunnelError`` also if a worker refuses or does not answer in time: then all have the old ones.
        """
        if not self._was_ready:
            raise TunnelError("the instance has not begun yet: down and up make it take its file anew")
        before, self._settings = self._settings, dataclasses.replace(settings, workers=self._settings.workers)
        asked = [self._hand_over(worker) for worker in self._workers if worker.alive and worker.ready]
        try:
            answers = await asyncio.gather(*asked, return_exceptions=True)
            self._raise_first(
                [one for one in answers if isinstance(one, BaseException) and not isinstance(one, EndedError)]
            )
        except BaseException as error:  # also if the asker has lost patience
            self._settings = before
            for worker in self._workers:
                if worker.alive and worker.ready:  # also who has refused, perhaps half-way, or is slow: it adopts later
                    self._tell_soon(worker)
            if isinstance(error, ControlError):
                raise TunnelError(str(error)) from error
            raise


def _role(settings: Settings) -> str:
    return "client" if isinstance(settings.tunnel, ClientParameters) else "server"
