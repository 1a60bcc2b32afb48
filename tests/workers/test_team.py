"""The supervisor with workers that are no processes: what it does when they hang, fail, refuse, or end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.config import load
from rsock_nf.errors import TunnelError
from rsock_nf.ops import handover
from rsock_nf.settings import Settings
from rsock_nf.workers import process, team
from rsock_nf.workers.channel import Channel
from tests.config.test_config import SERVER, write

LOG = logging.getLogger("rsock_nf.test_team")
BEFORE, AFTER = 11.0, 12.0
"""Values of ``keepalive``."""


class Fake:
    """A worker, and the supervisor's end of its channel.

    ``manner``: follows | refuses | dies | silent (when it is to adopt) | hangs (at the end) | fails | breaks (at once).
    """

    def __init__(self, pid: int, settings: Settings, manner: str) -> None:
        self.pid = pid
        self.manner = manner
        self.number = settings.tunnel.shard.number
        self.keepalives = [settings.tunnel.keepalive]
        """What it has begun with, then what it has adopted."""
        self.status = 0
        self._said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        if manner == "fails":
            self.end({"event": "failed", "reason": f"no device for {self.number + 1}", "not_yet": False}, status=256)
        elif manner == "breaks":
            self.end({"event": "log"}, status=256)  # no level
        else:
            self._said.put_nowait({"event": "ready"})

    def end(self, *last_words: dict[str, Any], status: int) -> None:
        self.status = status
        for word in (*last_words, None):
            self._said.put_nowait(word)

    def tell(self, message: Mapping[str, Any]) -> None:
        match message["verb"], self.manner:
            case "stop", "hangs":
                pass
            case "stop", _:
                self.end(status=0)
            case "adopt", "refuses":
                self._said.put_nowait({"number": message["number"], "error": f"{self.number + 1} refuses"})
            case "adopt", "dies":
                self.end(status=signal.SIGKILL)
            case "adopt", _:
                self.keepalives.append(handover.from_text(message["settings"]).settings.tunnel.keepalive)
                if self.manner != "silent":
                    self._said.put_nowait({"number": message["number"], "answer": {}})

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        while (message := await self._said.get()) is not None:
            yield message

    async def close(self, patience: float = 0.0) -> None:
        pass


class Host:
    """Where workers are forked, killed and waited for, and where their rules are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.manners: dict[int, list[str]] = {}
        """By a worker's number, from 0 on: how its processes behave, the first one first, then all the others."""
        self.forked: list[Fake] = []
        self.again = {number: asyncio.Event() for number in range(3)}
        """Of each worker, whether it has been started again."""
        self.cleared: list[str] = []
        monkeypatch.setattr(process, "fork", self._fork)
        monkeypatch.setattr(Channel, "on", self._channel)
        monkeypatch.setattr(team, "reaped", self._reaped)
        monkeypatch.setattr(team, "select", lambda _: self)
        monkeypatch.setattr(os, "kill", self._kill)
        for patience in ("AGAIN", "_FAREWELL"):
            monkeypatch.setattr(team, patience, 0.01)

    def _fork(self, settings: Settings, *_: object) -> tuple[int, Fake]:
        manners = self.manners.get(settings.tunnel.shard.number, ["follows"])
        manner = manners.pop(0) if len(manners) > 1 else manners[0]
        if any(one.number == settings.tunnel.shard.number for one in self.forked):
            self.again[settings.tunnel.shard.number].set()
        self.forked.append(Fake(len(self.forked), settings, manner))
        return self.forked[-1].pid, self.forked[-1]

    async def _channel(self, end: Fake) -> Fake:
        return end

    async def _reaped(self, pid: int, _: float) -> int:
        return self.forked[pid].status

    def _kill(self, pid: int, number: int) -> None:
        self.forked[pid].end(status=number)

    def clear(self, name: str) -> bool:
        self.cleared.append(name)
        return True

    def present(self, number: int) -> Fake:
        """The last process of that worker."""
        return [one for one in self.forked if one.number == number][-1]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    keys = {**SERVER, "name": "edge", "workers": 3, "backend": "nftables", "keepalive": BEFORE}
    return load(write(tmp_path / "edge.json", keys)).settings


def with_keepalive(settings: Settings, keepalive: float) -> Settings:
    return dataclasses.replace(settings, tunnel=dataclasses.replace(settings.tunnel, keepalive=keepalive))


