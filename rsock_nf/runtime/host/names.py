"""The host names of a running instance: they are looked up again when their addresses may have changed.

``Questions`` asks the resolver.  ``ServerNames`` decides when a client asks for its server; for a server's targets see
``targets``.  While flows carry traffic a client asks nothing: the question could be answered only through the tunnel
itself, or would tell others that it is there.

Not here: what is done with another address (``client``, ``targets``).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from rsock_nf.core.types import HostAddress, IPAddress
from rsock_nf.settings import Host, server_addresses
from rsock_nf.sockets.resolver import LookUpError, look_up
from rsock_nf.wire.parameters import WireName

FRESH: Final = 300.0
"""Seconds for which an answer is good while nothing is carried: getaddrinfo(3) does not tell the TTL."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Seconds from one question to the next while no flow is up: they double."""
SLOW: Final = 5.0
"""Seconds after which a resolver counts as one that does not answer.  Its answer is taken even then."""
REMINDER: Final = 60.0
"""Seconds from one warning about the resolver to the next."""

Answer: TypeAlias = tuple[HostAddress, ...] | LookUpError
Answered: TypeAlias = Callable[[Mapping[str, Answer]], None]


class Questions:
    """Asks the resolver in a thread of its own, never two questions at a time.

    A resolver that hangs for minutes holds that one thread, and neither the event loop nor the end of the process.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ask: Callable[[str], Answer] = look_up) -> None:
        self._loop = loop
        self._ask = ask
        self._busy = False

    def ask(self, names: Sequence[str], answered: Answered) -> bool:
        """Look these names up and call ``answered``, on the event loop.  False = the last question is still asked."""
        if self._busy:
            return False
        self._busy = True
        threading.Thread(target=self._run, args=(tuple(names), answered), name="resolver", daemon=True).start()
        return True

    def _run(self, names: tuple[str, ...], answered: Answered) -> None:
        answers: dict[str, Answer] = {}
        for name in names:
            try:
                answers[name] = self._ask(name)
            except LookUpError as error:
                answers[name] = error
        with contextlib.suppress(RuntimeError):  # the event loop is closed: the instance has ended
            self._loop.call_soon_threadsafe(self._done, answers, answered)

    def _done(self, answers: dict[str, Answer], answered: Answered) -> None:
        self._busy = False
        answered(answers)


class ServerNames:
    """A client's server: its names, and the addresses that they had last.

    ``usable`` tells which addresses can be dialled.  ``found`` is called after each answer, with all addresses in
    order of preference; there is always one.  If there are only literal addresses, nothing is ever asked.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        wire: WireName,
        ask: Callable[[Sequence[str], Answered], bool],
        *,
        usable: Callable[[HostAddress], bool],
        found: Callable[[tuple[IPAddress, ...]], None],
        log: logging.Logger,
    ) -> None:
        """``ask``: as ``Questions.ask``."""
        self._hosts = list(hosts)
        self._names = tuple(dict.fromkeys(host.name for host in hosts if not host.literal))
        self._wire = wire
        self._ask = ask
        self._usable = usable
        self._found = found
        self._log = log
        self._asked: float | None = None
        """When; None = the names were looked up before this part was made."""
        self._pause = FIRST_PAUSE
        self._open = False
        """A question is being asked."""
        self._troubles: dict[str, str] = {}
        """By name: why there is no answer that can be used."""
        self._warn_at = 0.0

    def tick(self, now: float, *, down: bool, idle: bool) -> None:
        """Once a second.  ``down``: flows are wanted, and none is up.  ``idle``: none is wanted."""
        if not self._names:
            return
        if self._asked is None:
            self._asked = now
        if not (down or idle):
            self._pause = 0.0
            return
        if self._open:
            if now - self._asked >= SLOW:
                self._troubles = dict.fromkeys(self._names, "the resolver does not answer")
        elif now - self._asked >= (self._pause if down else FRESH):
            self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
            self.ask(now)
        if self._troubles and down and now >= self._warn_at:
            self._warn_at = now + REMINDER
            for line in self.reasons():
                self._log.warning("%s", line)

    def ask(self, now: float) -> None:
        """Look the names up now."""
        if self._names and self._ask(self._names, self._answered):
            self._asked, self._open = now, True

    def reasons(self) -> list[str]:
        """Why the addresses may be old, a line for each name."""
        return [
            f"server {host.name} cannot be looked up ({self._troubles[host.name]}): still using {_listed(host)}"
            for host in self._hosts
            if host.name in self._troubles
        ]

    def _answered(self, answers: Mapping[str, Answer]) -> None:
        self._open = False
        self._troubles = {name: str(answer) for name, answer in answers.items() if isinstance(answer, LookUpError)}
        for at, host in enumerate(self._hosts):
            answer = answers.get(host.name, ())
            if host.literal or isinstance(answer, LookUpError):
                continue
            addresses = tuple(one for one in answer if self._usable(one))
            if not server_addresses([dataclasses.replace(host, addresses=addresses)], self._wire):
                self._troubles[host.name] = f"no use for {', '.join(str(one.address) for one in answer)}"
                continue
            self._hosts[at] = dataclasses.replace(host, addresses=addresses)
            if set(addresses) != set(host.addresses):
                self._log.info("server %s: %s now (was %s)", host.name, _listed(self._hosts[at]), _listed(host))
        self._found(server_addresses(self._hosts, self._wire))


def _listed(host: Host) -> str:
    return ", ".join(str(one.address) for one in host.addresses)
