"""``ping``: round trips through a running tunnel."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rsock_nf.commands.output import say
from rsock_nf.commands.shared import instance_arguments, named_instance, number

if TYPE_CHECKING:
    from rsock_nf.ops.instances.instance import Instance
    from rsock_nf.ops.ping import Wish


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which instance, how often, on which flows."""
    instance_arguments(parser, "the only one that runs", options=("--config",))
    parser.add_argument("-c", dest="count", type=_count, metavar="N", help="stop after N rounds (default: at Ctrl-C)")
    parser.add_argument(
        "-i", dest="interval", type=_interval, default=1.0, metavar="SECONDS", help="between two rounds (default 1)"
    )
    parser.add_argument(
        "-W", dest="patience", type=_patience, default=1.0, metavar="SECONDS", help="wait so long (default 1)"
    )
    parser.add_argument("--flows", action="store_true", help="on every flow in each round, with a table at the end")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")


def run(arguments: argparse.Namespace) -> int:
    """Ping, print what comes, and sum up.  1 = nothing was answered."""
    from rsock_nf.ops.instances.running import only_running
    from rsock_nf.ops.ping import Wish

    instance = only_running(named_instance(arguments))
    if arguments.json and arguments.count is None:
        arguments.count = 10
    wish = Wish(arguments.count, arguments.interval, arguments.patience, arguments.flows)
    return _ping(instance, wish, as_json=arguments.json)


def _ping(instance: Instance, wish: Wish, *, as_json: bool) -> int:
    import contextlib
    import json

    from rsock_nf.ops.ping import Summary, line, rounds

    summary = Summary(instance.name)
    with contextlib.suppress(KeyboardInterrupt):  # as ping(8): it ends, and sums up
        for one in rounds(instance, wish):
            summary.add(one)
            if not as_json:
                say("\n".join(line(one)))
                sys.stdout.flush()
    say(json.dumps(summary.as_json(), indent=2) if as_json else "\n".join(summary.lines(every_flow=wish.every_flow)))
    return 0 if summary.total.times else 1


def _count(text: str) -> int:
    return int(number(text, "rounds", 1, 1_000_000, whole=True))


def _interval(text: str) -> float:
    return number(text, "seconds", 0.01, 3600)


def _patience(text: str) -> float:
    return number(text, "seconds", 0.01, 5)
