"""A translation says other words, and has the same commands, files, links and pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.commands import fences

DOCS = Path(__file__).parents[2] / "docs"
TRANSLATIONS = sorted(path.relative_to(DOCS) for path in (DOCS / "zh").glob("*.md"))
HEADING = re.compile(r"^(#+) ", re.MULTILINE)
NUMBER = re.compile(r"\d+(?:\.\d+)*")


def tables(text: str) -> list[list[str]]:
    """The numbers in each line of a table."""
    return [NUMBER.findall(line) for line in text.splitlines() if line.startswith("|")]


def test_there_are_translations() -> None:
    assert {str(path) for path in TRANSLATIONS} == {"zh/getting-started.md", "zh/recipes.md"}


@pytest.mark.parametrize("path", TRANSLATIONS, ids=str)
def test_a_translation_has_the_same_blocks_headings_and_numbers(path: Path) -> None:
    text, original = (DOCS / path).read_text(), (DOCS / path.name).read_text()
    blocks = [(language, inside) for _, language, inside in fences(text)]
    assert blocks == [(language, inside) for _, language, inside in fences(original)]
    assert HEADING.findall(text) == HEADING.findall(original)
    assert tables(text) == tables(original)
