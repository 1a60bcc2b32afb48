"""Makes the tables of docs/security-tests.md: ``make attacks``, as root.

``python -m tests.attacks syn_5k`` runs one attack and prints its rows, and changes no file.  With ``--write`` its rows
take the place of what the table has of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.attacks import amplification, elsewhere
from tests.attacks.attack import ALL, ALL6
from tests.attacks.table import ATTACKS, BY_NAME, HEADING, judged, run
from tests.faults import document

DOCUMENT = Path(__file__).parents[2] / "docs/security-tests.md"


def main() -> int:
    """See the module.  Exits with 1 if something is not as it should be."""
    parser = document.arguments("python -m tests.attacks", __doc__, "attacks", ATTACKS)
    arguments = parser.parse_args()
    attacks = document.chosen(parser, arguments.names, BY_NAME, "attack")
    rows, wrong = document.table(HEADING, attacks, arguments.variant, arguments.jobs, run, judged)
    if arguments.write or not (arguments.names or arguments.variant):
        DOCUMENT.write_text(document.renewed(DOCUMENT.read_text(), "attacks", rows, ATTACKS))
    if not arguments.names and not arguments.variant:
        answers, larger = amplification.rows(*map(amplification.amplification, (ALL, ALL6)))
        wrong += larger
        text = document.replace(DOCUMENT.read_text(), "amplification", answers)
        DOCUMENT.write_text(document.replace(text, "elsewhere", elsewhere.rows()))
    print("\n".join(wrong) or "all as it should be")  # noqa: T201
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
