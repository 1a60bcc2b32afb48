"""When a server looks its targets' names up again, and which conversations move."""

from __future__ import annotations

import itertools
import logging
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from rsock_nf.core.types import HostAddress, Run, TransportAddress
from rsock_nf.runtime.host.names import FRESH, LONGEST_PAUSE, Answer, Answered
from rsock_nf.runtime.host.target_names import TargetNames
from rsock_nf.runtime.host.targets import SILENT, Health, Targets
from rsock_nf.settings import Host
from rsock_nf.sockets.datagrams import DatagramCounters
from rsock_nf.sockets.resolver import LookUpError

LOG = logging.getLogger("test.targets")
OLD, NEW, OTHER = (HostAddress(ip_address(text)) for text in ("127.0.0.2", "127.0.0.3", "127.0.0.4"))


class Asked:
    """Target 0 is an address, target 1 a name."""

    def __init__(self) -> None:
        self.questions = 0
        self.used: list[tuple[int, HostAddress]] = []
        self.answers: Answer = (OLD,)
        hosts = [Host("127.0.0.9", True, (OTHER,)), Host("app", False, (OLD,))]
        self.names = TargetNames(hosts, self._ask, use=lambda *what: self.used.append(what), log=LOG)

    def _ask(self, names: Sequence[str], answered: Answered) -> bool:
        assert names == ["app"]
        self.questions += 1
        answered({"app": self.answers})
        return True


def test_a_new_conversation_asks_when_the_answer_is_old() -> None:
    asked = Asked()
    for now in (10.0, 11.0, 9.0 + FRESH):
        asked.names.begun(1, now)
    assert asked.questions == 0
    asked.names.begun(1, 10.0 + FRESH)
    assert asked.questions == 1


def test_an_address_is_never_asked_for() -> None:
    asked = Asked()
    asked.names.begun(0, 10_000.0)
    asked.names.troubled(0, 10_000.0, refused=True)
    assert asked.questions == 0
    assert asked.names.numbers == [1]


def test_trouble_asks_at_once_and_then_ever_more_seldom() -> None:
    asked = Asked()
    times: list[int] = []
    for now in range(1000, 1300):
        before = asked.questions
        asked.names.troubled(1, float(now), refused=False)
        times += [now] * (asked.questions - before)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert times[0] == 1000
    assert pauses[:4] == [1, 2, 4, 8]
    assert max(pauses) == LONGEST_PAUSE
    asked.names.well(1)
    before = asked.questions
    asked.names.troubled(1, 1300.0, refused=False)
    assert asked.questions == before + 1


@pytest.mark.parametrize(
    ("answer", "refused", "used"),
    [
        ((OLD,), True, None),
        ((NEW,), False, NEW),
        ((NEW, OLD), False, None),
        ((OLD, NEW), True, NEW),
        ((HostAddress(ip_address("0.0.0.0")),), True, None),
    ],
)
def test_which_address_of_an_answer_is_used(
    answer: tuple[HostAddress, ...], *, refused: bool, used: HostAddress | None
) -> None:
    asked = Asked()
    asked.answers = answer
    asked.names.troubled(1, 1000.0, refused=refused)
    assert asked.used == ([(1, used)] if used else [])


def test_a_dead_resolver_is_told(caplog: pytest.LogCaptureFixture) -> None:
    asked = Asked()
    asked.answers = LookUpError("no answer", temporary=True)
    for now in range(1000, 1050):
        asked.names.troubled(1, float(now), refused=True)
    assert caplog.messages == ["target app cannot be looked up (no answer): still using 127.0.0.2"]


def test_who_sends_and_hears_nothing_is_silent() -> None:
    health = Health(1)
    health.look(0.0, DatagramCounters(sent=1, received=1))
    assert not health.is_silent(100.0), "nothing was asked"
    health.look(100.0, DatagramCounters(sent=2, received=1))
    assert not health.is_silent(100.0 + SILENT - 0.1)
    assert health.is_silent(100.0 + SILENT)
    health.look(106.0, DatagramCounters(sent=3, received=2))
    assert not health.is_silent(200.0)


def test_a_refusal_counts_until_something_is_heard() -> None:
    health = Health(1)
    health.look(0.0, DatagramCounters(sent=1, refused=1))
    assert health.refused
    health.look(1.0, DatagramCounters(sent=1, refused=1))
    assert health.refused
    health.look(2.0, DatagramCounters(sent=2, refused=1, received=1))
    assert not health.refused


@contextmanager
def listening(address: HostAddress, port: int = 0) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind((str(address.address), port))
        made.settimeout(10)
        yield made


def test_a_conversation_moves_only_when_its_old_address_is_no_use() -> None:
    with listening(OLD) as old, listening(NEW, old.getsockname()[1]) as new:
        targets = Targets([TransportAddress(OLD.address, old.getsockname()[1])])
        source = targets.open("a", 0)
        targets.send([Run("a", [b"one"], 3)])
        _, sender = old.recvfrom(100)
        old.sendto(b"answer", sender)
        assert select.select([source.descriptor], [], [], 10)[0]
        assert source.receive()
        targets.look(0.0, 0)
        targets.use(0, NEW)
        assert targets.astray(0.0, 0) == [], "answers come"
        targets.send([Run("a", [b"two"], 3)])
        assert targets.look(1.0, 0) == (False, False, False)
        assert targets.look(1.0 + SILENT, 0) == (False, False, True)
        assert targets.astray(1.0 + SILENT, 0) == ["a"]
        before, moved = targets.move("a")
        targets.drop(before)
        assert targets.descriptor("a") == moved.descriptor
        targets.send([Run("a", [b"three"], 5)])
        assert new.recv(100) == b"three"
        assert targets.astray(100.0, 0) == []
        assert sum(one.sent for one in targets.counters()) == 3, "nothing is forgotten"
        targets.close_all()
