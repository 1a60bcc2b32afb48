"""The tables in the documents: one row for each case and kind of tunnel, of which a part can be made again."""

from __future__ import annotations

from typing import NamedTuple

from tests.faults import document
from tests.faults.field import AES, Variant

PLAIN, SEALED = Variant(), Variant("tcp", AES)


class Known(NamedTuple):
    """A case."""

    name: str
    variants: tuple[Variant, ...]


CASES = [Known("loss", (PLAIN, SEALED)), Known("loss_2", (PLAIN,)), Known("new", (SEALED,))]
HEADING = "| fault | tunnel |\n|---|---|"
TEXT = f"""before

<!-- faults:begin -->
{HEADING}
| **loss**: old | tcp none |
| **loss**: old | tcp aes |
| **gone**: old | tcp aes |
| **loss_2**: old | tcp none |
<!-- faults:end -->

after
"""


def test_rows_that_are_made_again_take_the_place_of_the_old_ones() -> None:
    made = [HEADING, "| **new**: made | tcp aes |", "| **loss**: made | tcp aes |"]
    rows = document.renewed(TEXT, "faults", made, CASES).split("<!-- faults:")[1].splitlines()[1:]
    assert rows == [
        *HEADING.splitlines(),
        "| **loss**: old | tcp none |",
        "| **loss**: made | tcp aes |",
        "| **loss_2**: old | tcp none |",
        "| **new**: made | tcp aes |",
    ]


def test_the_rest_of_the_document_stays() -> None:
    found = document.renewed(TEXT, "faults", [HEADING], CASES)
    assert found.startswith("before\n\n<!-- faults:begin -->\n| fault")
    assert found.endswith("<!-- faults:end -->\n\nafter\n")


def test_each_kind_of_tunnel_has_a_name_of_its_own() -> None:
    kinds = [
        *(PLAIN, SEALED, Variant("udp")),
        *(Variant("tcp", AES, version=6), Variant("udp", wire="rsock"), Variant("tcp", wire="rsock")),
    ]
    names = [kind.name for kind in kinds]
    assert names == ["tcp none", "tcp aes", "udp none", "tcp aes IPv6", "udp rsock", "tcp rsock"]
