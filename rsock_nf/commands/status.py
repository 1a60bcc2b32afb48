"""``status``: show instances, once or again and again."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rsock_nf.commands.output import complain, say
from rsock_nf.commands.shared import instance_arguments, named_instance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rsock_nf.ops.instances.instance import Instance
    from rsock_nf.ops.status import Snapshot

_PERIOD = 1.0
"""Seconds from one look to the next."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``status``."""
    instance_arguments(parser)
    parser.add_argument("--flows", action="store_true", help="also each flow, and what the instance holds of its host")
    parser.add_argument("--watch", action="store_true", help="again every second, with rates; q or Ctrl-C ends it")
    for_programs = parser.add_mutually_exclusive_group()
    for_programs.add_argument("--brief", action="store_true", help="for scripts: a line for each session, with tabs")
    for_programs.add_argument("--metrics", action="store_true", help="for Prometheus: what the key metrics serves")
    for_programs.add_argument(
        "--json", action="store_true", help="for programs: a list, or one object if an instance is named"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show one instance or all, once or again and again."""
    import time

    from rsock_nf.ops.instances.overview import runs

    named = named_instance(arguments)
    looks = _looks(named)
    found, before = next(looks)
    if arguments.watch and any(map(runs, found)) and _is_screen() and _is_for_people(arguments):
        watched = _watch(arguments, found, looks)
        if watched is None:
            return 0
        found, before = watched
    _print(arguments, found, before, one=named is not None)
    while arguments.watch and any(map(runs, found)):
        time.sleep(_PERIOD)
        found, before = next(looks)
        _print(arguments, found, before, one=named is not None)
    return 0 if found and all(map(runs, found)) else 1


def _is_for_people(arguments: argparse.Namespace) -> bool:
    return not (arguments.json or arguments.brief or arguments.metrics)


def _looks(named: Instance | None) -> Iterator[tuple[list[Snapshot], dict[str, Snapshot]]]:
    """The instances at each look, and those of the look before by name."""
    from rsock_nf.ops.instances.overview import overview

    before: dict[str, Snapshot] = {}
    while True:
        found = overview(named, find_lost=not before)
        yield found, before
        before = {snapshot["name"]: snapshot for snapshot in found}


def _watch(
    arguments: argparse.Namespace,
    found: list[Snapshot],
    looks: Iterator[tuple[list[Snapshot], dict[str, Snapshot]]],
) -> tuple[list[Snapshot], dict[str, Snapshot]] | None:
    """On the whole terminal, until no instance runs any more: what was found then.  None = somebody typed ``q``."""
    from rsock_nf.ops.instances.overview import runs
    from rsock_nf.ops.signals import leaving_in_order
    from rsock_nf.ops.status.live import Screen

    before: dict[str, Snapshot] = {}
    with leaving_in_order(), Screen() as screen:
        while any(map(runs, found)):
            screen.show(found, before, each_flow=arguments.flows)
            if screen.left_within(_PERIOD):
                return None
            found, before = next(looks)
    return found, before


def _print(arguments: argparse.Namespace, found: Sequence[Snapshot], before: dict[str, Snapshot], *, one: bool) -> None:
    """``one``: an instance was named."""
    if arguments.json:
        import json

        say(json.dumps(found[0] if one else found, indent=None if arguments.watch else 2))
    elif not found:
        complain("no instance is running")
    elif one and found[0]["state"] == "down":
        complain(found[0]["reason"])
    elif arguments.metrics:
        from rsock_nf.ops.metrics.exposition import text

        say(text(found).rstrip("\n"))
    elif arguments.brief:
        from rsock_nf.ops.status.brief import brief

        say("\n".join(line for snapshot in found for line in brief(snapshot)))
    else:
        _print_text(found, before, each_flow=arguments.flows)
    sys.stdout.flush()


def _print_text(found: Sequence[Snapshot], before: dict[str, Snapshot], *, each_flow: bool) -> None:
    from rsock_nf.ops.status import layout, render

    width, paint = layout.terminal_width(), _is_screen() and layout.wants_colour()
    blocks = [
        render(snapshot, before.get(snapshot["name"]), width=width, each_flow=each_flow, paint=paint)
        for snapshot in found
    ]
    print("\n\n".join(blocks))  # printable by now, but for the colours


def _is_screen() -> bool:
    """Whether standard output is a terminal that knows escape sequences."""
    import os

    return sys.stdout.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}
