"""``status``: show instances, once or again and again."""

from __future__ import annotations

import argparse
import sys

from rsock_nf.commands.output import complain, say
from rsock_nf.commands.shared import instance_arguments, named_instance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``status``."""
    instance_arguments(parser)
    parser.add_argument(
        "--json", action="store_true", help="for programs: a list, or one object if an instance is named"
    )
    parser.add_argument("--watch", action="store_true", help="again every second, with rates")


def run(arguments: argparse.Namespace) -> int:
    """Show one instance or all, once or again and again."""
    import json
    import time

    from rsock_nf.ops.instances.overview import overview, runs
    from rsock_nf.ops.status import Snapshot, render

    before: dict[str, Snapshot] = {}
    named = named_instance(arguments)
    while True:
        found = overview(named, find_lost=not before)
        well = bool(found) and all(map(runs, found))
        if arguments.json:
            say(json.dumps(found[0] if named else found, indent=None if arguments.watch else 2))
        elif not found:
            complain("no instance is running")
        elif named and found[0]["state"] == "down":
            complain(found[0]["reason"])
        else:
            if arguments.watch and sys.stdout.isatty():
                print("\x1b[H\x1b[J", end="")
            say("\n\n".join(render(snapshot, before.get(snapshot["name"])) for snapshot in found))
        if not (arguments.watch and any(map(runs, found))):
            return 0 if well else 1
        before = {snapshot["name"]: snapshot for snapshot in found}
        sys.stdout.flush()
        time.sleep(1)
