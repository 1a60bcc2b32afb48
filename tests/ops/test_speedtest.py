"""What ``speedtest`` tells: a table, a remark, JSON; and that a test is stopped when its command goes."""

from __future__ import annotations

from typing import Any

import pytest

from rsock_nf.errors import ControlError
from rsock_nf.ops import speedtest
from rsock_nf.ops.instances.instance import Instance


def told(phase: str = "done", *, settled: bool = True, rate: int = 93_100_000, error: str = "") -> dict[str, Any]:
    found = {"bits_per_second": rate, "loss": 0.0012, "settled": settled, "rtt_ms": [20.0, None, 40.0]}
    return {
        "phase": phase,
        "error": error,
        "datagram_bytes": 1450,
        "allowed_bits_per_second": 100_000_000,
        "idle_rtt_ms": [20.0, 21.0],
        "now": {},
        "found": {"down": found, "up": {**found, "rtt_ms": []}},
    }


def test_the_table() -> None:
    assert speedtest.table(told()).splitlines() == [
        "      Mbit/s  loss  RTT min   avg  max ms",
        "idle                   20.0  20.5    21.0",
        "down    93.1  0.1%     20.0  30.0    40.0",
        "up      93.1  0.1%        -     -       -",
    ]


def test_what_limits_it() -> None:
    assert speedtest.remark(told(rate=50_000_000)) == ""
    assert speedtest.remark(told()) == 'the server allows 100 Mbit/s: "speedtest" in its file'
    assert "still growing" in speedtest.remark(told(settled=False))


def test_json() -> None:
    found = speedtest.as_json("edge", told())
    assert (found["name"], found["idle"]["answered"]) == ("edge", 2)
    assert found["down"]["under_load"] | {"rtt_ms": None} == {"sent": 3, "answered": 2, "loss": 0.3333, "rtt_ms": None}


def going(monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any]) -> list[str]:
    """Have the instance answer so, one after the other; what it is asked to do."""
    asked: list[str] = []
    left = list(answers)

    def ask(_: Instance, verb: str, fields: dict[str, Any]) -> dict[str, Any]:
        assert verb == "speedtest"
        asked.append(fields["do"])
        return left.pop(0) if left else told("failed")

    monkeypatch.setattr(speedtest, "ask", ask)
    monkeypatch.setattr(speedtest, "_LOOK_AGAIN", 0.0)
    return asked


def test_it_is_looked_at_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = going(monkeypatch, told("idle"), told("down"), told("done"))
    assert [one["phase"] for one in speedtest.test(Instance("edge"), 5.0)] == ["idle", "down", "done"]
    assert asked == ["begin", "look", "look"]


def test_one_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    going(monkeypatch, told("idle"), told("failed", error="the moon"))
    with pytest.raises(ControlError, match="instance edge: speed test: the moon"):
        list(speedtest.test(Instance("edge"), 5.0))


def test_ctrl_c_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = going(monkeypatch, told("idle"))
    test = speedtest.test(Instance("edge"), 5.0)
    next(test)
    with pytest.raises(KeyboardInterrupt):
        test.throw(KeyboardInterrupt)
    assert asked == ["begin", "stop"]
