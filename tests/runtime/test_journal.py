"""What a running instance logs of itself: seldom enough, and at debug everything that changed."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rsock_nf.core.ends.crowding import Crowd
from rsock_nf.core.parameters import Kinds, ServerParameters
from rsock_nf.runtime.host.refusals import Target
from rsock_nf.runtime.reports.journal import LONGEST_PAUSE, REMINDER, Journal
from rsock_nf.runtime.reports.snapshot import snapshot
from rsock_nf.runtime.reports.view import HostView, View
from rsock_nf.settings import Settings
from rsock_nf.wire.parameters import NativeParameters
from rsock_nf.words import STRANGERS


class Fake:
    """What an instance shows of itself, to be changed at will."""

    def __init__(self) -> None:
        self.reason = ""
        self.state = "serving"
        self.targets: list[Target] = []
        self.troubles: dict[str, int] = {}
        self.sessions: list[Any] = []
        self.counters: dict[str, int] = {}
        self.kinds = Kinds.ALL
        self.crowds: list[Crowd] = []

    def view(self) -> View:
        return View(
            Settings("edge", Path("/edge.json"), "", ServerParameters(kinds=self.kinds), NativeParameters(bytes(32))),
            state=self.state,
            reason=self.reason,
            sessions=self.sessions,
            describe=lambda _, peer: f"from {peer}",
            counters=self.counters,
            targets=self.targets,
            troubles=self.troubles,
            crowds=self.crowds,
        )

    def be_client(self, *flows: str, idle: bool = False) -> None:
        """A client with one session, which has these flows: "tcp" or "udp" each."""
        self.state = "idle" if idle else "connected" if flows else "connecting"
        listed = {number: SimpleNamespace(key=SimpleNamespace(udp=kind == "udp")) for number, kind in enumerate(flows)}
        group = SimpleNamespace(oversized=0)
        self.sessions = [SimpleNamespace(session_id=0xABC, flows=listed, group=group, **WIDE)]

    def carry(self, mtu: int, conversations: dict[int, str]) -> None:
        """One session with these conversations."""
        listed = {number: SimpleNamespace(number=number, peer=peer) for number, peer in conversations.items()}
        group = SimpleNamespace(conversations=listed, oversized=0)
        self.sessions = [SimpleNamespace(session_id=0xABC, group=group, **{**WIDE, "largest_datagram": lambda: mtu})]


WIDE = {"narrowest": lambda: None, "largest_datagram": lambda: None, "peer": "192.0.2.7:40001"}
"""Of a session: its path carries whole segments."""


class Book:
    """A journal, its fake instance, and what it has written so far."""

    def __init__(self, caplog: pytest.LogCaptureFixture, level: int) -> None:
        self.instance = Fake()
        log = logging.getLogger("tests.journal")
        caplog.set_level(level, log.name)
        self._journal = Journal(log)
        self._caplog = caplog

    def at(self, now: float) -> list[str]:
        """The lines of one tick."""
        self._caplog.clear()
        self._journal.tick(self.instance.view(), now)
        return [record.getMessage() for record in self._caplog.records]


def test_the_reason_is_logged_when_it_changes_and_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    book = Book(caplog, logging.INFO)
    book.instance.reason = "dialling 192.0.2.1, no answer yet"
    assert book.at(0) == ["dialling 192.0.2.1, no answer yet"]
    assert book.at(1) == []
    logged = 0
    for second in range(2, 3602):
        book.instance.reason = f"no answer from 192.0.2.1 on port {second}"
        logged += len(book.at(second))
    assert 8 <= logged <= 8 + 3600 / LONGEST_PAUSE


def test_what_is_known_at_first_does_not_hold_up_what_is_known_next(caplog: pytest.LogCaptureFixture) -> None:
    book = Book(caplog, logging.INFO)
    for now, reason in enumerate(["dialling", "the port is open", "hellos are not answered", "other"]):
        book.instance.reason = reason
        assert book.at(now) == ([reason] if reason != "other" else [])


def test_a_tunnel_that_stood_in_between_gives_its_reason_at_once(caplog: pytest.LogCaptureFixture) -> None:
    book = Book(caplog, logging.INFO)
    for _ in range(2):
        book.instance.reason = "the server was restarted"
        assert book.at(10) == ["the server was restarted"]
        book.instance.reason = ""
        assert book.at(10) == []


def test_a_target_that_refuses_is_named_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    book = Book(caplog, logging.INFO)
    assert book.at(0) == []
    lines = []
    for second in range(1, 62):
        book.instance.targets = [Target("127.0.0.1:9999", second, second)]
        lines += book.at(second)
    said = "target 127.0.0.1:9999: nobody listens there (refused so far: {})"
    assert lines == [said.format(1), said.format(61)]
    assert book.at(61 + 2 * REMINDER) == [], "it refuses no more"


def test_that_a_target_answers_again_is_logged_once_and_only_if_its_refusal_was(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book = Book(caplog, logging.INFO)
    target = Target("127.0.0.1:9999", 3, 0.0)
    book.instance.targets = [target]
    assert len(book.at(0)) == 1
    target.refuses = False
    assert book.at(1) == ["target 127.0.0.1:9999 answers again (refused before: 3)"]
    lines = []
    for second in range(2, 122):  # it flaps
        target.refuses, target.refused = bool(second % 2), second
        lines += book.at(second)
    assert len(lines) <= 2 * (120 / REMINDER + 1), "each side at most once a minute"
    book.instance.targets = []
    assert book.at(500) == []


@pytest.mark.parametrize(
    ("kinds", "who"),
    [
        (Kinds.TCP, "another secret, or a scan"),
        (Kinds.ALL, "another secret, a scan, or over UDP a client whose address has changed"),
    ],
)
def test_strangers_are_told_once_a_minute(kinds: Kinds, who: str, caplog: pytest.LogCaptureFixture) -> None:
    book = Book(caplog, logging.INFO)
    book.instance.kinds = kinds
    lines = []
    for second in range(1, 62):
        book.instance.counters = {STRANGERS: 2 * second}
        lines += book.at(second)
    said = "strangers: {} payloads so far that do not authenticate ({})"
    assert lines == [said.format(2, who), said.format(122, who)]


def test_a_client_that_goes_to_sleep_says_so_each_time(caplog: pytest.LogCaptureFixture) -> None:
    book = Book(caplog, logging.INFO)
    lines = []
    for now, idle in enumerate([False, True, True, False, True]):
        book.instance.be_client(idle=idle)
        lines += book.at(now)
    assert lines == ["idle: no flows until the next datagram"] * 2


def test_a_session_that_lost_every_flow_and_has_some_again_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    book = Book(caplog, logging.INFO)
    lines = []
    for now, flows in enumerate([["tcp"], [], [], ["tcp", "udp"], ["tcp", "udp"]]):
        book.instance.be_client(*flows)
        lines += book.at(now)
    assert lines == ["session 0000000000000abc carries again, flows: 2"]


def test_a_kind_of_flow_that_is_blocked_is_told_once_and_that_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    book = Book(caplog, logging.INFO)
    lines = []
    for now in range(40):
        book.instance.be_client(*(["tcp", "udp"] if now < 10 or now >= 30 else ["tcp"]))
        lines += [f"{now} {line}" for line in book.at(now)]
    assert lines == [
        "15 no flow over UDP: blocked, or not served there; TCP carries alone",
        "30 flows over UDP are back",
    ]


def test_a_kind_that_is_away_for_a_moment_or_while_the_client_sleeps_is_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book = Book(caplog, logging.WARNING)
    lines = []
    for now in range(100):
        book.instance.be_client(*([] if 10 < now < 90 else ["udp"] if now % 4 else ["tcp", "udp"]), idle=10 < now < 90)
        lines += book.at(now)
    assert lines == []


def test_with_one_kind_of_flow_the_other_is_not_missed(caplog: pytest.LogCaptureFixture) -> None:
    book = Book(caplog, logging.INFO)
    book.instance.kinds = Kinds.TCP
    book.instance.be_client("tcp")
    assert [line for now in range(60) for line in book.at(now)] == []


def test_at_debug_what_changed_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    book = Book(caplog, logging.DEBUG)
    book.instance.carry(1400, {7: "10.0.0.2:4000"})
    book.instance.counters = {"segments of no flow": 2}
    assert book.at(0) == [
        "session 0000000000000abc: conversation 7 begins: from 10.0.0.2:4000",
        "session 0000000000000abc: MTU for the application is 1400",
        "counted 2 more: segments of no flow",
    ]
    assert book.at(1) == []
    book.instance.carry(1300, {})
    book.instance.counters = {"segments of no flow": 5}
    assert book.at(2) == [
        "session 0000000000000abc: conversation 7 has ended: from 10.0.0.2:4000",
        "session 0000000000000abc: MTU for the application is 1300",
        "counted 3 more: segments of no flow",
    ]


def test_at_info_none_of_that(caplog: pytest.LogCaptureFixture) -> None:
    book = Book(caplog, logging.INFO)
    book.instance.carry(1400, {7: "10.0.0.2:4000"})
    book.instance.counters = {"segments of no flow": 2}
    assert book.at(0) == []


def test_what_fails_again_and_again_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    book = Book(caplog, logging.INFO)
    told = []
    for second in range(121):
        book.instance.troubles["192.0.2.7:9: too many open files"] = 1000 * (second + 1)
        told += book.at(float(second))
    assert told == [f"192.0.2.7:9: too many open files (times so far: {count})" for count in (1000, 61000, 121000)]
    assert book.at(1000.0) == []


def test_conversations_that_make_room_are_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    book = Book(caplog, logging.WARNING)
    lines = []
    for second in range(62):
        book.instance.crowds = [Crowd(4096, 200 * (second + 1), "192.0.2.7:40001", now=True)]
        lines += book.at(second)
    book.instance.crowds = [Crowd(4096, 200 * 62, "192.0.2.7:40001", now=False)]
    lines += book.at(1000)
    why = "conversations: 4096 of 4096 in use: answered or silent ones make room; raise max_conversations"
    assert lines == [f"{why} (so far: {count}, the last of 192.0.2.7:40001)" for count in (200, 200 * 61)]


def test_conversations_that_make_room_are_a_reason() -> None:
    instance = Fake()
    why = "conversations: 9 of 9 in use: answered or silent ones make room; raise max_conversations"
    crowd = Crowd(9, 3, "192.0.2.7:40001", now=True)
    for crowds, reason in (([], ""), ([crowd], why), ([crowd, crowd], why), ([crowd._replace(now=False)], "")):
        instance.crowds = crowds
        told = snapshot(instance.view(), HostView(), now=1.0, started=0.0)
        assert (told["reason"], told["made_room"]) == (reason, 3 * len(crowds))


@pytest.mark.parametrize(("fragments", "happens"), [(True, "cut"), (False, "dropped")])
def test_datagrams_that_do_not_fit_are_told_once_with_the_numbers(
    caplog: pytest.LogCaptureFixture, *, fragments: bool, happens: str
) -> None:
    book = Book(caplog, logging.WARNING)
    book.instance.carry(1452, {})
    (session,) = book.instance.sessions
    session.limits = SimpleNamespace(fragments=fragments)
    assert book.at(1) == []
    session.group.oversized, session.group.largest_oversized = 3, 1464
    (line,) = book.at(2)
    assert line == (
        f"session 0000000000000abc: datagrams of 1464 bytes do not fit one segment and are {happens}: "
        "set WireGuard: MTU = 1420; OpenVPN: mssfix 1452; others: at most 1452 bytes"
    )
    session.group.oversized += 1000
    assert book.at(3) == []
    other = SimpleNamespace(**{**vars(session), "session_id": 0xDEF})
    book.instance.sessions.append(other)
    assert len(book.at(4)) == 1, "of another session of a server"
    book.instance.state = "connected"
    other.flows = session.flows = {}
    assert len(book.at(5)) == 1
    session.session_id = 0xFFF
    assert book.at(6) == [], "a client tells it once, whatever session it has"


def test_a_path_that_becomes_smaller_is_told_with_the_session_and_the_numbers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book = Book(caplog, logging.INFO)
    book.instance.carry(1232, {})
    (session,) = book.instance.sessions
    assert book.at(1) == []
    session.narrowest = lambda: (1240, 1460)
    (line,) = book.at(2)
    assert line == (
        "session 0000000000000abc with 192.0.2.7:40001: the path out carries segments of 1240 bytes at most, not 1460: "
        "set WireGuard: MTU = 1200; OpenVPN: mssfix 1232; others: at most 1232 bytes"
    )
    assert book.at(3) == []
    session.narrowest = lambda: None
    assert book.at(4) == ["session 0000000000000abc with 192.0.2.7:40001: the path out carries whole segments again"]
    assert book.at(5) == []


@pytest.mark.parametrize(
    ("version", "link_mtu", "expected"), [(4, 1500, 1452), (6, 1500, 1432), (4, 1492, 1444), (4, None, 1452)]
)
def test_there_is_always_an_mtu(version: int, link_mtu: int | None, expected: int) -> None:
    """Also without a flow, and without a device."""
    view = dataclasses.replace(Fake().view(), versions=frozenset({version}))
    told = snapshot(view, HostView(mtu=link_mtu), now=1.0, started=0.0)
    assert (told["mtu"], told["mtu_computed"]) == (expected, True)
    assert told["mtu_ipv4"] is None, "there is no other version"
    assert told["vpn"] == {
        "wireguard_mtu": expected - 32,
        "openvpn_mssfix": expected,
        "openvpn_tun_mtu": expected - 28,
    }


def test_what_serves_both_ip_versions_tells_both_numbers() -> None:
    """Before: a server that nobody uses told that of IPv6, though all of its clients may come over IPv4."""
    view = dataclasses.replace(Fake().view(), versions=frozenset({4, 6}))
    told = snapshot(view, HostView(mtu=1500), now=1.0, started=0.0)
    assert (told["mtu"], told["mtu_ipv4"]) == (1432, 1452)
