"""Makes the tables of docs/reliability.md: ``make faults``, as root.

``python -m tests.faults nat_flush`` runs one fault and prints its rows, and changes no file.  With ``--write`` its rows
take the place of what the table has of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults import document
from tests.faults.field import AES, Variant
from tests.faults.measure import Outcome, attempt
from tests.faults.scenarios import BY_NAME, Scenario
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
    if scenario.bounds.delay is not None:
        strange.append(f"99 % within {up.delay:.2f} / {down.delay:.2f} s, at least {outcome.least_flows} flows")
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


def judged(scenario: Scenario, variant: Variant, found: Outcome | str) -> tuple[str, list[str]]:
    """The line of one run, and what is not as it should be."""
    if isinstance(found, str):
        line = f"| **{scenario.name}**: {scenario.what} | {variant.name} | | | | | | not measured | |"
        return line, [f"{scenario.name}, {variant.name}: {found}"]
    return row(found), [f"{scenario.name}, {variant.name}: {text}" for text in found.faults()]


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
    parser = document.arguments("python -m tests.faults", __doc__, "faults", BY_NAME.values())
    parser.add_argument("--soak", type=float, default=0, metavar="MIN", help="minutes of a run with many faults")
    parser.add_argument("--only-soak", action="store_true", help="no single faults")
    arguments = parser.parse_args()
    scenarios = document.chosen(parser, arguments.names, BY_NAME, "fault")
    wrong: list[str] = []
    if not arguments.only_soak:
        rows, found = document.table(HEADING, scenarios, arguments.variant, arguments.jobs, attempt, judged)
        wrong += found
        if arguments.write or not (arguments.names or arguments.variant):
            DOCUMENT.write_text(document.renewed(DOCUMENT.read_text(), "faults", rows, BY_NAME.values()))
    if arguments.soak:
        rows, found = soaked(arguments.soak)
        wrong += found
        DOCUMENT.write_text(document.replace(DOCUMENT.read_text(), "soak", rows))
    print("\n".join(wrong) or "all as it should be")  # noqa: T201
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
