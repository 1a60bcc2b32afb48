"""``docs/troubleshooting.md`` names every text by which a running instance tells what is wrong, and no other.

The texts are collected from the source: in the files below, each phrase is one, that is a string with a blank in it.
No phrase are docstrings, names of counters, texts for developers (``AssertionError``), and log lines below a warning.
Of a phrase with parts that vary, the longest fixed part is looked for, in the left column of the tables.

Not here: whether meaning and remedy are right.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/troubleshooting.md"
SOURCES = (
    "core/**/*.py",
    "daemon.py",
    "link/linux/ways.py",
    "link/port_use.py",
    "native/library.py",
    "ops/instances/overview.py",
    "runtime/**/*.py",
    "sockets/held_ports.py",
    "sockets/refusals.py",
    "wire/**/*.py",
    "words.py",
    "workers/team.py",
    "workers/worker.py",
)
"""In ``rsock_nf``."""
MUST_TELL = (
    "core/ends/applications.py",
    "core/ends/dialling.py",
    "core/ends/openings.py",
    "core/ends/reasons.py",
    "core/ends/crowding.py",
    "core/flows/probes.py",
    "link/linux/ways.py",
    "runtime/client.py",
    "runtime/host/rules.py",
    "runtime/reports/journal.py",
    "runtime/server.py",
    "wire/native/client.py",
    "wire/rsock/client.py",
    "words.py",
)
"""Files in which texts are found for sure: if none is, the collection is broken, or the file has another name."""
LEAST = 90
"""So many texts there are at least."""
FOR_DEVELOPERS = {
    "AssertionError",
    "LookupError",
    "Malformed",
    "NotImplementedError",
    "RuntimeError",
    "TypeError",
    "ValueError",
}
SELDOM_READ = {"debug", "info"}
"""Log lines that tell of no trouble."""
NOT_TOLD = {
    "hellos above the rate limit",  # these three: counters, which only the log at level debug shows
    "payloads from strangers",
    "payloads of no flow",
    "its name is taken",  # these three: of a flow that is only being opened, whose end no line tells
    "the server's numbers are ahead of ours",
    "is no longer an address of the server",
    "an ephemeral TCP port",  # a name in other texts
    "connected to",  # these two: of a state that is well, as systemctl shows it
    "no flows until the next datagram",
}
VARIES = re.compile(r"\0|%[\d.]*[a-z]|\{\w*\}")
"""A part of a text that varies: of an f-string, of a log line, of a format."""


class Collector(ast.NodeVisitor):
    """The phrases of one file, with \\0 for each part of an f-string that varies."""

    def __init__(self) -> None:
        self.phrases: list[str] = []

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # else a docstring
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called not in FOR_DEVELOPERS | SELDOM_READ:
            self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if not any("Enum" in ast.unparse(base) for base in node.bases):  # their values name things
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name != "diagram":  # it draws for ARCHITECTURE.md
            self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        if not isinstance(node.slice, ast.Constant | ast.JoinedStr):  # else the name of a counter
            self.visit(node.slice)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
        self.phrases.append("".join(map(str, parts)))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.phrases.append(node.value)


def texts(source: str) -> Iterator[str]:
    """The longest fixed part of each text, if it has at least two words."""
    collector = Collector()
    collector.visit(ast.parse(source))
    for phrase in collector.phrases:
        longest = max((plain(part).strip(",;:()") for part in VARIES.split(phrase)), key=len).strip()
        if " " in longest and longest not in NOT_TOLD:
            yield longest


def plain(text: str) -> str:
    """Without backquotes, and one blank for all white space."""
    return " ".join(text.replace("`", "").split())


def left_column(document: str) -> str:
    """What the program says, by the tables of the document."""
    rows = [line.split(" | ")[0] for line in document.splitlines() if line.startswith("| ")]
    return plain("\n".join(rows))


def files() -> list[Path]:
    return sorted(path for pattern in SOURCES for path in (ROOT / "rsock_nf").glob(pattern))


def untold(source: str, document: str) -> list[str]:
    """The texts of ``source`` that are not in ``document``."""
    told = left_column(document)
    return [text for text in texts(source) if text not in told]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT / "rsock_nf")))
def test_the_document_has_every_text(path: Path) -> None:
    assert untold(path.read_text(), DOCUMENT.read_text()) == []


def test_the_collection_finds_the_texts() -> None:
    """Files and functions may get other names, and then the test above would look at nothing."""
    found = {path: list(texts(path.read_text())) for path in files()}
    assert sum(map(len, found.values())) >= LEAST
    assert [name for name in MUST_TELL if not found.get(ROOT / "rsock_nf" / name)] == []


def test_no_row_is_there_twice_and_each_has_a_remedy() -> None:
    rows = [line.strip("| ").split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    said = [row[0] for row in rows if row[0] not in {"it says", "what you see"}]
    assert len(said) == len(set(said)) > 60
    assert [row for row in rows if not all(cell.strip() for cell in row)] == []


def test_what_a_row_says_is_in_the_source() -> None:
    """A text that the source does not have any more leaves a row behind."""
    everything = [path.read_text() for room in ("rsock_nf", "firewall") for path in (ROOT / room).rglob("*.py")]
    known = {text for source in everything for text in texts(source)}
    tables, _, _ = DOCUMENT.read_text().partition("## Nothing is said")
    rows = [left_column(line) for line in tables.splitlines() if line.startswith("| ") and "| it says" not in line]
    assert [row for row in rows if not any(text in row for text in known)] == []


@pytest.mark.parametrize(
    "source",
    [
        'self.why.tell("the moon is in the way")',
        'self._text = f"{remote}: the moon is in the way ({why})"',
        'log.warning("%s: the moon is in the way (%d)", what, count)',
        'TEXTS: dict[int, str] = {1: "the moon is in the way of {target}"}',
        'def text() -> str:\n    """Why."""\n    return "the moon is in the way"',
        'log.error("No: " f"{why}, the moon is " "in the way")',
    ],
)
def test_a_text_without_a_row_is_found(source: str) -> None:
    assert untold(source, DOCUMENT.read_text()) != []
    assert untold(source, "| `…: the moon is in the way of …` | The moon is full. | Wait. |") == []


@pytest.mark.parametrize(
    "source",
    [
        '"""the moon is in the way"""',
        'A = 1\n"""the moon is in the way"""',
        'counters["moons in the way"] += 1',
        'raise AssertionError("the moon is in the way")',
        'log.debug("the moon is in the way")',
        'class A(enum.Enum):\n    MOON = "the moon is in the way"',
        'state = "idle"',
    ],
)
def test_what_no_operator_reads_is_left_alone(source: str) -> None:
    assert untold(source, "") == []
