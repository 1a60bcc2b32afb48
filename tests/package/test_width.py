"""No line of prose has more than 120 columns: CONTRIBUTING, rule 10."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COLUMNS = 120
DOCUMENTS = [
    path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("firewall/**/*.md"), *ROOT.glob("vagrant/*.md"))
    if path.name != "configuration.md"  # its sentences come from the program
]  # fmt: skip
ROOMS = ("rsock_nf", "firewall/rsock_firewall", "tests", "bench", "contrib", "release")
SOURCES = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if "out" not in path.relative_to(ROOT).parts]


def prose(text: str) -> Iterator[str]:
    """The lines of a document that are neither code nor part of a table."""
    code = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.lstrip().startswith("|"):
            yield line


def docstrings(text: str) -> Iterator[str]:
    """The lines of all strings that stand alone."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from text.splitlines()[node.lineno - 1 : node.end_lineno]


def comments(text: str) -> Iterator[str]:
    """The lines that hold a comment and nothing else."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
            yield token.line.rstrip()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents(document: Path) -> None:
    assert [line for line in prose(document.read_text()) if len(line) > COLUMNS] == []


@pytest.mark.parametrize("lines", [docstrings, comments])
def test_sources(lines: Callable[[str], Iterator[str]]) -> None:
    assert len(SOURCES) > 600
    assert [
        (str(path.relative_to(ROOT)), line)
        for path in SOURCES
        for line in lines(path.read_text())
        if len(line) > COLUMNS
    ] == []
