"""Each ``rsock-nf …`` of a document, in backticks or in a block, is a command that is there, with options that it has.

Most blocks are also run, by ``tests/e2e/test_commands.py``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsock_nf.cli import _parser
from tests.e2e.commands import fences

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("firewall/*.md")])
SPAN = re.compile(r"`(rsock-nf(?: [^`\n]*)?)`")
END = re.compile(r"\s(?:#|\||&|>|<|;)")
"""The end of a command in a line: a comment, or what the shell does with it."""


def commands(text: str) -> Iterator[list[str]]:
    """The words behind ``rsock-nf``, of each command."""
    said = SPAN.findall(text)
    said += [line for _, _, inside in fences(text) for line in inside.splitlines()]
    for line in said:
        found = re.match(r"(?:\w+=\S+ )*(?:\S*/)?rsock-nf (?=[a-z-])(.*)", line.strip())
        if found and " ══" not in line:
            yield shlex.split(END.split(f"{found[1]} ", maxsplit=1)[0])


def is_known(words: list[str]) -> bool:
    """Whether the command line has that command, and the command these options."""
    parser, parsers = _parser(words)
    if words[0].startswith("-"):
        return words[0] in parser._option_string_actions
    options = {word.partition("=")[0] for word in words[1:] if word.startswith("-")}
    return words[0] in parsers and options <= parsers[words[0]]._option_string_actions.keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_known(document: Path) -> None:
    assert [words for words in commands(document.read_text()) if not is_known(words)] == []


def test_many_commands_are_found_and_a_wrong_one_is_noticed() -> None:
    assert sum(1 for document in DOCUMENTS for _ in commands(document.read_text())) > 80
    (words,) = commands("`rsock-nf status --jsom`")
    assert not is_known(words)
    (words,) = commands("```\nX=1 rsock-nf statsu | cat\n```")
    assert words == ["statsu"]
    assert not is_known(words)
