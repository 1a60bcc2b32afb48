"""What the measurements say: medians, tables against the references and the goals, a plot.

No measuring here, and no opinion: a goal that was missed is printed as missed.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeAlias

from bench.measure import Load, Samples, Trip

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
TUNNEL = "rsock-nf none"


class Cell(NamedTuple):
    """What was measured: a carrier under one load."""

    carrier: str
    size: int
    """Payload bytes of a datagram."""
    gso: bool
    """The application uses UDP GSO and GRO."""
    rate: int
    """Offered datagrams a second; 0 = as many as the sender can."""


Results: TypeAlias = dict[Cell, Samples]


def median_load(results: Results, cell: Cell) -> Load | None:
    """Field by field; None = not measured."""
    samples = results[cell].loads if cell in results else []
    if not samples:
        return None
    return Load(
        offered=median(s.offered for s in samples),
        received=median(s.received for s in samples),
        lost=median(s.lost for s in samples),
        duplicates=max(s.duplicates for s in samples),
        tunnel_cpu=median(s.tunnel_cpu for s in samples),
        machine_cpu=median(s.machine_cpu for s in samples),
    )


def median_trip(results: Results, cell: Cell) -> Trip | None:
    """Field by field; None = not measured."""
    samples = results[cell].trips if cell in results else []
    if not samples:
        return None
    return Trip(median(s.p50 for s in samples), median(s.p99 for s in samples), median(s.lost for s in samples))


def render(results: Results, goal_size: int, paced: int, other_load: float) -> str:
    """Everything as Markdown; ``other_load`` is the share of the machine that others used."""
    parts = [
        _circumstances(max(len(s.loads) for s in results.values()), other_load),
        "### Unlimited load, plain application (sendmmsg, recvmmsg)",
        _load_table(results, gso=False, rate=0),
        "### Unlimited load, application with UDP GSO and GRO",
        _load_table(results, gso=True, rate=0),
        f"### {paced:,} datagrams a second, plain application",
        _load_table(results, gso=False, rate=paced),
        f"### Round trip, {goal_size:,} bytes, 1,000 a second, otherwise idle",
        _trip_table(results),
    ]
    goals = goal_lines(results, goal_size)
    if goals:
        parts += ["### Goals", "| goal | wanted | found | |\n|---|---|---|---|\n" + "\n".join(goals)]
    return "\n\n".join(parts) + "\n"


def goal_lines(results: Results, size: int) -> list[str]:
    """One table row for each goal that can be judged from what was measured."""
    plain = {name: median_load(results, Cell(name, size, False, 0)) for name in ("direct", "relay", TUNNEL)}
    fast = median_load(results, Cell(TUNNEL, size, True, 0))
    trips = [median_trip(results, Cell(name, size, False, 0)) for name in ("relay", TUNNEL)]
    direct, relay, ours = plain["direct"], plain["relay"], plain[TUNNEL]
    if not (direct and relay and ours):
        return []
    rows = [
        _goal("received, plain, against direct", ours.received / direct.received, ">=", 0.7),
        _goal("received, plain, against relay", ours.received / relay.received, ">=", 1.6),
        _goal("tunnel CPU per GB against relay", ours.tunnel_cpu / relay.tunnel_cpu, "<=", 0.7),
    ]
    if fast:
        rows.insert(2, _goal("received, UDP GSO, against plain direct", fast.received / direct.received, ">=", 1.8))
    if trips[0] and trips[1]:
        rows.append(_goal("round trip p50 against relay", trips[1].p50 / trips[0].p50, "<=", 1.3))
    return rows


def as_json(results: Results) -> list[dict[str, Any]]:
    """Every single measurement, for whoever wants other statistics."""
    return [{**cell._asdict(), **asdict(samples)} for cell, samples in results.items()]


def write_between_markers(path: Path, text: str, command: str) -> None:
    """Replace what stands between the markers in ``path``; without markers, append it."""
    old = path.read_text() if path.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    if BEGIN not in old or END not in old:
        old += f"\n{BEGIN}\n{END}\n"
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{BEGIN}\nMade by `{command}`.\n\n{text}{END}{after}")


def plot(results: Results, path: Path, goal_size: int) -> None:
    """Bars: received rate for each size, plain and with UDP GSO, and the carriers' CPU time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), width_ratios=(3, 3, 2), layout="constrained")
    for axis, gso in zip(axes, (False, True), strict=False):
        _plot_rates(axis, results, gso=gso)
    names = [c.carrier for c in results if c.size == goal_size and not c.gso and not c.rate and c.carrier != "direct"]
    values = [found.tunnel_cpu for n in names if (found := median_load(results, Cell(n, goal_size, False, 0)))]
    axes[2].barh(names, values, color=[_COLOURS[name] for name in names])
    axes[2].invert_yaxis()
    axes[2].set(title=f"Carrier's CPU, plain, {goal_size:,} bytes", xlabel="CPU seconds per GB received")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(_COLOURS), frameon=False)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


