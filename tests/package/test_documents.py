"""What the documents name is there: relative links and their anchors, paths of the repository, modules to run.

A path is what stands in backticks and begins with a folder of the repository (``tests/core``, ``link/linux``), or ends
like a file of ours (``probes.py``).  It may leave out ``rsock_nf/`` and ``.py``.  A short name means a file beside
another one that the same line names, or in a folder that the head of its table names.

Not here: whether a description is right, and addresses in the web.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"#{1,6} +(.*)")
CODE = re.compile(r"`([^`]+)`")
PATH = re.compile(r"[\w.@+-]+(/[\w.@+-]+)*/?")
BRACES = re.compile(r"(.*)\{([\w,]+)\}(.*)")
MODULE = re.compile(r"python3? -m ([\w.]+)")
SUFFIXES = (".c", ".md", ".py", ".sh", ".svg", ".toml")
"""A bare name that ends so is a file of ours.  Not ``.json``: ``client.json`` is a file of the reader."""
MADE_LATER = ("tests/out", "bench/out")
"""What a run of tests or of the bench leaves behind."""


def files() -> list[str]:
    """Every file of the repository; in a copy without its history, every file."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, text=True)
    names = [name for name in listed.stdout.split("\0") if name]
    if listed.returncode:
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        names = [str(path) for path in found if not path.parts[0].startswith((".venv", ".pytest_cache"))]
    return [name for name in names if (ROOT / name).is_file()]


FILES = files()
DOCUMENTS = sorted(name for name in FILES if name.endswith(".md"))
TOPS = {name.partition("/")[0] for name in FILES if "/" in name}
ROOMS = {name.split("/")[1] for name in FILES if name.startswith("rsock_nf/") and name.count("/") > 1}


class Line(NamedTuple):
    number: int
    text: str
    head: str
    """The first line of its paragraph or table."""


def lines(text: str) -> Iterator[Line]:
    """The lines outside code blocks: those show commands and files of the reader's own machine."""
    inside, head = False, ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            head = (head or line) if line.strip() else ""
            yield Line(number, line, head)


def anchors(text: str) -> set[str]:
    """The names that headings get: lower case, without punctuation, a hyphen for each space."""
    titles = [match[1] for line in lines(text) if (match := HEADING.fullmatch(line.text))]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(document: Path, text: str) -> list[str]:
    """Links into the repository that lead nowhere."""
    dead = []
    for line in lines(text):
        for target in LINK.findall(line.text):
            path, _, anchor = target.partition("#")
            if ":" in path:
                continue
            file = document.parent / path if path else document
            if not file.exists() or (anchor and anchor not in anchors(text if not path else file.read_text())):
                dead.append(f"{document.name}:{line.number}: link to {target}")
    return dead


def exists(path: str, folder: Path) -> bool:
    """``path`` counted from ``folder``; a module may be named without its suffix."""
    return (folder / path).exists() or (not path.endswith("/") and (folder / f"{path}.py").exists())


def spans(text: str) -> Iterator[str]:
    """What stands in backticks; ``a/{b,c}`` is two."""
    for span in CODE.findall(text):
        if match := BRACES.fullmatch(span):
            yield from (match[1] + choice + match[3] for choice in match[2].split(","))
        else:
            yield span


def folders(text: str) -> list[Path]:
    """The folders that ``text`` names, and those of the files that it names."""
    found = [base / span for span in spans(text) for base in (ROOT, ROOT / "rsock_nf") if exists(span, base)]
    return [path if path.is_dir() else path.parent for path in found]


def looks_like_a_path(span: str) -> bool:
    if not PATH.fullmatch(span) or span.startswith("."):
        return False
    return span.endswith(SUFFIXES) or ("/" in span and span.partition("/")[0] in TOPS | ROOMS)


def missing_paths(document: Path, text: str) -> list[str]:
    """Paths in backticks that are not there."""
    missing = []
    for line in lines(text):
        places = [ROOT, ROOT / "rsock_nf", document.parent, *folders(line.text), *folders(line.head)]
        for span in spans(line.text):
            if not looks_like_a_path(span) or span.rstrip("/").startswith(MADE_LATER):
                continue
            if not any(exists(span, place) for place in places):
                missing.append(f"{document.name}:{line.number}: {span}")
    return missing


def missing_modules(document: Path, text: str) -> list[str]:
    """``python -m`` of a module of ours that is not there; code blocks are looked at, too."""
    found = {match for match in MODULE.findall(text) if match.partition(".")[0] in TOPS}
    places = [ROOT, ROOT / "firewall"]
    there = {name for name in found if any(exists(name.replace(".", "/"), place) for place in places)}
    return [f"{document.name}: python -m {name}" for name in sorted(found - there)]


def wrong(document: Path, text: str) -> list[str]:
    return dead_links(document, text) + missing_paths(document, text) + missing_modules(document, text)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_a_document_names_is_there(name: str) -> None:
    document = ROOT / name
    text = document.read_text()
    assert wrong(document, text) == []


def test_the_map_shows_rooms_and_files_that_are_there() -> None:
    drawn = re.findall(r'<text class="name"[^>]*>([^<]+)</text>', (ROOT / "docs/map.svg").read_text())
    names = [name for label in drawn for name in label.split()]
    below = [ROOT, ROOT / "firewall", *(path for path in (ROOT / "rsock_nf").glob("**") if path.is_dir())]
    assert [name for name in names if not any((place / name).exists() for place in below)] == []
    rooms = {f"{room}/" for room in ROOMS} | {
        f"{room}/" for room in ("ends", "flows", "pump", "tcp", "native", "rsock")
    }
    assert rooms <= set(names)


def test_there_are_documents_and_they_name_many_paths() -> None:
    """The patterns above could cease to match anything."""
    assert {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/wire.md"} <= set(DOCUMENTS)
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert sum(looks_like_a_path(span) for line in lines(text) for span in spans(line.text)) > 70


@pytest.mark.parametrize(
    "text",
    [
        "[a](docs/none.md)",
        "[a](#no-such-heading)",
        "[a](docs/wire.md#no-such-heading)",
        "`rsock_nf/core/none.py`",
        "`link/linux/none`",
        "`tests/none/`",
        "`none.py`",
        "`link/{linux,none}`",
        "| `rsock_nf/core/flows/table.py`, `slots.py` |",
        "run `python -m rsock_nf.none`",
    ],
)
def test_what_is_not_there_is_found(text: str) -> None:
    document = ROOT / "README.md"
    assert len(wrong(document, text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "# The Map?\n[a](#the-map) [b](docs/wire.md) [c](https://example.org/none.md)",
        "`rsock_nf/core/flows/table.py`, `states.py`; `link/linux/af_packet`; `core/`; `core/{tcp,pump}`",
        "| file in `rsock_nf/link/` | content |\n|---|---|\n| `bsd/abi.py` | numbers |",
        "`/etc/rsock-nf/NAME.json` `0.0.0.0/0` `.venv/bin/pytest` `tests/out/` `rsock-nf/NAME` `listen: unix:/path`",
        "```\n`tests/none/`\n```",
    ],
)
def test_what_is_there_or_is_no_path_is_left_alone(text: str) -> None:
    document = ROOT / "README.md"
    assert wrong(document, text) == []
