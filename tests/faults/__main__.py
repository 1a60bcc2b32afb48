"""Makes the tables of docs/reliability.md: ``make faults``, as root.

``python -m tests.faults nat_flush`` runs one fault and prints its rows, and changes no file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Collection, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.faults.field import AES, VARIANTS, Variant
from tests.faults.measure import Outcome, attempt
from tests.faults.scenarios import BY_NAME, SCENARIOS, Scenario
from tests.faults.soak import Soaked, soak

DOCUMENT = Path(__file__).parents[2] / "docs/reliability.md"
HEADING = (
    "| fault | tunnel | lost ↑ | lost ↓ | out, s | out after it, s | all flows after, s | recovered | `status` said |\n"
    "|---|---|--:|--:|--:|--:|--:|---|---|"
)


def row(outcome: Outcome) -> str:
    """One line of the table."""
    up, down, scenario = outcome.up, outcome.down, outcome.scenario
    flows = "never" if outcome.flows_after is None else f"{outcome.flows_after:.1f}"
    recovered = "yes" if outcome.recovered else f"{outcome.flows} of {outcome.variant.flows} flows"
    strange = [
        f"{count} {word}"
        for count, word in (
            (outcome.misdelivered, "misdelivered"), (outcome.corrupted, "corrupted"), (outcome.doubled, "twice"),
        ) if count
    ]  # fmt: skip
    said = "; ".join(text.replace("|", "\\|") for text in outcome.said[:2])
    cells = [
        f"**{scenario.name}**: {scenario.what}", outcome.variant.name, f"{up.lost} of {up.sent}",
        f"{down.lost} of {down.sent}", f"{up.out:.1f} / {down.out:.1f}", f"{up.out_after:.1f} / {down.out_after:.1f}",
        flows, ", ".join([recovered, *strange]), said,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def soaked_row(found: Soaked) -> str:
    """One line of the second table."""
    cells = [
        found.variant.name, f"{found.seconds / 60:.0f} min, {found.faults.total()} faults",
        f"{found.lost:,} of {found.sent:,}", str(found.misdelivered), str(found.corrupted), str(found.doubled),
        ", ".join(found.descriptors), ", ".join(found.resident),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def replace(text: str, name: str, lines: list[str]) -> str:
    """``text`` with other lines between the marks of this name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return "\n".join([before + begin, *lines, end + after])


def judged(scenario: Scenario, variant: Variant, found: Outcome | str) -> tuple[str, list[str]]:
    """The line of one run, and what is not as it should be."""
    if isinstance(found, str):
        line = f"| **{scenario.name}**: {scenario.what} | {variant.name} | | | | | | not measured | |"
        return line, [f"{scenario.name}, {variant.name}: {found}"]
    return row(found), [f"{scenario.name}, {variant.name}: {text}" for text in found.faults()]


def table(scenarios: Iterable[Scenario], variants: Collection[Variant], jobs: int) -> tuple[list[str], list[str]]:
    """The first table, and what is not as it should be.  ``jobs``: runs at a time."""
    rows, wrong = [HEADING], []
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [
            (scenario, variant, pool.submit(attempt, scenario.name, variant))
            for scenario in scenarios
            for variant in scenario.variants
            if variant in variants
        ]
        for scenario, variant, run in runs:
            line, found = judged(scenario, variant, run.result())
            print(line, flush=True)  # noqa: T201 - it takes an hour
            rows.append(line)
            wrong += found
    return rows, wrong


def soaked(minutes: float) -> tuple[list[str], list[str]]:
    """The second table, and what is not as it should be."""
    found = soak(Variant("all", AES), 60 * minutes, lambda name: print(f"soak: {name}", flush=True))  # noqa: T201
    print(soaked_row(found))  # noqa: T201
    heading = (
        "| tunnel | how long | lost | misdelivered | corrupted | twice | descriptors | MB |\n"
        "|---|---|--:|--:|--:|--:|---|---|"
    )
    return [heading, soaked_row(found)], [f"soak: {text}" for text in found.offences()]


def main() -> int:
    """See the module.  Exits with 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="faults; none = all of them, and the document is written")
    parser.add_argument("--variant", choices=[variant.name for variant in VARIANTS], help="only this kind of tunnel")
    parser.add_argument("--soak", type=float, default=0, metavar="MIN", help="minutes of a run with many faults")
    parser.add_argument("--only-soak", action="store_true", help="no single faults")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (1)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BY_NAME]
    if unknown:
        parser.error(f"no such fault: {', '.join(unknown)}; there are: {', '.join(BY_NAME)}")
    wrong: list[str] = []
    if not arguments.only_soak:
        variants = [variant for variant in VARIANTS if arguments.variant in (None, variant.name)]
        scenarios = [BY_NAME[name] for name in arguments.names] or SCENARIOS
        rows, found = table(scenarios, variants, arguments.jobs)
        wrong += found
        if not arguments.names:
            DOCUMENT.write_text(replace(DOCUMENT.read_text(), "faults", rows))
    if arguments.soak:
        rows, found = soaked(arguments.soak)
        wrong += found
        DOCUMENT.write_text(replace(DOCUMENT.read_text(), "soak", rows))
    print("\n".join(wrong) or "all as it should be")  # noqa: T201
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
