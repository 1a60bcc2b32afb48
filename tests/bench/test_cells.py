"""The cells of the benchmark: their names, and that each goal can be judged from them."""

from __future__ import annotations

import pytest

from bench import cells
from bench.__main__ import arguments, command_line, wanted
from bench.cells import Cell, Kind, chosen, from_name, matrix
from bench.report.goals import GOALS
from bench.report.results import Found, Results, Round

FULL, QUICK = matrix(quick=False), matrix(quick=True)
FIELDS = ("received", "lost", "cpu", "mbit", "p50", "p99", "p999", "resident")


def full_results(*carriers: str, only: list[Cell] | None = None) -> Results:
    """Every cell once, every number 1."""
    results = Results()
    found: Found = dict.fromkeys(FIELDS, 1.0)
    for cell in only or FULL:
        if not carriers or cell.carrier in carriers:
            results.add(cell, Round("now", 0), found)
    return results


def test_a_name_leads_back_to_its_cell() -> None:
    assert [from_name(cell.name) for cell in FULL] == FULL
    assert Cell(Kind.BEST, cells.NATIVE_AES).name == "best/native aes/1200/1/plain/up"


def test_no_cell_is_measured_twice() -> None:
    assert len(set(FULL)) == len(FULL)
    assert set(QUICK) < set(FULL)


def test_the_matrix_has_what_every_goal_needs() -> None:
    assert [goal.text for goal in GOALS if not goal.values(full_results())] == []


@pytest.mark.parametrize("kind", list(Kind))
def test_every_tunnel_is_measured_in_every_way(kind: Kind) -> None:
    assert {cell.carrier for cell in FULL if cell.kind is kind} >= set(cells.TUNNELS)


def test_cells_are_chosen_by_the_beginning_of_their_name() -> None:
    best = chosen(FULL, ["best/*/1200/1/plain/up"])
    assert [cell.carrier for cell in best] == list(cells.CARRIERS)
    assert {cell.kind for cell in chosen(FULL, ["idle", "half/"])} == {Kind.IDLE, Kind.HALF}
    assert chosen(FULL, []) == FULL
    assert chosen(FULL, ["nothing"]) == []


def test_the_mean_of_the_mix_is_the_mean_of_the_mix() -> None:
    parts = [tuple(map(int, part.split("x"))) for part in cells.MIX.split(",")]
    assert sum(size * count for size, count in parts) // sum(count for _, count in parts) == cells.MIX_MEAN


def test_the_command_that_is_told_names_no_file() -> None:
    assert command_line(["--quick", "--out", "/home/me/x.md", "--only", "flood/*/1200/"]) == (
        "python -m bench --quick --only 'flood/*/1200/'"
    )
    assert command_line(["--json", "x"]) == "make bench"


def test_another_checkout_is_compared_with_pythons_pump() -> None:
    names = [cell.name for cell in wanted(arguments(["--against", "there"]))]
    assert names[:2] == ["flood/python/1200/1/plain/up", "flood/python@there/1200/1/plain/up"]
    assert not [name for name in names if "python" not in name]
    chosen_cells = wanted(arguments(["--against", "there", "--only", "idle/native"]))
    assert {cell.carrier.removesuffix("@there") for cell in chosen_cells} == {
        name for name in cells.TUNNELS if name.startswith("native")
    }
