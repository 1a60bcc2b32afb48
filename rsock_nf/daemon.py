"""One instance from its configuration to its end: lock, log, control socket, signals, and the tunnel within.

The same code runs in the foreground and, started by ``ops.launch``, in the background.  Order at the end: the tunnel
takes its sockets and rules down, then the control socket goes, then the directory, then the lock.

Not here: the tunnel (``runtime``), and rules that a dead instance left (``ops.leftovers``).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from rsock_nf.config.configuration import COMMAND_LINE, Configuration
from rsock_nf.config.plausible import refuse_impossible
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.errors import ControlError, NotYetError, RsockError, TunnelError
from rsock_nf.ops import handover, open_files, privileges, reload
from rsock_nf.ops.control_socket.serve import Handler, listen, serve_control
from rsock_nf.ops.instances.instance import Instance
from rsock_nf.ops.log import InstanceLog
from rsock_nf.ops.supervisor import Supervisor
from rsock_nf.ops.waiting import Waiting
from rsock_nf.printable import printable
from rsock_nf.settings import Settings
from rsock_nf.words import which_pump

_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # SIGUSR1: how the original is told to quit
_SIGNALS = (*_STOP, signal.SIGHUP)
_SLOW = 3.0
"""Seconds after which a resolver that has not answered is told of."""


class Tunnel(Protocol):
    """What ``rsock_nf.runtime.make_tunnel`` makes, to this module; of several processes ``rsock_nf.workers.team.Team``,
    which has to ask them."""

    async def run(self, *, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Carry traffic until ``stop`` is set; call ``ready`` once it does.

        Raises ``TunnelError``.  At the end everything that it made is gone.
        """

    async def snapshot_in_steps(self) -> dict[str, Any]:
        """Its state, for ``status`` and metrics: they may be asked for at any time, and traffic goes on meanwhile."""

    def headline(self) -> str:
        """Its state in one line, for a service manager; asked once a second."""

    async def reconnect(self) -> None:
        """Dial every flow anew."""

    async def keys(self) -> list[dict[str, Any]]:
        """What opens the frames of its flows now: ``runtime.reports.frame_keys``."""

    async def ping(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the other end for answers.  Raises ``ControlError``."""

    async def speedtest(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a speed test, or tell how it goes.  Raises ``ControlError``."""

    async def kick(self, name: str) -> int:
        """End the sessions of the client that has this name; returns how many."""

    async def adopt(self, settings: Settings) -> None:
        """Follow these settings, which differ from those before only in what a running instance can change.

        Raises ``TunnelError`` if it has not begun yet.
        """


MakeTunnel: TypeAlias = Callable[[Settings, logging.Logger], Tunnel]


def run(
    configuration: Configuration,
    *,
    timeout: float | None = None,
    wait: bool = False,
    ready_fd: int | None = None,
    make_tunnel: MakeTunnel | None = None,
    confine: Callable[[Settings], list[str]] | None = None,
) -> int:
    """Be the instance until a signal ends it; the exit status.

    ``timeout``: end with ``TunnelError`` if it is not up after so many seconds; None = keep trying.
    ``wait``: wait for what the host does not have yet (``NotYetError``).
    ``ready_fd``: there is a parent that waits for ``ready`` or ``error: why`` on this descriptor, and prints ``waiting:
    why``; log lines go to a
    file, and standard error is given up once ready.  Otherwise errors are raised as ``RsockError``.
    ``confine``: gives up, for good, what this process does not need; what is left, in lines for the log.
    """
    settings = configuration.settings
    announcement = Announcement(ready_fd)
    instance = Instance(settings.name)
    # A signal before our handlers are set, or after they are gone, would end us with our files still there: it waits.
    usual = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with instance.claim(settings.path, settings.digest):
            log = _open_log(settings, instance.log_path if ready_fd is not None else None)
            with (
                contextlib.closing(log),
                listen(instance.control_path) as listener,
                _metrics_listener(settings) as metrics,
            ):
                for line in configuration.notes:
                    log.logger.info("%s", line)
                for line in configuration.warnings:
                    log.logger.warning("%s", line)
                open_files.raise_limit(open_files.needed(settings))
                if confine is not None:  # here: what comes before takes more, and what follows starts threads
                    for line in confine(settings):
                        log.logger.info("%s", line)
                if make_tunnel is None:
                    log.logger.info("pump: %s", _which_pump(settings))
                doors = Doors(listener, metrics)
                several = functools.partial(_team, lock=instance.lock) if settings.workers > 1 else None
                daemon = _Daemon(settings, instance, doors, log, announcement, make_tunnel or several or _tunnel)
                make_loop = functools.partial(_event_loop, settings) if make_tunnel is None else None
                with asyncio.Runner(loop_factory=make_loop) as runner:
                    return runner.run(daemon.run(timeout, wait=wait))
    except RsockError as error:
        announcement.failed(str(error))
        if ready_fd is None:
            raise
        return error.exit_code
    finally:
        announcement.supervisor.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, usual)


