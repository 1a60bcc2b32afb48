"""When a client looks its server's names up again, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.types import HostAddress, IPAddress, PortRange
from rsock_nf.runtime.host.names import FRESH, LONGEST_PAUSE, REMINDER, SLOW, Answer, Answered, Questions, ServerNames
from rsock_nf.runtime.host.server_cover import LINGER, Cover, ServerCover
from rsock_nf.settings import Host, server_addresses
from rsock_nf.sockets.resolver import LookUpError, can_be_name, look_up
from rsock_nf.wire.parameters import WireName
from tests.runtime.test_server_side import SETTINGS

LOG = logging.getLogger("test.names")


def addresses(*texts: str) -> tuple[HostAddress, ...]:
    return tuple(HostAddress(ip_address(text)) for text in texts)


def host(name: str, *texts: str, literal: bool = False) -> Host:
    return Host(name, literal, addresses(*texts))


class Asked:
    """A resolver that answers when the test says so."""

    def __init__(self, *hosts: Host, wire: WireName = WireName.NATIVE, unusable: str = "") -> None:
        self.times: list[float] = []
        self.now = 100.0
        self.found: list[tuple[IPAddress, ...]] = []
        self._pending: Answered | None = None
        self.names = ServerNames(
            hosts,
            wire,
            self._ask,
            usable=lambda one: str(one.address) != unusable,
            found=self.found.append,
            log=LOG,
        )

    def _ask(self, _: Sequence[str], answered: Answered) -> bool:
        if self._pending is not None:
            return False
        self.times.append(self.now)
        self._pending = answered
        return True

    def answer(self, **answers: Answer) -> None:
        assert self._pending is not None
        answered, self._pending = self._pending, None
        answered(answers)

    def pass_time(
        self, seconds: float, *, down: bool = False, idle: bool = False, answers: Answer | None = None
    ) -> None:
        for _ in range(int(seconds)):
            self.names.tick(self.now, down=down, idle=idle)
            if answers is not None and self._pending is not None:
                self.answer(srv=answers)
            self.now += 1.0


def test_while_flows_are_up_nothing_is_asked_and_when_the_last_is_down_at_once() -> None:
    asked = Asked(host("srv", "10.0.0.1"))
    asked.pass_time(2 * FRESH)
    assert asked.times == []
    down_at = asked.now
    asked.pass_time(1, down=True)
    assert asked.times == [down_at]


def test_while_no_flow_is_up_the_pauses_double_up_to_a_minute() -> None:
    asked = Asked(host("srv", "10.0.0.1"))
    asked.pass_time(1)
    asked.pass_time(400, down=True, answers=addresses("10.0.0.1"))
    pauses = [after - before for before, after in zip(asked.times, asked.times[1:], strict=False)]
    assert pauses[:5] == [1, 2, 4, 8, 16]
    assert max(pauses) == LONGEST_PAUSE
    asked.pass_time(1)
    begin = len(asked.times)
    asked.pass_time(2, down=True)
    assert len(asked.times) == begin + 1, "after flows were up the pauses begin anew"


def test_an_idle_client_asks_when_its_answer_is_old() -> None:
    asked = Asked(host("srv", "10.0.0.1"))
    asked.pass_time(1000, idle=True, answers=addresses("10.0.0.1"))
    assert [after - before for before, after in zip(asked.times, asked.times[1:], strict=False)] == [FRESH, FRESH]


def test_literal_addresses_are_never_asked_for() -> None:
    asked = Asked(host("10.0.0.1", "10.0.0.1", literal=True))
    asked.pass_time(100, down=True)
    asked.names.ask(asked.now)
    assert asked.times == []


def test_an_answer_replaces_the_addresses_of_its_name_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asked = Asked(host("srv", "10.0.0.1"), host("192.0.2.9", "192.0.2.9", literal=True), host("two", "10.0.1.1"))
    asked.names.ask(asked.now)
    asked.answer(srv=addresses("10.0.0.50"), two=LookUpError("no answer", temporary=True))
    assert asked.found == [tuple(ip_address(text) for text in ("10.0.0.50", "192.0.2.9", "10.0.1.1"))]
    assert caplog.messages == ["server srv: 10.0.0.50 now (was 10.0.0.1)"]
    assert asked.names.reasons() == ["server two cannot be looked up (no answer): still using 10.0.1.1"]


def test_an_answer_in_another_order_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asked = Asked(host("srv", "10.0.0.1", "10.0.0.2"))
    asked.names.ask(asked.now)
    asked.answer(srv=addresses("10.0.0.2", "10.0.0.1"))
    assert caplog.messages == []


def test_an_answer_without_an_address_that_can_be_dialled_changes_nothing() -> None:
    asked = Asked(host("srv", "10.0.0.1"), unusable="0.0.0.0")
    asked.names.ask(asked.now)
    asked.answer(srv=addresses("0.0.0.0"))
    assert asked.found == [(ip_address("10.0.0.1"),)]
    assert asked.names.reasons() == ["server srv cannot be looked up (no use for 0.0.0.0): still using 10.0.0.1"]


def test_wire_rsock_has_no_use_for_ipv6() -> None:
    asked = Asked(host("srv", "10.0.0.1"), wire=WireName.RSOCK)
    asked.names.ask(asked.now)
    asked.answer(srv=addresses("fd00::1"))
    assert asked.found == [(ip_address("10.0.0.1"),)]


def test_a_dead_resolver_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    asked = Asked(host("srv", "10.0.0.1"))
    asked.pass_time(3 * REMINDER, down=True, answers=LookUpError("no answer", temporary=True))
    assert caplog.messages == ["server srv cannot be looked up (no answer): still using 10.0.0.1"] * 3
    asked.pass_time(2 * LONGEST_PAUSE, down=True, answers=addresses("10.0.0.1"))
    assert asked.names.reasons() == []


def test_a_resolver_that_hangs_is_told_and_asked_nothing_more() -> None:
    asked = Asked(host("srv", "10.0.0.1"))
    asked.pass_time(100, down=True)
    assert len(asked.times) == 1
    assert asked.names.reasons() == [
        "server srv cannot be looked up (the resolver does not answer): still using 10.0.0.1"
    ]
    asked.answer(srv=addresses("10.0.0.50"))
    assert asked.found == [(ip_address("10.0.0.50"),)], "late, but an answer"
    assert SLOW < 100
    assert asked.names.reasons() == []


def test_the_families_take_turns() -> None:
    """RFC 8305 section 4: the resolver's first family leads."""
    hosts = [host("srv", "fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2"), host("10.0.1.1", "10.0.1.1", literal=True)]
    found = [str(address) for address in server_addresses(hosts, WireName.NATIVE)]
    assert found == ["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2", "10.0.1.1"]
    assert [str(address) for address in server_addresses(hosts, WireName.RSOCK)] == ["10.0.0.1", "10.0.0.2", "10.0.1.1"]


