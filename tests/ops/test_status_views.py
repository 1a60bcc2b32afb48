"""``status --brief`` and what ``--watch`` fits into a terminal."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.ops.status.brief import COLUMNS, brief
from rsock_nf.ops.status.layout import plain
from rsock_nf.ops.status.live import fit
from rsock_nf.ops.status.render import view
from tests.ops.test_status import FLOW, SNAPSHOT

ROOT = Path(__file__).parents[2]


def clients(count: int) -> list[dict[str, Any]]:
    one = {**SNAPSHOT["sessions"][0], "flows": [FLOW] * 10}
    return [{**one, "id": f"{number:016x}", "name": f"client{number}"} for number in range(count)]


def test_brief_has_a_line_for_each_session_and_always_the_same_columns() -> None:
    session = {**SNAPSHOT["sessions"][0], "name": "anna", "age": 3700.25}
    other = {**session, "id": "0000000000000001", "name": "", "flows": [], "heard_ago": None}
    lines = brief({**SNAPSHOT, "sessions": [session, other]})
    assert [" ".join(line.split("\t")) for line in lines] == [
        "edge client connected 0000000000000001 - 203.0.113.5 native 0 0 - - - 3700 1 1200 900 1440000 57600",
        "edge client connected 00000000deadbeef anna 203.0.113.5 native 1 2 0.5062 12.345 3 3700 1 1200 900 1440000 57600",
    ]
    assert {len(line.split("\t")) for line in lines} == {len(COLUMNS)}


@pytest.mark.parametrize(
    ("snapshot", "begins"),
    [
        ({**SNAPSHOT, "sessions": []}, "edge\tclient\tconnected\t-"),
        ({"name": "edge", "state": "crashed", "reason": "process 5 is gone"}, "edge\t-\tcrashed\t-"),
        ({**SNAPSHOT, "sessions": [{"id": "ab"}]}, "edge\t-\tunknown\t-"),
        ({"name": "e\tdge\n", "state": "do\x1bwn"}, "e\\u0009dge\\u000a\t-\tdo\\u001bwn\t-"),
    ],
)
def test_brief_has_a_line_for_what_has_no_session(snapshot: dict[str, Any], begins: str) -> None:
    (line,) = brief(snapshot)
    assert line.startswith(begins)
    assert len(line.split("\t")) == len(COLUMNS)


def test_the_columns_are_documented_in_their_order() -> None:
    document = (ROOT / "docs/operations.md").read_text()
    _, _, table = document.partition("`status --brief`")
    assert tuple(re.findall(r"^\| \d+ \| `(\w+)` \|", table, re.MULTILINE)) == COLUMNS


@pytest.mark.parametrize("height", [1, 2, 5, 8, 12, 24, 200])
@pytest.mark.parametrize("each_flow", [False, True])
def test_a_live_view_fits_the_terminal(height: int, *, each_flow: bool) -> None:
    servers = [{**SNAPSHOT, "name": name, "role": "server", "sessions": clients(40)} for name in ("one", "two")]
    lines = fit(servers, {}, 80, height, each_flow=each_flow)
    assert len(lines) <= height
    assert all(len(line) <= 80 for line in plain(lines).splitlines())


@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_view_knows_its_height(count: int, *, noted: bool) -> None:
    sessions = [{**one, "notes": ["a note"] * noted, "oversized": 0} for one in clients(count)]
    made = view({**SNAPSHOT, "sessions": sessions}, width=80)
    for most in range(-1, count + 2):
        assert made.height(most) == len(made.lines(most, 0)), most


def test_what_is_shown_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before: for each height that was tried, everything was made printable, sorted and laid out again."""
    prepared: list[str] = []

    def count(value: Any) -> Any:
        prepared.append(value["name"])
        return value

    monkeypatch.setattr(sys.modules[view.__module__], "made_printable", count)
    servers = [{**SNAPSHOT, "name": f"s{number}", "role": "server", "sessions": clients(50)} for number in range(9)]
    assert len(fit(servers, {}, 80, 24)) == 24
    assert prepared == [f"s{number}" for number in range(9)]


def test_a_live_view_says_what_is_left_out() -> None:
    server = {**SNAPSHOT, "role": "server", "sessions": clients(40)}
    text = plain(fit([server], {}, 80, 24)).splitlines()
    assert len(text) == 24
    shown = [line.split()[0] for line in text if line.startswith("  client")]
    assert text[-1] == f"  … {40 - len(shown)} more"
    assert len(shown) >= 16
    assert "40 sessions" in "\n".join(text), "totals are of all"
    assert plain(fit([server], {}, 80, 3)).splitlines()[-1].startswith("… ")
    assert "more" not in plain(fit([server], {}, 80, 60))
