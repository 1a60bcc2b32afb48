"""``speedtest``: how much a running tunnel carries, down and up."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rsock_nf.commands.output import say
from rsock_nf.commands.shared import instance_arguments, named_instance, number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsock_nf.ops.speedtest import Told

_IDLE = 2.0
"""Seconds of a test before its first direction, about."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which instance, and how long."""
    instance_arguments(parser, "the only one that runs")
    parser.add_argument(
        "--seconds", type=_seconds, default=5.0, metavar="N", help="of each direction, 1 to 25 (default 5)"
    )
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object at the end")


def run(arguments: argparse.Namespace) -> int:
    """Test, show how it goes, and print a table."""
    import json

    from rsock_nf.ops import speedtest
    from rsock_nf.ops.instances.running import only_running

    instance = only_running(named_instance(arguments))
    going = speedtest.test(instance, arguments.seconds)
    told = _watched(going, arguments.seconds) if sys.stderr.isatty() and not arguments.json else _last(going)
    if arguments.json:
        say(json.dumps(speedtest.as_json(instance.name, told), indent=2))
        return 0
    say(speedtest.table(told))
    if remark := speedtest.remark(told):
        say(remark)
    return 0


def _last(going: Iterator[Told]) -> Told:
    *_, told = going
    return told


def _watched(going: Iterator[Told], seconds: float) -> Told:
    """The same with a bar on standard error."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description:<10}"), BarColumn(), TextColumn("{task.fields[rate]:>14}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("round trips", total=seconds, rate="")
        phase, began = "", time.monotonic()
        for told in going:
            if told["phase"] != phase:
                phase, began = told["phase"], time.monotonic()
            rate = told["now"].get(phase)
            progress.update(
                task,
                description={"down": "down", "up": "up"}.get(phase, "round trips"),
                total=seconds if phase in told["found"] else _IDLE,
                completed=time.monotonic() - began,
                rate="" if rate is None else f"{rate / 1e6:.1f} Mbit/s",
            )
    return told


def _seconds(text: str) -> float:
    return number(text, "seconds", 1, 25)
