"""Two pictures.  Every bar has its number beside it.

The colours are those of Okabe and Ito (2008), which the colour-blind tell apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.cells import CARRIERS, DIRECT, FIXED_RATE, MAIN, NATIVE, PYTHON, RELAY, Cell, Kind
from bench.report.results import Results

_COLOURS = {DIRECT: "#999999", RELAY: "#E69F00", NATIVE: "#0072B2", PYTHON: "#56B4E9"}
_HATCHES = {DIRECT: "", RELAY: "//", NATIVE: "", PYTHON: ".."}
_WIDTH, _ROW, _HEAD = 6.4, 0.2, 0.75
"""Inches: of a picture that can be read on a narrow screen; of a bar; of a panel's title and axis."""
_SIZES = ("64", "512", "1200", "1400")
_DPI = 150
_NUMBER = "{x:,.0f}"
"""Along an axis, also a logarithmic one."""


def plot(results: Results, path: Path) -> list[Path]:
    """The overview as ``path``, the sizes beside it; returns what was written."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 0.6})
    sizes = path.with_stem(f"{path.stem}-sizes")
    _overview(results, path)
    _by_size(results, sizes)
    return [path, sizes]


def _family(carrier: str) -> str:
    """All native carriers look alike, and all Python ones."""
    return carrier.partition(" ")[0].partition("@")[0]


def _overview(results: Results, path: Path) -> None:
    """For the usual load: rate, CPU time and round trip of each carrier."""
    from matplotlib import pyplot as plt

    panels = (
        (Kind.BEST, "mbit", "Highest rate with at most 1 % loss, Mbit/s (more is better)", "{:,.0f}"),
        (Kind.FIXED, "cpu", f"CPU seconds for 10⁹ bytes at {FIXED_RATE:,} datagrams/s (less is better)", "{:.1f}"),
        (Kind.IDLE, "p50", "Round trip, idle, µs: dot p50, line to p99 (less is better)", "{:,.0f}"),
        (Kind.HALF, "p50", "Round trip at half of the own highest rate, µs: p50, p99", "{:,.0f}"),
    )
    shown = [(panel, [c for c in CARRIERS if results.has(Cell(panel[0], c))]) for panel in panels]
    shown = [(panel, carriers) for panel, carriers in shown if carriers]
    heights = [_HEAD + _ROW * len(carriers) for _, carriers in shown] or [1.0]
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(_WIDTH, sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
    )
    for axis, ((kind, name, title, form), carriers) in zip(axes.flat, shown, strict=False):
        _bars(axis, results, [Cell(kind, carrier) for carrier in carriers], name, form)
        axis.set_title(title, loc="left", fontsize=9)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def _bars(axis: Any, results: Results, cells: list[Cell], name: str, form: str) -> None:
    """One bar a carrier.  Of a round trip a dot and a line, because a logarithmic scale has no zero."""
    for at, cell in enumerate(cells):
        found = results.spread(cell, name)
        if found is None:
            continue
        family = _family(cell.carrier)
        text, end = form.format(found.median), found.median
        if tail := results.spread(cell, "p99") if name == "p50" else None:
            axis.plot([found.median, tail.median], [at, at], color=_COLOURS[family], linewidth=3)
            axis.plot([found.median], [at], "o", color=_COLOURS[family], markeredgecolor="black", markersize=7)
            text, end = f"{text}, {form.format(tail.median)}", tail.median
        else:
            axis.barh(
                at, found.median, 0.75, color=_COLOURS[family], hatch=_HATCHES[family], edgecolor="white", linewidth=0
            )
        axis.annotate(text, (end, at), (6, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(cells)), [cell.carrier for cell in cells])
    axis.set_ylim(len(cells) - 0.4, -0.6)
    if name == "p50":
        axis.set(xscale="log", xlim=(10, axis.get_xlim()[1] * 8))
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    else:
        axis.margins(x=0.12)
    axis.xaxis.set_major_formatter(_NUMBER)


def _by_size(results: Results, path: Path) -> None:
    """Received at unlimited load, for each size; plain, and with UDP GSO on a logarithmic scale."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(_WIDTH, 6.4), layout="constrained")
    for axis, app in zip(axes, ("plain", "gso"), strict=True):
        for index, carrier in enumerate(MAIN):
            found = [results.spread(Cell(Kind.FLOOD, carrier, size, app=app), "received") for size in _SIZES]
            places = [at + (index - (len(MAIN) - 1) / 2) * 0.2 for at, one in enumerate(found) if one]
            rates = [one.median / 1e3 for one in found if one]
            axis.bar(places, rates, 0.19, label=carrier, color=_COLOURS[carrier], hatch=_HATCHES[carrier],
                     edgecolor="white", linewidth=0)  # fmt: skip
            for place, rate in zip(places, rates, strict=True):
                axis.annotate(
                    f"{rate:,.0f}", (place, rate), (0, 2), textcoords="offset points", ha="center", fontsize=7
                )
        what = "plain application" if app == "plain" else "application with UDP GSO (logarithmic)"
        axis.set_title(f"Received at unlimited load, {what}", loc="left", fontsize=9)
        axis.set_xticks(range(len(_SIZES)), [f"{int(size):,} bytes" for size in _SIZES])
        axis.set_ylabel("thousand datagrams/s")
        axis.margins(y=0.12)
        if app == "gso" and axis.patches:
            axis.set(yscale="log", ylim=(10, None))
        axis.yaxis.set_major_formatter(_NUMBER)
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, 1.25), ncols=len(MAIN), frameon=False, fontsize=8)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
