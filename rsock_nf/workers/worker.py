"""A worker as its supervisor sees it: whichever process it is at present, what it is asked, and why it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from rsock_nf.errors import ControlError
from rsock_nf.workers.channel import Channel
from rsock_nf.workers.merge import Told

_LOOK: Final = 0.01


class EndedError(ControlError):
    """Who is asked has ended.  The next process begins with the settings that the instance has then."""


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """Why a process has ended."""

    reason: str
    not_yet: bool = False
    """The host lacks something at present."""


class Worker:
    """A worker as the supervisor sees it, whichever process it is at present."""

    def __init__(self, number: int, log: logging.Logger) -> None:
        self.number = number
        self.name = f"worker {number + 1}"
        self.headline = "starting"
        self.ready = False
        self.ended_badly = False
        """Its process has not told that it has removed its rules: it runs, or was killed."""
        self._log = log
        self._pid = 0
        self._channel: Channel | None = None
        """While it runs."""
        self._failed: End | None = None
        """What it said itself before it ended."""
        self._was_stopped = False
        self._last_end = ""
        self._silent = itertools.count()
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}

    @property
    def alive(self) -> bool:
        """There is a process that can be asked."""
        return self._channel is not None

    async def begin(self, pid: int, channel: Channel) -> None:
        """It is this process from now on."""
        self._pid, self._channel = pid, channel
        self.ready, self._failed, self.ended_badly = False, None, True
        self._silent = itertools.count()

    async def events(self) -> AsyncIterator[str]:
        """What it tells besides answers, by name; ends with it."""
        if self._channel is None:
            return
        async for message in self._channel.messages():
            self._silent = itertools.count()
            match message.get("event"):
                case None:
                    self._answered(message)
                case "log":
                    self._log.log(message["level"], "%s: %s", self.name, message["text"])
                case "headline":
                    self.headline = message["text"]
                case "failed":
                    self._failed = End(message["reason"], message["not_yet"])
                case "ready":
                    self.ready = True
                    self._last_end = ""
                    yield "ready"
        self.headline = "starting"
        channel, self._channel = self._channel, None
        await channel.close()
        for question in self._asked.values():
            if not question.done():
                question.set_exception(EndedError(f"{self.name} has ended meanwhile"))

    def end(self, status: int) -> End:
        """Why it has ended; ``status``: as waitpid(2) gives it."""
        self.ended_badly = status != 0
        if self._failed is not None:
            return self._failed
        if os.WIFSIGNALED(status):
            return End(f"was killed by {signal.Signals(os.WTERMSIG(status)).name}")
        code = os.waitstatus_to_exitcode(status)
        return End("ended by SIGTERM" if code == 0 else f"ended with exit status {code}")

    def note_end(self, reason: str) -> None:
        """It is to be started again."""
        self._last_end = reason

    def trouble(self, told: Sequence[Told]) -> str:
        """What is wrong with it; ``told``: who has told its state."""
        if any(one.worker == self.number for one in told):
            return ""
        if self.alive:
            return f"{self.name} does not answer"
        return f"{self.name} is being started again: {self._last_end}" if self._last_end else ""

    def silent_for(self) -> int:
        """How often this was asked since it last told something."""
        return next(self._silent)

    def kill(self, reason: str) -> None:
        """End it at once."""
        self._failed = End(reason)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def stop(self) -> None:
        """Tell it to end."""
        if self._channel is not None:
            self._channel.tell({"verb": "stop"})

    async def ask(self, verb: str, fields: Mapping[str, Any], patience: float) -> dict[str, Any]:
        """Its answer.  Raises ``ControlError``; ``EndedError`` if its process has ended."""
        if self._channel is None:
            raise EndedError(f"{self.name} does not run now")
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._channel.tell({**fields, "number": number, "verb": verb})
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError:
            raise ControlError(f"{self.name} does not answer within {patience:g} s") from None
        finally:
            del self._asked[number]

    def _answered(self, message: Mapping[str, Any]) -> None:
        question = self._asked.get(message.get("number", 0))
        if question is None or question.done():
            return  # its asker has lost patience
        if "error" in message:
            question.set_exception(ControlError(str(message["error"])))
        else:
            question.set_result(message["answer"])


async def reaped(pid: int, patience: float) -> int:
    """The status of child ``pid``, which has closed its channel; it is killed if it does not end in time."""
    end = time.monotonic() + patience
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - WNOHANG: it does not wait
        if done:
            return status
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_LOOK)
