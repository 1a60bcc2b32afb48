"""Makes the tables of docs/reliability.md: ``make faults``, as root.

``python -m tests.faults nat_flush`` runs one fault and prints its rows, and changes no file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rsock_nf.lab.netns import CommandFailed
from tests.faults.field import AES, VARIANTS, Variant
from tests.faults.measure import Outcome, measure
from tests.faults.scenarios import BY_NAME, SCENARIOS
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


def main() -> int:
    """See the module.  Exits with 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="faults; none = all of them, and the document is written")
    parser.add_argument("--variant", choices=[variant.name for variant in VARIANTS], help="only this kind of tunnel")
    parser.add_argument("--soak", type=float, default=0, metavar="MIN", help="minutes of a run with many faults")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BY_NAME]
    if unknown:
        parser.error(f"no such fault: {', '.join(unknown)}; there are: {', '.join(BY_NAME)}")
    wrong: list[str] = []
    whole = not arguments.names and not arguments.variant
    rows = [HEADING]
    if arguments.names or not arguments.soak or whole:
        rows += [
            _measured(scenario.name, variant, wrong)
            for scenario in [BY_NAME[name] for name in arguments.names] or SCENARIOS
            for variant in scenario.variants
            if arguments.variant in (None, variant.name)
        ]
        if whole:
            DOCUMENT.write_text(replace(DOCUMENT.read_text(), "faults", rows))
    if arguments.soak:
        found = soak(Variant("all", AES), 60 * arguments.soak, lambda name: print(f"soak: {name}", flush=True))  # noqa: T201
        print(soaked_row(found))  # noqa: T201
        wrong += [f"soak: {text}" for text in found.offences()]
        if whole:
            table = ["| tunnel | how long | lost | misdelivered | corrupted | twice | descriptors | MB |",
                     "|---|---|--:|--:|--:|--:|---|---|", soaked_row(found)]  # fmt: skip
            DOCUMENT.write_text(replace(DOCUMENT.read_text(), "soak", table))
    print("\n".join(wrong) or "all as it should be")  # noqa: T201
    return bool(wrong)


def _measured(name: str, variant: Variant, wrong: list[str]) -> str:
    try:
        outcome = measure(BY_NAME[name], variant)
    except (AssertionError, CommandFailed) as error:
        wrong.append(f"{name}, {variant.name}: {error}")
        return f"| **{name}** | {variant.name} | | | | | | not measured | |"
    line = row(outcome)
    print(line, flush=True)  # noqa: T201 - it takes an hour
    wrong += [f"{name}, {variant.name}: {text}" for text in outcome.faults()]
    return line


if __name__ == "__main__":
    sys.exit(main())
