"""A server's targets that have names: looked up again when a target refuses, is silent, or its answer is old.

A container that is started anew, for example, often has another address.  New conversations go to the new address at
once.  One that goes to the old address moves when that refuses or stays silent (``targets``).

Not here: the sockets (``targets``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rsock_nf.core.types import HostAddress
from rsock_nf.runtime.host.names import FIRST_PAUSE, FRESH, LONGEST_PAUSE, REMINDER, Answer, Answered
from rsock_nf.settings import Host
from rsock_nf.sockets.resolver import LookUpError


@dataclass(slots=True)
class _Asked:
    """One name."""

    asked: float | None = None
    """When; None = when the configuration was read."""
    pause: float = 0.0
    """Seconds that must have passed since then before trouble is a reason to ask again."""
    refused: bool = False
    """The address in use has refused: another address of the same answer is better."""
    warn_at: float = 0.0


class TargetNames:
    """See the module.  ``use`` is called with the number of a target and the address that it has now."""

    def __init__(
        self,
        hosts: Sequence[Host],
        ask: Callable[[Sequence[str], Answered], bool],
        *,
        use: Callable[[int, HostAddress], None],
        log: logging.Logger,
    ) -> None:
        """``ask``: as ``names.Questions.ask``."""
        self._hosts = {number: host for number, host in enumerate(hosts) if not host.literal}
        """By the number of the target: those that have names."""
        self._ask = ask
        self._use = use
        self._log = log
        self._now = 0.0
        self._names = {number: _Asked() for number in self._hosts}
        self._current = {number: host.addresses[0] for number, host in self._hosts.items()}

    @property
    def numbers(self) -> list[int]:
        """Of the targets that have names.  The others are never asked for."""
        return list(self._hosts)

    def forget(self) -> None:
        """The targets are others from now on: what is still asked for is not used."""
        self._hosts = {}

    def begun(self, number: int, now: float) -> None:
        """A conversation with this target begins: ask if the last answer is old."""
        name = self._names.get(number)
        if name is None:
            return
        if name.asked is None:
            name.asked = now
        if now - name.asked >= FRESH:
            self._look_up(number, name, now)

    def well(self, number: int) -> None:
        """It has answered."""
        name = self._names.get(number)
        if name is not None:
            name.pause = 0.0

    def troubled(self, number: int, now: float, *, refused: bool) -> None:
        """It refuses, or nothing comes from it: ask at once, and then ever more seldom."""
        name = self._names.get(number)
        if name is None:
            return
        if name.asked is None or now - name.asked >= name.pause:
            name.refused = refused
            name.pause = min(max(2 * name.pause, FIRST_PAUSE), LONGEST_PAUSE)
            self._look_up(number, name, now)

    def _look_up(self, number: int, name: _Asked, now: float) -> None:
        self._now = now
        if self._ask([self._hosts[number].name], self._answered):
            name.asked = now

    def _answered(self, answers: Mapping[str, Answer]) -> None:
        for number, host in self._hosts.items():
            answer = answers.get(host.name)
            if answer is None:
                continue
            name, before = self._names[number], self._current[number]
            if isinstance(answer, LookUpError):
                self._warn(host, name, before, str(answer))
                continue
            after = _choose(before, answer, another=name.refused)
            if after is not None and after != before:
                self._log.info("target %s: %s now (was %s)", host.name, after.address, before.address)
                self._current[number] = after
                self._use(number, after)

    def _warn(self, host: Host, name: _Asked, before: HostAddress, why: str) -> None:
        if self._now >= name.warn_at:
            name.warn_at = self._now + REMINDER
            self._log.warning("target %s cannot be looked up (%s): still using %s", host.name, why, before.address)


def _choose(before: HostAddress, answer: tuple[HostAddress, ...], *, another: bool) -> HostAddress | None:
    """The present address if the answer has it, else the first; with ``another``, the one after the present address."""
    usable = [one for one in answer if not one.address.is_unspecified and not one.address.is_multicast]
    if not usable:
        return None
    if before not in usable:
        return usable[0]
    return usable[(usable.index(before) + 1) % len(usable)] if another else before