_COLOURS = {
    "direct": "#9aa5b1",
    "relay": "#d99a3d",
    TUNNEL: "#2a6fbb",
    "rsock-nf none, udp": "#7db4e6",
    "rsock-nf aes-256-gcm": "#5aa46f",
    "rsock-nf chacha20-poly1305": "#a05fae",
}


def _plot_rates(axis: Any, results: Results, *, gso: bool) -> None:
    sizes = sorted({cell.size for cell in results if cell.gso == gso and not cell.rate})
    names = [name for name in _COLOURS if any(cell.carrier == name for cell in results)]
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        found = [(at, median_load(results, Cell(name, size, gso, 0))) for at, size in enumerate(sizes)]
        bars = [(at + (index - (len(names) - 1) / 2) * width, load.received / 1e3) for at, load in found if load]
        axis.bar([at for at, _ in bars], [rate for _, rate in bars], width, label=name, color=_COLOURS[name])
    kind = "application with UDP GSO" if gso else "plain application"
    axis.set(title=f"Received, {kind}", xlabel="datagram, bytes", ylabel="thousand datagrams a second")
    axis.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    if gso:
        axis.set(
            yscale="log", ylim=(10, None)
        )  # direct, where nothing but a pointer moves, is an order of magnitude away


def _load_table(results: Results, *, gso: bool, rate: int) -> str:
    head = [
        "| bytes | carrier | offered kpps | received kpps | loss | Mbit/s | × direct | × relay | tunnel CPU s/GB | machine CPU s/GB |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rows = []
    for cell in sorted((c for c in results if c.gso == gso and c.rate == rate), key=lambda c: c.size):
        load = median_load(results, cell)
        if load is None:
            continue
        ratios = [
            _ratio(load, median_load(results, cell._replace(carrier=name)), lambda found: found.received)
            for name in ("direct", "relay")
        ]
        own = "–" if cell.carrier == "direct" else f"{load.tunnel_cpu:.2f}"
        rows.append(
            f"| {cell.size:,} | {cell.carrier} | {load.offered / 1e3:.1f} | {load.received / 1e3:.1f} | {load.lost:.1%} "
            f"| {load.received * cell.size * 8 / 1e6:,.0f} | {ratios[0]} | {ratios[1]} | {own} | {load.machine_cpu:.2f} |"
        )
    return "\n".join(head + rows)


def _trip_table(results: Results) -> str:
    rows = ["| carrier | p50 µs | p99 µs | lost | p50 × relay |", "|---|---:|---:|---:|---:|"]
    for cell in results:
        trip = median_trip(results, cell)
        reference = median_trip(results, cell._replace(carrier="relay"))
        if trip and reference:
            rows.append(
                f"| {cell.carrier} | {trip.p50:.0f} | {trip.p99:.0f} | {trip.lost:.1%} | {trip.p50 / reference.p50:.2f} |"
            )
    return "\n".join(rows)


def _ratio(load: Load, reference: Load | None, field: Callable[[Load], float]) -> str:
    return f"{field(load) / field(reference):.2f}" if reference and field(reference) else "–"


def _goal(name: str, found: float, sense: str, wanted: float) -> str:
    met = found >= wanted if sense == ">=" else found <= wanted
    return f"| {name} | {'≥' if sense == '>=' else '≤'} {wanted:g} | {found:.2f} | {'met' if met else '**missed**'} |"


def _circumstances(repetitions: int, other_load: float) -> str:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    cpus = f"{len(models)} × {models[0]}" if models else platform.machine()
    where = f"Linux {platform.release()}, Python {platform.python_version()}, {cpus}"
    noise = f"others used {other_load:.0%} of the machine before or after"
    return f"{where}; every number is the median of {repetitions} measurements; {noise}."
