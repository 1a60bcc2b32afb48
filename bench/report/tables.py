"""The results as Markdown: medians, the spread of the rounds, ratios to the references."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench.cells import (
    CARRIERS,
    DIRECT,
    FIXED_RATE,
    MIX_MEAN,
    RELAY,
    TUNNELS,
    USUAL,
    Cell,
    Kind,
)
from bench.report.goals import goal_rows
from bench.report.results import Results, spread

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
NONE = "–"
WIDTH = 110


def render(results: Results) -> str:
    """Everything that stands between the markers."""
    parts = [circumstances(results), "### Goals", goal_table(results)]
    for kind, title in (
        (Kind.BEST, "Highest rate with at most 1 % loss"),
        (Kind.FLOOD, "Unlimited load"),
    ):
        for name, belongs in LOADS.items():
            cells = [cell for cell in results.samples if cell.kind is kind and belongs(cell)]
            if cells:
                parts += [f"### {title}: {name}", rate_table(results, cells)]
    for title, table in (
        ("CPU time for 10⁹ bytes, 1,200 bytes a datagram", cpu_table(results)),
        ("Round trips, 1,200 bytes, 1,000 a second", trip_table(results)),
        ("Memory, and time to start", own_table(results)),
    ):
        parts += [f"### {title}", table] if table else []
    return "\n\n".join(parts) + "\n"


LOADS: dict[str, Callable[[Cell], bool]] = {
    "plain application": lambda c: (
        (c.app, c.direction, c.conversations) == ("plain", "up", 1) and c.size not in {"mix", str(MIX_MEAN)}
    ),
    "application with UDP GSO and GRO": lambda c: c.app == "gso",
    "many conversations, mix of sizes": lambda c: c.conversations > 1 or c.size in {"mix", str(MIX_MEAN)},
    "down, and both ways at once": lambda c: c.direction != "up",
}
"""Title of a table → which cells it has."""


def circumstances(results: Results) -> str:
    """Where, by which commands, how often; how much others disturbed."""
    commands = "; ".join(dict.fromkeys(f"`{run.command}`" for run in results.runs))
    where = "; ".join(dict.fromkeys(run.where for run in results.runs))
    rounds = sorted(len(found) for found in results.samples.values()) or [0]
    often = f"{rounds[0]} to {rounds[-1]} rounds" if rounds[0] < rounds[-1] else f"{rounds[0]} rounds"
    how_often = (
        f"Every number is the median of {often}; ± is half of the distance between the extremes."
        if rounds[-1] > 1
        else "Every number was measured once: how much it varies is not known."
    )
    noise = spread([one["others"] for found in results.samples.values() for one in found.values() if "others" in one])
    disturbed = f"Others used {noise.median:.0%} of the machine meanwhile, at most {noise.high:.0%}." if noise else ""
    how = f"{where}. {how_often} {disturbed}"
    lines = [f"Made by {commands}.", how]
    lines += [f"Not measured: {name}: {why}." for name, why in results.absent.items()]
    return "\n\n".join(textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False) for line in lines)


def goal_table(results: Results) -> str:
    """Goal → found → met or not."""
    return table("goal (native, 1,200 bytes) | wanted | found | rounds | ", "llrrl", goal_rows(results))


def goal_lines(results: Results) -> list[str]:
    """The same for a terminal of 80 columns."""
    return [
        f"{text:<43} {wanted:<15} {found:>6}  {verdict.strip('*')}"
        for text, wanted, found, _, verdict in goal_rows(results)
    ]


def load_label(cell: Cell) -> str:
    """The load, in a few words."""
    size = "mix" if cell.size == "mix" else f"{int(cell.size):,}"
    many = f", {cell.conversations:,} conv." if cell.conversations > 1 else ""
    return size + many + (f", {cell.direction}" if cell.direction != "up" else "")


def rate_table(results: Results, cells: Iterable[Cell]) -> str:
    """Datagrams a second, and what they cost."""
    rows = []
    for cell in in_order(cells):
        received = results.spread(cell, "received")
        if received is None:
            continue
        rows.append((
            load_label(cell), cell.carrier,
            f"{received.median / 1e3:,.1f}", f"{received.share:.0%}" if received.rounds > 1 else NONE,
            median(results, cell, "mbit", ",.0f"),
            *(ratio(results, cell, cell.of(other), "received") for other in (DIRECT, RELAY)),
            median(results, cell, "lost", ".1%"),
            NONE if cell.carrier == DIRECT else median(results, cell, "cpu", ".2f"),
        ))  # fmt: skip
    return table("bytes | carrier | kpps | ± | Mbit/s | × direct | × relay | lost | CPU s/GB", "rlrrrrrrr", rows)


def cpu_table(results: Results) -> str:
    """At the fixed rate, and at the relay's highest; "" = not measured."""
    rows = []
    for carrier in CARRIERS:
        fixed, busy = Cell(Kind.FIXED, carrier), Cell(Kind.RELAY_BEST, carrier)
        if results.has(fixed) or results.has(busy):
            rows.append((carrier, *(
                text for cell in (fixed, busy)
                for text in (median(results, cell, "cpu", ".2f"), ratio(results, cell, cell.of(RELAY), "cpu"),
                             median(results, cell, "lost", ".1%"))
            )))  # fmt: skip
    head = f"carrier | {FIXED_RATE:,}/s: s/GB | × relay | lost | relay's best: s/GB | × relay | lost"
    return table(head, "lrrrrrr", rows) if rows else ""


