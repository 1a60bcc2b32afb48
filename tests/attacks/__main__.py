"""Makes the tables of docs/security-tests.md: ``make attacks``, as root.

``python -m tests.attacks syn_5k`` runs one attack and prints its rows, and changes no file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Collection, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.attacks import amplification, elsewhere
from tests.attacks.attack import Attack
from tests.attacks.table import ATTACKS, BY_NAME, HEADING, judged, run
from tests.faults.__main__ import replace
from tests.faults.field import VARIANTS, Variant

DOCUMENT = Path(__file__).parents[2] / "docs/security-tests.md"


def table(attacks: Iterable[Attack], variants: Collection[Variant], jobs: int) -> tuple[list[str], list[str]]:
    """The table, and what is not as it should be.  ``jobs``: runs at a time."""
    rows, wrong = [HEADING], []
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [
            (attack, variant, pool.submit(run, attack.name, variant))
            for attack in attacks
            for variant in attack.variants
            if variant in variants
        ]
        for attack, variant, found in runs:
            line, faults = judged(attack, variant, found.result())
            print(line, flush=True)  # noqa: T201 - it takes a quarter of an hour
            rows.append(line)
            wrong += faults
    return rows, wrong


def main() -> int:
    """See the module.  Exits with 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("names", nargs="*", help="attacks; none = all of them, and the document is written")
    parser.add_argument("--variant", choices=[variant.name for variant in VARIANTS], help="only this kind of tunnel")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (1)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BY_NAME]
    if unknown:
        parser.error(f"no such attack: {', '.join(unknown)}; there are: {', '.join(BY_NAME)}")
    variants = [variant for variant in VARIANTS if arguments.variant in (None, variant.name)]
    rows, wrong = table([BY_NAME[name] for name in arguments.names] or ATTACKS, variants, arguments.jobs)
    if not arguments.names and not arguments.variant:
        answers, larger = amplification.rows(amplification.amplification())
        wrong += larger
        text = replace(DOCUMENT.read_text(), "attacks", rows)
        text = replace(text, "amplification", answers)
        DOCUMENT.write_text(replace(text, "elsewhere", elsewhere.rows()))
    print("\n".join(wrong) or "all as it should be")  # noqa: T201
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
