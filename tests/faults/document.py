"""What the tables of faults and of attacks have in common: many runs, one row for each, kept in a document."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Protocol, TypeVar

from tests.faults.field import Variant


class Case(Protocol):
    """A fault or an attack."""

    @property
    def name(self) -> str:
        """By which it is run."""

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The kinds of tunnel that meet it."""


C = TypeVar("C", bound=Case)
Found = TypeVar("Found")
Judged = tuple[str, list[str]]
"""The row of one run, and what is not as it should be."""


def arguments(program: str, about: str | None, noun: str, cases: Iterable[Case]) -> argparse.ArgumentParser:
    """``noun``: what its cases are called, in the plural."""
    kinds = {variant.name: None for case in cases for variant in case.variants}
    parser = argparse.ArgumentParser(prog=program, description=about)
    parser.add_argument("names", nargs="*", help=f"{noun}; none = all of them, and the document is written")
    parser.add_argument("--variant", choices=list(kinds), action="append", help="only this kind of tunnel, or these")
    parser.add_argument("--write", action="store_true", help="write these rows in the document, and keep the others")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (1)")
    return parser


def chosen(parser: argparse.ArgumentParser, names: Iterable[str], known: Mapping[str, C], noun: str) -> list[C]:
    """The cases of these names; without any, all.  Exits with a message if one is unknown."""
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"no such {noun}: {', '.join(unknown)}; there are: {', '.join(known)}")
    return [known[name] for name in names] or list(known.values())


def table(
    heading: str,
    cases: Iterable[C],
    kinds: Collection[str] | None,
    jobs: int,
    run: Callable[[str, Variant], Found],
    judged: Callable[[C, Variant, Found], Judged],
) -> tuple[list[str], list[str]]:
    """The lines of the table, and what is not as it should be.

    ``kinds``: only tunnels of these names; None = all.  ``jobs``: runs at a time.  ``run`` is called in another
    process, with the name of a case.
    """
    rows, wrong = [heading], []
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [
            (case, variant, pool.submit(run, case.name, variant))
            for case in cases
            for variant in case.variants
            if kinds is None or variant.name in kinds
        ]
        for case, variant, found in runs:
            line, faults = judged(case, variant, found.result())
            print(line, flush=True)  # noqa: T201 - all of them take long
            rows.append(line)
            wrong += faults
    return rows, wrong


def replace(text: str, name: str, lines: list[str]) -> str:
    """``text`` with other lines between the marks of this name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return "\n".join([before + begin, *lines, end + after])


def renewed(text: str, name: str, lines: list[str], cases: Iterable[Case]) -> str:
    """As ``replace``, but the rows of ``text`` that are not among ``lines`` stay, in the order of ``cases``.

    A row has the name of its case as ``**name**: …`` in its first cell, and that of the tunnel in another cell.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = text.partition(begin)[2].partition(end)[0].splitlines()
    rows = [row.split("|") for row in (*lines, *old) if row.startswith("| **")]
    wanted = [(f" **{case.name}**:", f" {variant.name} ") for case in cases for variant in case.variants]
    found = (next((row for row in rows if row[1].startswith(case) and kind in row), None) for case, kind in wanted)
    return replace(text, name, [lines[0], *("|".join(row) for row in found if row)])