# -- asking


def test_one_question_at_a_time_and_the_event_loop_goes_on() -> None:
    release = threading.Event()
    asked: list[str] = []

    def hang(name: str) -> Answer:
        asked.append(name)
        release.wait(30)
        return addresses("10.0.0.1")

    async def ask() -> dict[str, Answer]:
        loop = asyncio.get_running_loop()
        questions = Questions(loop, hang)
        answered: asyncio.Future[dict[str, Answer]] = loop.create_future()
        assert questions.ask(["srv"], lambda answers: answered.set_result(dict(answers)))
        assert not questions.ask(["srv"], lambda _: None)
        release.set()
        found = await answered
        assert questions.ask(["srv"], lambda _: None)
        return found

    assert asyncio.run(ask()) == {"srv": addresses("10.0.0.1")}
    assert set(asked) == {"srv"}


def test_the_process_does_not_wait_for_a_resolver_that_hangs() -> None:
    release = threading.Event()

    async def ask() -> None:
        assert Questions(asyncio.get_running_loop(), lambda _: hang(release)).ask(["srv"], lambda _: None)

    def hang(until: threading.Event) -> Answer:
        until.wait(60)
        return ()

    asyncio.run(ask())  # returns though the question is still asked
    release.set()


def test_what_is_no_name_at_all() -> None:
    with pytest.raises(LookUpError):
        look_up("a" * 64)
    assert not can_be_name("a" * 64)
    assert not can_be_name("a..b")
    assert can_be_name("srv.example")


# -- rules, filter, routes


class Covered:
    """What was done, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails = False
        self.cover = Cover(SETTINGS, ClientParameters(server=(ip_address("10.0.0.1"),)), _NoPorts(), None)  # type: ignore[arg-type]
        self.server = ServerCover(
            self.cover,
            self._apply,
            follow=lambda some: self.done.extend(f"follow {one}" for one in some),
            forget=lambda one: self.done.append(f"forget {one}"),
        )

    def _apply(self) -> None:
        if self.fails:
            raise OSError
        self.done.append(f"apply {' '.join(map(str, self.cover.server))}")


class _NoPorts:
    held_ranges: tuple[PortRange, ...] = ()


def test_old_and_new_addresses_are_covered_until_nothing_uses_the_old_one() -> None:
    covered = Covered()
    old, new = ip_address("10.0.0.1"), ip_address("10.0.0.50")
    covered.server.extend([new])
    assert covered.done == ["apply 10.0.0.50 10.0.0.1", "follow 10.0.0.50"]
    for now in range(100):
        covered.server.tick(now, [old])
    assert covered.cover.server == (new, old)
    covered.server.tick(200.0, [new])
    covered.server.tick(200.0 + LINGER, [new])
    assert covered.done[2:] == ["apply 10.0.0.50", "forget 10.0.0.1"]


def test_what_cannot_be_covered_is_not_followed() -> None:
    covered = Covered()
    covered.fails = True
    with pytest.raises(OSError):  # noqa: PT011 - it has no text
        covered.server.extend([ip_address("10.0.0.50")])
    assert covered.cover.server == (ip_address("10.0.0.1"),)
    assert covered.done == []
