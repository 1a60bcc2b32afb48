"""All attacks on a running tunnel, and how a row of docs/security-tests.md is written."""

from __future__ import annotations

from tests.attacks.attack import Attack
from tests.attacks.floods import FLOODS
from tests.attacks.forged import FORGED
from tests.attacks.hellos import HELLOS
from tests.attacks.insiders import INSIDERS
from tests.attacks.measure import Outcome, attempt
from tests.attacks.neighbours import NEIGHBOURS
from tests.attacks.racing import RACING
from tests.attacks.replays import REPLAYS
from tests.faults.field import Variant

ATTACKS: tuple[Attack, ...] = (*FLOODS, *NEIGHBOURS, *REPLAYS, *HELLOS, *RACING, *FORGED, *INSIDERS)
BY_NAME = {attack.name: attack for attack in ATTACKS}
HEADING = (
    "| attack | who | tunnel | volume | lost | flows lost | CPU, % | MB | seen | why |\n"
    "|---|---|---|--:|--:|--:|--:|--:|---|---|"
)


def run(name: str, variant: Variant) -> Outcome | str:
    """One attack, by its name: functions are not sent to another process."""
    return attempt(BY_NAME[name], variant)


def row(attack: Attack, outcome: Outcome) -> str:
    """One line of the table."""
    done = outcome.done
    megabits = done.octets * 8 / 1e6 / outcome.seconds
    seen = [
        *done.saw,
        *(f"{count} {word}" for count, word in ((outcome.corrupted, "forged"), (outcome.doubled, "twice")) if count),
    ]
    return _line(
        f"**{attack.name}**: {attack.what}", attack.who.value, outcome.variant.name,
        f"{done.packets:,} in {outcome.seconds:.0f} s, {megabits:.1f} Mbit/s",
        f"{outcome.lost:,} of {outcome.sent:,}", "renewed" if attack.renews else str(outcome.flows_lost),
        " → ".join(f"{100 * share:.0f}" for share in outcome.cpu), f"{outcome.resident:+.1f}", "; ".join(seen),
        attack.reason(outcome.variant),
    )  # fmt: skip


def judged(attack: Attack, variant: Variant, found: Outcome | str) -> tuple[str, list[str]]:
    """The line of one run, and what is not as it should be."""
    if isinstance(found, str):
        line = _line(f"**{attack.name}**: {attack.what}", attack.who.value, variant.name, *[""] * 5, "not measured", "")
        return line, [f"{attack.name}, {variant.name}: {found}"]
    return row(attack, found), [f"{attack.name}, {variant.name}: {text}" for text in found.faults(attack)]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