def trip_table(results: Results) -> str:
    """Idle, and at half of the own highest rate; "" = not measured."""
    rows = []
    for carrier in CARRIERS:
        idle, half = Cell(Kind.IDLE, carrier), Cell(Kind.HALF, carrier)
        if results.has(idle) or results.has(half):
            quantiles = [
                median(results, cell, name, ",.0f") for cell in (idle, half) for name in ("p50", "p99", "p999")
            ]
            load = results.spread(half, "load")
            rows.append((carrier, *quantiles[:3], ratio(results, idle, idle.of(RELAY), "p50"),
                         f"{load.median / 1e3:.0f}" if load else NONE, *quantiles[3:]))  # fmt: skip
    head = "carrier | idle: p50 µs | p99 | p99.9 | p50 × relay | half: kpps | p50 µs | p99 | p99.9"
    return table(head, "lrrrrrrrr", rows) if rows else ""


def own_table(results: Results) -> str:
    """What a tunnel needs, whatever it carries; "" = not measured."""
    rows = []
    for carrier in TUNNELS:
        memory, start = Cell(Kind.MEMORY, carrier), Cell(Kind.START, carrier)
        if results.has(memory) or results.has(start):
            times = [
                median(results, start, f"{role}_{kind}", ".2f")
                for role in ("server", "client")
                for kind in ("wall", "cpu")
            ]
            found = [results.spread(memory, kind) for kind in ("resident", "proportional")]
            rows.append((carrier, *(f"{one.median / 1e6:.0f}" if one else NONE for one in found), *times))
    head = (
        "carrier | memory of both, MB | shared pages once | up of the server, s | CPU s | up of the client, s | CPU s"
    )
    return table(head, "lrrrrrr", rows) if rows else ""


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """Loads as they come, carriers within a load as ``CARRIERS`` has them."""
    sizes = {"mix": USUAL + 1e6}
    return sorted(
        cells,
        key=lambda c: (c.conversations, c.direction, sizes.get(c.size) or int(c.size), _rank(c.carrier)),
    )


def _rank(carrier: str) -> tuple[int, str]:
    return (CARRIERS.index(carrier) if carrier in CARRIERS else len(CARRIERS), carrier)


def median(results: Results, cell: Cell, name: str, form: str) -> str:
    """As text; ``–`` = not measured."""
    found = results.spread(cell, name)
    return NONE if found is None else f"{found.median:{form}}"


def ratio(results: Results, cell: Cell, reference: Cell, name: str) -> str:
    """The median of the rounds' ratios; ``–`` = never measured in one round."""
    found = spread(results.ratios(cell, reference, name))
    return NONE if found is None else f"{found.median:.2f}"


def table(head: str, sides: str, rows: Iterable[Sequence[str]]) -> str:
    """Markdown; ``sides`` has ``l`` or ``r`` for each column."""
    rule = "|".join("---:" if side == "r" else "---" for side in sides)
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)])


def write_between_markers(path: Path, text: str) -> None:
    """Replace what stands between the markers in ``path``; without markers, append it."""
    old = path.read_text() if path.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    if BEGIN not in old or END not in old:
        old += f"\n{BEGIN}\n{END}\n"
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")
