"""``make bench``: the tunnel against direct UDP and against a C relay, over the same kind of veth pair.

    python -m bench [--quick] [--rounds N] [--seconds S] [--only CELLS] [--merge] [--out FILE.md]
    python -m bench --against DIRECTORY [--only CELLS] [--rounds N]
    python -m bench --list

Needs root and a C compiler, and a machine with nothing else to do.  A full run takes about an hour.  It can be made in
parts: ``--only 'flood/*/1200/'`` measures some cells, ``--merge`` adds to the results that there are.  Choose cells by
kind and load, with all carriers: ratios are made within one round only.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import cells as matrix
from bench.carriers import OUT, Carrier, carrier, other_checkout
from bench.cells import Cell, Kind
from bench.report import against, results, tables
from bench.report.plots import plot
from bench.report.results import Results, Round, Run
from bench.rounds import Rounds
from rsock_nf.lab.netns import CommandFailed


def arguments(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the usual load only, one short round")
    parser.add_argument("--rounds", type=int, help="3, or 1 with --quick; 0 writes the report again")
    parser.add_argument("--seconds", type=float, help="of one measurement: 3, or 1 with --quick")
    parser.add_argument("--only", nargs="+", default=[], metavar="CELLS", help="names as --list prints them; * and ?")
    parser.add_argument("--merge", action="store_true", help="add to the results in --json")
    parser.add_argument("--list", action="store_true", help="print the names of all cells, and measure nothing")
    parser.add_argument("--against", type=Path, metavar="DIRECTORY", help="compare with another checkout")
    parser.add_argument("--json", type=Path, help="every single measurement (bench/out/results.json)")
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT / "performance.md",
        help="Markdown file whose part between the bench markers is replaced; the plots go beside it (.png)",
    )
    found = parser.parse_args(words)
    found.json = found.json or OUT / ("against.json" if found.against else "results.json")
    found.rounds = (1 if found.quick else 3) if found.rounds is None else found.rounds
    found.seconds = found.seconds or (1.0 if found.quick else 3.0)
    return found


def wanted(options: argparse.Namespace) -> list[Cell]:
    """The cells to measure.  With ``--against`` Python's, unless cells are named: they must not get slower."""
    everything = matrix.matrix(quick=options.quick)
    if not options.against:
        return matrix.chosen(everything, options.only)
    tunnels = [cell for cell in everything if cell.carrier in matrix.TUNNELS]
    cells = matrix.chosen(tunnels, options.only or [f"*/{matrix.PYTHON}/"])
    # The relay's rate is not measured here.
    return against.doubled([cell for cell in cells if cell.kind is not Kind.RELAY_BEST])


def open_carriers(
    stack: contextlib.ExitStack, cells: list[Cell], found: Results, there: Path | None
) -> dict[str, Carrier]:
    """All of them up at once; idle ones cost next to nothing.  One that does not come up is noted in ``found``."""
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rsock-nf-bench-")))
    names = {cell.carrier: None for cell in cells} | (
        {matrix.RELAY: None} if any(cell.kind is Kind.RELAY_BEST for cell in cells) else {}
    )
    made = {}
    for name in names:
        try:
            made[name] = stack.enter_context(carrier(name, scratch / name, there))
            found.absent.pop(name, None)
        except CommandFailed as error:
            why = str(error).rpartition("rsock-nf: ")[2]
            found.absent[name] = why
            sys.stderr.write(f"{name} is not measured: {why}\n")
    return made


def measure(options: argparse.Namespace, found: Results, command: str) -> None:
    """All rounds."""
    cells = wanted(options)
    if not cells:
        raise CommandFailed(f"--only {' '.join(options.only)}: no such cell: see python -m bench --list")
    subprocess.run(["make", "-s", "-C", str(Path(__file__).parent)], check=True)
    began = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.ExitStack() as stack:
        carriers = open_carriers(stack, cells, found, options.against)
        found.runs.append(Run(began, command, where()))
        rounds = Rounds(carriers, found, options.seconds, lambda: results.save(found, options.json))
        for turn in range(options.rounds):
            rounds.run(cells, Round(began, turn))


def where() -> str:
    """System, Python, processors."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    cpus = f"{len(models)} × {models[0]}" if models else platform.machine()
    return f"Linux {platform.release()}, Python {platform.python_version()}, {cpus}"


def report(options: argparse.Namespace, found: Results) -> None:
    """Print and write what was found."""
    if options.against:
        print(against.comparison(found))
        return
    print("\n".join(tables.goal_lines(found)))
    tables.write_between_markers(options.out, tables.render(found))
    pictures = plot(found, options.out.with_suffix(".png"))
    for path in (options.json, options.out, *pictures):
        print(f"written: {path}")


def command_line(words: list[str]) -> str:
    """How to make the same numbers again, wherever they are written."""
    files = {at + step for at, word in enumerate(words) if word in {"--json", "--out"} for step in (0, 1)}
    kept = [word for at, word in enumerate(words) if at not in files]
    return "make bench" if not kept else f"python -m bench {shlex.join(kept)}"


def main() -> int:
    """Measure, print, and write."""
    words = sys.argv[1:]
    options = arguments(words)
    if options.list:
        print("\n".join(cell.name for cell in wanted(options)))
        return 0
    try:
        if options.against:
            other_checkout(options.against)
        found = results.load(options.json) if options.merge and options.json.exists() else Results()
        if options.rounds:
            measure(options, found, command_line(words))
        report(options, found)
    except CommandFailed as error:
        sys.exit(f"bench: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
