"""Two checkouts, cell by cell: what this one finds ÷ what the other one finds, in the same round."""

from __future__ import annotations

from bench.carriers import THERE
from bench.cells import Cell, Kind
from bench.report.results import Results, spread
from bench.report.tables import in_order, load_label, table

NAMES = {
    Kind.BEST: ("received",),
    Kind.FLOOD: ("received", "cpu"),
    Kind.FIXED: ("cpu",),
    Kind.RELAY_BEST: ("cpu",),
    Kind.IDLE: ("p50", "p99"),
    Kind.HALF: ("p50", "p99"),
    Kind.START: ("server_wall", "client_wall"),
    Kind.MEMORY: ("resident",),
}
"""What of a cell is compared."""


def comparison(results: Results) -> str:
    """A row for each number of each cell that both have."""
    rows = []
    for cell in in_order(cell for cell in results.samples if not cell.carrier.endswith(THERE)):
        other = cell.of(cell.carrier + THERE)
        for name in NAMES[cell.kind]:
            found = spread(results.ratios(cell, other, name))
            here, there = results.spread(cell, name), results.spread(other, name)
            if found and here and there:
                rows.append((
                    f"{cell.kind}, {load_label(cell)}{', GSO' if cell.app == 'gso' else ''}", cell.carrier, name,
                    f"{here.median:,.4g}", f"{there.median:,.4g}",
                    f"{found.median:.2f}", f"{found.low:.2f}–{found.high:.2f}",
                ))  # fmt: skip
    return table("load | carrier | number | here | there | here ÷ there | rounds", "lllrrrr", rows)


def doubled(cells: list[Cell]) -> list[Cell]:
    """Each cell, then the same of the other checkout."""
    return [one for cell in cells for one in (cell, cell.of(cell.carrier + THERE))]
