"""The table of states as the documentation draws it."""

from __future__ import annotations

import re
from pathlib import Path

from rsock_nf.core.flows.states import TRANSITIONS, State, diagram

ARCHITECTURE = Path(__file__).parents[2] / "ARCHITECTURE.md"


def test_the_documentation_shows_this_table() -> None:
    """``python -m tests.package.test_state_diagram`` writes the diagram again."""
    assert drawn() == f"```mermaid\n{diagram()}\n```"


def test_the_diagram_has_every_state_and_every_row() -> None:
    text = diagram()
    arrows = [line.split() for line in text.splitlines() if "-->" in line]
    assert {name for source, _, target, *_ in arrows for name in (source, target)} == {"[*]", *(s.name for s in State)}
    for state, rows in TRANSITIONS.items():
        for happened, (to, actions) in rows.items():
            (line,) = [
                line
                for line in text.splitlines()
                if line.strip().startswith(f"{state.name} --> {to.name} :") and _says(line, happened.value)
            ]
            assert line.endswith(", ".join(action.value for action in actions))


def test_the_picture_for_readers_has_every_state() -> None:
    picture = (ARCHITECTURE.parent / "docs/states.svg").read_text()
    assert sorted(re.findall(r'<text class="name"[^>]*>(\w+)</text>', picture)) == sorted(state.name for state in State)


def _says(line: str, happened: str) -> bool:
    inputs = line.split(" : ")[1].split(" / ", maxsplit=1)[0]
    return happened in inputs.split(" or ")


def drawn() -> str:
    found = re.search(r"<!-- states:begin -->\n(.*?)\n<!-- states:end -->", ARCHITECTURE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


if __name__ == "__main__":
    whole = ARCHITECTURE.read_text()
    made = f"<!-- states:begin -->\n```mermaid\n{diagram()}\n```\n<!-- states:end -->"
    ARCHITECTURE.write_text(
        re.sub(r"<!-- states:begin -->.*<!-- states:end -->", lambda _: made, whole, flags=re.DOTALL)
    )