def run(settings: Settings, meanwhile: Callable[[team.Team], Any] | None = None) -> None:
    """Be the supervisor until ``meanwhile``, which begins when all are ready, has ended."""

    async def life() -> None:
        supervisor = team.Team(settings, LOG, [])
        ready, stop = asyncio.Event(), asyncio.Event()
        running = asyncio.ensure_future(supervisor.run(ready=ready.set, stop=stop))
        started = asyncio.ensure_future(ready.wait())
        await asyncio.wait([running, started], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        try:
            if meanwhile is not None:
                await meanwhile(supervisor)
        finally:
            stop.set()
            await running

    asyncio.run(asyncio.wait_for(life(), 60))


async def turns() -> None:
    """Let everybody do what is to be done now."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_the_rules_of_a_worker_that_hangs_at_the_end_are_removed_and_no_others(host: Host, settings: Settings) -> None:
    host.manners[1] = ["hangs"]
    run(settings)
    assert host.forked[1].status == signal.SIGKILL
    assert host.cleared == ["edge/2"]


def test_of_workers_that_fail_together_the_first_is_raised_and_the_log_has_the_others(
    host: Host, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    host.manners = {1: ["fails"], 2: ["fails"]}
    with pytest.raises(TunnelError, match="no device for 2"):
        run(settings)
    assert (LOG.name, logging.ERROR, "no device for 3") in caplog.record_tuples
    gc.collect()
    assert [one for one in caplog.records if one.name == "asyncio"] == [], "each exception was read"


def test_a_defect_beside_a_failure_is_told_with_its_place(
    host: Host, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    host.manners = {0: ["fails"], 1: ["breaks"]}
    with pytest.raises(TunnelError, match="no device for 1"):
        run(settings)
    (record,) = [one for one in caplog.records if one.name == LOG.name]
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_all_adopt(host: Host, settings: Settings) -> None:
    run(settings, lambda supervisor: supervisor.adopt(with_keepalive(settings, AFTER)))
    assert [one.keepalives for one in host.forked] == [[BEFORE, AFTER]] * 3


def test_who_ends_while_it_is_to_adopt_is_no_refusal_its_successor_begins_so(host: Host, settings: Settings) -> None:
    host.manners[1] = ["dies", "follows"]

    async def adopt(supervisor: team.Team) -> None:
        await supervisor.adopt(with_keepalive(settings, AFTER))
        await host.again[1].wait()

    run(settings, adopt)
    assert host.present(1).keepalives == [AFTER]
    assert host.forked[0].keepalives == host.forked[2].keepalives == [BEFORE, AFTER]


@pytest.mark.parametrize(
    ("manner", "why"), [("refuses", "^2 refuses$"), ("silent", "^worker 2 does not answer within")]
)
def test_if_one_does_not_adopt_all_have_what_they_had(
    host: Host, settings: Settings, monkeypatch: pytest.MonkeyPatch, manner: str, why: str
) -> None:
    host.manners[1] = [manner, "follows"]
    if manner == "silent":
        monkeypatch.setattr(team, "_THOUGHT", 0.1)

    async def adopt(supervisor: team.Team) -> None:
        with pytest.raises(TunnelError, match=why):
            await supervisor.adopt(with_keepalive(settings, AFTER))
        await turns()
        host.forked[2].end(status=signal.SIGKILL)  # its successor begins with what counts
        await host.again[2].wait()

    run(settings, adopt)
    assert host.forked[0].keepalives == host.forked[2].keepalives == [BEFORE, AFTER, BEFORE]
    assert host.forked[1].keepalives[-1] == BEFORE, "also who would have adopted too late"
    assert host.present(2).keepalives == [BEFORE]


def test_if_the_asker_loses_patience_all_have_what_they_had(host: Host, settings: Settings) -> None:
    host.manners[1] = ["silent"]

    async def adopt(supervisor: team.Team) -> None:
        asked = asyncio.ensure_future(supervisor.adopt(with_keepalive(settings, AFTER)))
        await turns()
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
        await turns()

    run(settings, adopt)
    assert [one.keepalives for one in host.forked] == [[BEFORE, AFTER, BEFORE]] * 3


def test_the_refusals_of_all_are_told(host: Host, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    host.manners = {0: ["refuses"], 2: ["refuses"]}

    async def adopt(supervisor: team.Team) -> None:
        with pytest.raises(TunnelError, match=r"^1 refuses$"):
            await supervisor.adopt(with_keepalive(settings, AFTER))

    run(settings, adopt)
    assert (LOG.name, logging.ERROR, "3 refuses") in caplog.record_tuples


def test_a_defect_while_settings_are_handed_over_does_not_vanish(host: Host, settings: Settings) -> None:
    async def adopt(supervisor: team.Team) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(handover, "as_text", lambda _: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                await supervisor.adopt(with_keepalive(settings, AFTER))
        await turns()

    run(settings, adopt)
    assert [one.keepalives[-1] for one in host.forked] == [BEFORE] * 3


# -- the beginning and the end of a process


def test_a_supervisor_that_has_forked_collects_its_garbage_as_before(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fork", lambda: 4711)
    before = gc.get_freeze_count()
    pid, ours = process.fork(settings, (), [])
    ours.close()
    assert pid == 4711
    assert gc.get_freeze_count() == before


FORK = """
import os, socket, sys
from rsock_nf.config import load
from rsock_nf.shares import share
from rsock_nf.workers import process

def broken(*_, **__):
    raise ZeroDivisionError("of no use\\nto anyone")

from pathlib import Path
setattr(process, sys.argv[1], broken)
pid, ours = process.fork(share(load(Path(sys.argv[2])).settings, 0), (), [])
print(ours.makefile().read(), end="")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize("where", ["kept_by", "event_loop", "make_tunnel"])
def test_a_worker_that_cannot_begin_tells_why_on_its_channel(settings: Settings, where: str) -> None:
    command = [sys.executable, "-c", FORK, where, str(settings.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    said = [one for one in map(json.loads, done.stdout.splitlines()) if one["event"] == "failed"]
    reason = "unexpected ZeroDivisionError: of no use to anyone"
    assert said == [{"event": "failed", "reason": reason, "not_yet": False}]
