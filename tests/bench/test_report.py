"""What the benchmark says of its measurements."""

from __future__ import annotations

from pathlib import Path

from bench.carriers import THERE
from bench.cells import DIRECT, NATIVE, PYTHON, RELAY, Cell, Kind, matrix
from bench.report import results as files
from bench.report import tables
from bench.report.against import comparison, doubled
from bench.report.goals import goal_rows
from bench.report.results import Results, Round, Run

FLOOD = Cell(Kind.FLOOD, NATIVE)
FIRST, SECOND, THIRD = (Round("2026-01-02 03:04:05", turn) for turn in range(3))


def received(values: dict[str, list[float]], cell: Cell = FLOOD) -> Results:
    """Carrier → what it received in each round."""
    results = Results()
    for carrier, rates in values.items():
        for turn, rate in enumerate(rates):
            found = {"received": rate, "lost": 0.1, "mbit": 9.6, "cpu": 4.0, "p50": 1.0, "p99": 2.0, "p999": 3.0}
            results.add(cell.of(carrier), Round(FIRST.run, turn), found)
    return results


def test_ratios_are_of_one_round() -> None:
    results = received({NATIVE: [10.0, 40.0, 90.0], DIRECT: [10.0, 20.0]})
    assert results.ratios(FLOOD, FLOOD.of(DIRECT), "received") == [1.0, 2.0]
    other_run = Results()
    other_run.add(FLOOD, FIRST, {"received": 1.0})
    other_run.add(FLOOD.of(DIRECT), Round("another run", 0), {"received": 1.0})
    assert other_run.ratios(FLOOD, FLOOD.of(DIRECT), "received") == []


def test_a_goal_is_met_or_missed_by_the_median_of_the_rounds() -> None:
    results = received({NATIVE: [250.0, 90.0, 260.0], DIRECT: [100.0] * 3, RELAY: [130.0] * 3})
    rows = {(text, wanted): rest for text, wanted, *rest in goal_rows(results)}
    assert rows["unlimited load", "≥ 1 × direct"] == ["2.50", "0.90–2.60", "met"]
    assert rows["unlimited load", "≥ 2 × relay"] == ["1.92", "0.69–2.00", "**missed**"]
    assert rows["at most 1 % loss", "≥ 1.2 × direct"] == ["–", "–", "not measured"]


def test_nothing_is_lost_in_the_file(tmp_path: Path) -> None:
    results = received({NATIVE: [10.25, 40.0], DIRECT: [10.0]})
    results.runs.append(Run(FIRST.run, "make bench", "somewhere"))
    results.absent["native udp"] = "no such thing"
    files.save(results, tmp_path / "new" / "results.json")
    assert files.load(tmp_path / "new" / "results.json") == results


def everything() -> Results:
    results = Results(runs=[Run(FIRST.run, "make bench", "Linux")], absent={"native udp": "there is none"})
    for cell in matrix(quick=False):
        found = dict.fromkeys(
            ("received", "offered", "lost", "mbit", "cpu", "p50", "p99", "p999", "load", "resident",
             "server_wall", "server_cpu", "client_wall", "client_cpu"), 1234.5678)  # fmt: skip
        found["others"] = 0.02
        results.add(cell, FIRST, found)
    return results


def test_every_table_has_as_many_cells_as_its_head() -> None:
    text = tables.render(everything())
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) >= 10
    for head, *rows in blocks:
        assert {row.count("|") for row in rows} == {head.count("|")}, head
    assert "Every number was measured once" in text
    assert "Not measured: native udp: there is none." in text
    assert "Others used 2% of the machine meanwhile, at most 2%." in " ".join(text.split())
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    assert max(map(len, prose)) <= 120


def test_goals_fit_a_terminal() -> None:
    assert max(map(len, tables.goal_lines(everything()))) <= 80


def test_the_report_replaces_only_what_is_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.write_between_markers(page, "new\n")
    assert page.read_text() == f"before\n{tables.BEGIN}\nnew\n{tables.END}\nafter\n"


def test_two_checkouts_are_compared_round_by_round() -> None:
    results = received({PYTHON: [10.0, 20.0, 30.0], PYTHON + THERE: [10.0, 25.0, 20.0]})
    (row, _) = comparison(results).splitlines()[2:]
    assert row == "| flood, 1,200 | python | received | 20 | 20 | 1.00 | 0.80–1.50 |"


def test_each_cell_is_followed_by_the_other_checkouts() -> None:
    assert doubled([FLOOD]) == [FLOOD, FLOOD.of(NATIVE + THERE)]


def test_the_spread_of_the_rounds_is_told() -> None:
    text = tables.render(received({NATIVE: [90.0, 100.0, 110.0], DIRECT: [100.0] * 3}))
    assert "median of 3 rounds" in text
    assert "| 1,200 | native | 0.1 | 10% | 10 | 1.00 | – | 10.0% | 4.00 |" in text
