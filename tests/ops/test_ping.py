"""What ``ping`` tells of rounds: lines as ping(8) has them, a summary, a table of flows."""

from __future__ import annotations

from typing import Any

import pytest

from rsock_nf.ops.instances.instance import Instance
from rsock_nf.ops.ping import Round, Summary, Tally, Wish, line, rounds


def reply(flow: int, rtt_ms: float | None, *, kind: str = "tcp") -> dict[str, Any]:
    remote = f"192.0.2.2:{10_000 + flow}"
    return {"session": "ab", "flow": flow, "type": kind, "local": "10.0.0.1:4", "remote": remote, "rtt_ms": rtt_ms}


def test_a_line_for_each_ping() -> None:
    assert line(Round(3, [reply(1, 0.4567), reply(2, None, kind="udp"), reply(4, 45.67), reply(5, 1234.5)], "")) == [
        "from 192.0.2.2:10001: seq=3 flow=1 tcp time=0.46 ms",
        "no answer from 192.0.2.2:10002: seq=3 flow=2 udp",
        "from 192.0.2.2:10004: seq=3 flow=4 tcp time=45.7 ms",
        "from 192.0.2.2:10005: seq=3 flow=5 tcp time=1234 ms",
    ]
    assert line(Round(1, [], "dialling 192.0.2.2, no answer yet")) == [
        "seq=1 no flow is up: dialling 192.0.2.2, no answer yet"
    ]


def test_the_spread_is_that_of_ping() -> None:
    tally = Tally()
    assert (tally.loss, tally.spread()) == (1, None)
    for time in (1.0, 2.0, None, 3.0):
        tally.count(time)
    assert tally.as_json() == {
        "sent": 4,
        "answered": 3,
        "loss": 0.25,
        "rtt_ms": {"min": 1.0, "avg": 2.0, "max": 3.0, "mdev": 0.816},
    }


def test_the_summary_counts_each_flow_and_rounds_without_one() -> None:
    summary = Summary("edge")
    summary.add(Round(1, [reply(10, 5.0), reply(9, None)], ""))
    summary.add(Round(2, [reply(10, 7.0), reply(9, 100.0)], ""))
    summary.add(Round(3, [], "every flow is down"))
    head, *table, sent, spread = summary.lines(every_flow=True)
    assert head == "--- edge ping statistics ---"
    assert [row.split() for row in table[1:]] == [
        ["9", "tcp", "192.0.2.2:10009", "2", "50%", "100", "100", "100"],
        ["10", "tcp", "192.0.2.2:10010", "2", "0%", "5.00", "6.00", "7.00"],
    ]
    assert sent.startswith("5 sent, 3 answered, 40% loss, time ")
    assert spread == "rtt min/avg/max/mdev = 5.000/37.333/100.000/44.320 ms"
    found = summary.as_json()
    assert (found["sent"], found["answered"], found["without_flow"], len(found["flows"])) == (5, 3, 1, 2)
    assert len(summary.lines(every_flow=False)) == 3


def test_rounds_ask_one_flow_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def ask(_: Instance, verb: str, fields: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        assert (verb, timeout > fields["patience"]) == ("ping", True)
        asked.append(fields)
        return {"replies": [reply(1, 1.0)]}

    monkeypatch.setattr("rsock_nf.ops.ping.ask", ask)
    found = list(rounds(Instance("edge"), Wish(times=3, interval=0.01, patience=0.5, every_flow=False)))
    assert [one.number for one in found] == [1, 2, 3]
    assert [fields["turn"] for fields in asked] == [0, 1, 2]
    assert {fields["flows"] for fields in asked} == {False}