def _open_log(settings: Settings, default: Path | None) -> InstanceLog:
    """``default``: see ``InstanceLog``.  Raises ``TunnelError``."""
    if settings.log.file is None:
        return InstanceLog(settings.name, settings.log, default)
    with privileges.acting_as_user(settings):
        return InstanceLog(settings.name, settings.log, default)


class Announcement:
    """Who started us learns how it goes: a parent that waits at a pipe, or a service manager; else nobody."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        # With a parent that waits, it is the parent that a service manager may have started.
        self.supervisor = Supervisor(os.environ if descriptor is None else {})

    def ready(self) -> None:
        """Traffic is carried: the parent may go, and with it the terminal."""
        self.supervisor.ready()
        if self._descriptor is not None:
            with open(os.devnull, "r+b") as null:  # noqa: PTH123 - for its descriptor
                for standard in (0, 1, 2):
                    os.dup2(null.fileno(), standard)
        self._tell("ready")

    def failed(self, reason: str) -> None:
        """It will not work, for this reason."""
        self.supervisor.status(reason)
        self._tell(f"error: {' '.join(reason.split())}")

    def waiting(self, line: str, *, said: bool) -> None:
        """It waits for what the host does not have yet.  ``said``: the log has told it on standard error."""
        if self._descriptor is not None:
            self._write(self._descriptor, line)
        elif not said:
            sys.stderr.write(f"rsock-nf: {printable(line)}\n")
            sys.stderr.flush()

    def _tell(self, line: str) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._write(descriptor, line)
            os.close(descriptor)

    @staticmethod
    def _write(descriptor: int, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # the parent gave up; it will signal us
            os.write(descriptor, f"{line}\n".encode())


class Doors(NamedTuple):
    """Where others ask."""

    control: socket.socket
    metrics: socket.socket | None
    """None = nobody asks for metrics."""


class _Daemon:
    """The life of an instance that has its lock and its log."""

    def __init__(
        self,
        settings: Settings,
        instance: Instance,
        doors: Doors,
        log: InstanceLog,
        announcement: Announcement,
        make: MakeTunnel,
    ) -> None:
        self._settings = settings
        self._instance = instance
        self._doors = doors
        self._log = log
        self._announcement = announcement
        self._supervisor = announcement.supervisor
        self._make = make
        self._reloads = 0
        """How often a file was followed, or was to be."""
        self._following = asyncio.Lock()
        """One file at a time: the last one that was read is the last one that is followed."""
        self._reloading: set[asyncio.Task[None]] = set()
        """The tasks that answer a SIGHUP.  The event loop alone would not keep them alive."""
        self._was_up = False
        self._too_late = ""
        self._tunnel: Tunnel
        """The present try."""
        self._waiting = Waiting(self._tell_waiting)

    async def run(self, patience: float | None, *, wait: bool) -> int:
        """Return 0 when a signal ended it.  Raises ``RsockError`` when the tunnel fails, or is not up in time."""
        logger = self._log.logger
        try:
            return await self._carry(patience, wait=wait)
        except RsockError as error:
            if self._was_up:
                self._instance.fail(str(error))
            if not self._log.on_stderr:  # there the caller prints the error
                logger.error("%s", error)  # noqa: TRY400 - one line says it all
            raise
        except Exception as error:
            logger.exception("unexpected: this is a defect of rsock-nf")
            reason = f"unexpected {type(error).__name__}: {' '.join(str(error).split())} (log: {self._log.file})"
            if self._was_up:
                self._instance.fail(reason)
            raise TunnelError(reason) from error
        finally:
            logger.info("down")

    async def _carry(self, patience: float | None, *, wait: bool) -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in _STOP:
            loop.add_signal_handler(number, self._stop, stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        try:
            await self._serve(patience, stop, wait=wait)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        if self._too_late:
            raise TunnelError(self._too_late)
        return 0

    async def _serve(self, patience: float | None, stop: asyncio.Event, *, wait: bool) -> None:
        self._tunnel = self._make(self._settings, self._log.logger)
        self._supervisor.attend(asyncio.get_running_loop(), self._headline)
        handlers: dict[str, Handler] = {
            "status": lambda _: self._status(),
            "reconnect": self._reconnect,
            "ping": self._ping,
            "speedtest": self._speedtest,
            "reload": self._asked_to_reload,
            "keys": lambda _: self._keys(),
            "kick": self._kick,
        }
        control = await serve_control(self._doors.control, handlers, self._log.logger)
        async with control, await self._serve_metrics():
            giving_up = asyncio.ensure_future(self._give_up(stop, patience)) if patience is not None else None
            try:
                while not await self._try(stop, wait=wait):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), self._waiting.pause)
            finally:
                if giving_up is not None:
                    giving_up.cancel()

    async def _serve_metrics(self) -> contextlib.AbstractAsyncContextManager[object]:
        if self._doors.metrics is None:
            return contextlib.nullcontext()
        from rsock_nf.ops.metrics.serve import serve_metrics

        return await serve_metrics(self._doors.metrics, self._status, self._log.logger)

    async def _try(self, stop: asyncio.Event, *, wait: bool) -> bool:
        """Be the tunnel until ``stop`` is set.  False = the host does not have yet what it takes."""
        if stop.is_set():
            return True
        try:
            if self._settings.unresolved and not await self._look_up(stop):
                return True
            await self._tunnel.run(ready=self._ready, stop=stop)
        except NotYetError as error:
            if not wait or self._was_up:
                hint = "" if self._was_up else "; `rsock-nf up --wait` waits for it"
                raise TunnelError(f"{error}{hint}") from error
            self._waiting.note(str(error))
            self._tunnel = self._make(self._settings, self._log.logger)
            return False
        return True

    async def _look_up(self, stop: asyncio.Event) -> bool:
        """Give each name its addresses.  False = ``stop`` was set meanwhile."""
        from rsock_nf.runtime.host.first_addresses import look_up_all

        asked = asyncio.ensure_future(look_up_all(self._settings))
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([asked, stopped], return_when=asyncio.FIRST_COMPLETED, timeout=_SLOW)
            if not asked.done() and not stopped.done():
                names = ", ".join(self._settings.unresolved)
                self._waiting.note(f"cannot resolve {names}: the resolver does not answer")
                await asyncio.wait([asked, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                return False
            self._settings = asked.result()
        finally:
            asked.cancel()
            stopped.cancel()
        refuse_impossible(self._settings)
        self._tunnel = self._make(self._settings, self._log.logger)
        return True

    # -- what the control socket asks of the present try

    async def _reconnect(self, _: dict[str, Any]) -> dict[str, Any]:
        dials = isinstance(self._settings.tunnel, ClientParameters)
        if dials:
            await self._tunnel.reconnect()
        return {"dials": dials}

    async def _kick(self, question: dict[str, Any]) -> dict[str, Any]:
        return {"ended": await self._tunnel.kick(str(question.get("client")))}

    async def _ping(self, question: dict[str, Any]) -> dict[str, Any]:
        return await self._tunnel.ping(question)

    async def _speedtest(self, question: dict[str, Any]) -> dict[str, Any]:
        return await self._tunnel.speedtest(question)

    async def _status(self) -> dict[str, Any]:
        found = {"pid": os.getpid(), **await self._tunnel.snapshot_in_steps()}
        if self._waiting.reason and found["state"] == "starting":
            return {**found, "state": "waiting", "reason": self._waiting.reason}
        return found

    async def _keys(self) -> dict[str, Any]:
        """For ``capture --decrypt``.  Raises ``ControlError`` unless the configuration allows it."""
        if not self._settings.key_log:
            raise ControlError(
                f'its keys are not handed out: set "key_log": true in {self._settings.path}, then reload'
            )
        return {"flows": await self._tunnel.keys()}

    def _headline(self) -> str:
        line = self._tunnel.headline()
        return f"waiting: {self._waiting.reason}" if self._waiting.reason and line == "starting" else line

    def _tell_waiting(self, line: str) -> None:
        self._log.logger.warning("%s", line)
        self._announcement.waiting(line, said=self._log.on_stderr)

    async def _give_up(self, stop: asyncio.Event, patience: float) -> None:
        await asyncio.sleep(patience)
        if not self._was_up:
            reason = (await self._status())["reason"]
            self._too_late = f"instance {self._settings.name} is not up within {patience:g} s: {reason}"
            stop.set()

    def _ready(self) -> None:
        self._was_up = True
        self._log.logger.info("up: pid %d, %s", os.getpid(), self._settings.path)
        self._announcement.ready()
        self._supervisor.status(self._headline())

    def _stop(self, stop: asyncio.Event, number: signal.Signals) -> None:
        self._log.logger.info("%s: going down", number.name)
        self._supervisor.stopping()
        stop.set()

    def _hang_up(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _reload(self) -> None:
        """Open the log again, because log rotation wants that; then read the file again, and follow it."""
        logger = self._log.logger
        told = self._was_up  # else it is starting still, to a service manager
        if told:
            self._supervisor.reloading()
        try:
            async with self._following:
                self._log.apply(self._settings.log)
            path = self._settings.path
            if path == COMMAND_LINE:
                logger.info("SIGHUP: log level %s", self._settings.log.level)
                return
            found = await self._follow_file(path)
            for line in found.warnings:
                logger.warning("%s", line)
        except RsockError as error:
            remedy = f"; root's `rsock-nf reload --name {self._settings.name}` may" if self._settings.user else ""
            logger.error("SIGHUP: nothing changed: %s%s", error, remedy)  # noqa: TRY400 - one line says it all
        finally:
            if told:
                self._supervisor.ready()

    async def _follow_file(self, path: Path) -> Configuration:
        """Read the file again, and follow it.  Raises ``RsockError``."""
        while True:
            before = self._reloads
            # In another process: the import of pydantic would hold up traffic.
            found = await asyncio.to_thread(handover.read_again, path)
            async with self._following:
                if before == self._reloads:  # else somebody was faster, perhaps with a newer file
                    await self._follow("SIGHUP", found)
                    return found

    async def _asked_to_reload(self, question: dict[str, Any]) -> dict[str, Any]:
        """The command ``reload`` has read the file.  Raises ``RsockError``; then all is as before."""
        found = handover.from_text(question.get("settings"))
        async with self._following:
            made = await self._follow("reload", found)
        return {"changed": made.changed, "left": made.left}

    async def _follow(self, asked_by: str, found: Configuration) -> reload.Plan:
        """Follow the file as far as a running instance can.  Raises ``RsockError``; then all is as before.

        Under ``_following``.
        """
        self._reloads += 1
        logger, before = self._log.logger, self._settings
        wanted = found.settings
        if wanted.user is None:  # `up --user` may have named one
            wanted = replace(wanted, user=before.user)
        if wanted.unresolved and not isinstance(wanted.tunnel, ClientParameters):
            wanted = self._with_known_addresses(wanted)
        made = reload.plan(before, wanted)
        self._log.apply(made.settings.log)
        try:
            await self._tunnel.adopt(made.settings)
        except BaseException:  # also if who has asked has lost patience
            self._log.apply(before.log)
            raise
        self._settings = made.settings
        self._instance.renew(made.settings.digest)
        logger.log(
            logging.WARNING if made.left else logging.INFO,
            "%s: log level %s; %s",
            asked_by,
            made.settings.log.level,
            made.text,
        )
        return made

    def _with_known_addresses(self, wanted: Settings) -> Settings:
        """The resolver does not answer: names have the addresses that they had."""
        from rsock_nf.runtime.host.first_addresses import with_addresses

        known = {host.name: host.addresses for host in self._settings.target_hosts if host.addresses}
        return with_addresses(wanted, known)


def _metrics_listener(settings: Settings) -> contextlib.AbstractContextManager[socket.socket | None]:
    """Open before privileges go.  What serves it takes some megabytes: it is imported for the key ``metrics`` only."""
    if settings.metrics is None:
        return contextlib.nullcontext()
    from rsock_nf.ops.metrics.serve import listening

    return listening(settings.metrics)


def _which_pump(settings: Settings) -> str:
    from rsock_nf.runtime.pump_choice import why_python

    return which_pump(why_python(settings))


def _event_loop(settings: Settings) -> asyncio.AbstractEventLoop:
    from rsock_nf.runtime.pump_choice import event_loop

    loop = event_loop(settings)  # or it says why there is none
    if settings.workers > 1:  # each worker has its own
        loop.close()
        return asyncio.SelectorEventLoop()
    return loop


def _team(settings: Settings, logger: logging.Logger, *, lock: int) -> Tunnel:
    """``lock``: the descriptor of the instance's lock."""
    from rsock_nf.workers.team import Team

    return Team(settings, logger, [lock])


def _tunnel(settings: Settings, logger: logging.Logger) -> Tunnel:
    # It imports pyroute2 and cryptography: tests with a tunnel of their own do without.
    from rsock_nf.runtime import make_tunnel

    return make_tunnel(settings, logger)
