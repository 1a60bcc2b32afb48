"""``capture``: the tunnel's packets as a pcapng file, for Wireshark and tshark."""

from __future__ import annotations

import argparse
import sys

from rsock_nf.commands.output import complain
from rsock_nf.commands.shared import file_by_path, instance_arguments, named_instance
from rsock_nf.errors import RsockError, UsageError

_SNAP = 262_144
"""More than any packet has, as tcpdump takes it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which tunnel, where to, how much of it."""
    instance_arguments(parser, "the only one that runs")
    parser.add_argument("-w", "--write", metavar="FILE", default="-", help="a pcapng file; - = standard output")
    parser.add_argument(
        "--decrypt", action="store_true", help='also what is sealed, in clear: wants "key_log": true in the file'
    )
    parser.add_argument("--count", type=_positive, metavar="N", help="stop after N packets")
    parser.add_argument("--seconds", type=_seconds, metavar="N", help="stop after N seconds")
    parser.add_argument(
        "--snap", type=_positive, metavar="BYTES", default=_SNAP, help="keep so many bytes of each packet (all)"
    )
    parser.epilog = "Live: rsock-nf capture | wireshark -k -i -     or     rsock-nf capture | tshark -r -"


def run(arguments: argparse.Namespace) -> int:
    """Capture until Ctrl-C, a limit, or the end of who reads."""
    from contextlib import closing

    from rsock_nf.ops.capture import record, subject

    if arguments.write == "-" and sys.stdout.isatty():
        raise UsageError("a capture is nothing for a terminal: give -w FILE, or pipe it into tshark -r -")
    found = subject.find(named_instance(arguments), file_by_path(arguments))
    clear = subject.clear(found) if arguments.decrypt else None
    try:
        with (
            closing(subject.watch(found, snap=arguments.snap)) as watch,
            record.open_output(arguments.write, private=arguments.decrypt) as output,
        ):
            complain(f"captures {found.text()}; Ctrl-C ends it")
            limits = record.Limits(arguments.count, arguments.seconds)
            about = found.text(), f"{found.settings.name}{', in clear' if arguments.decrypt else ''}", arguments.snap
            tally = record.record(watch, output, clear or record.AsTheyAre(), limits, about)
    except BrokenPipeError:  # at the last flush: who read it has gone
        return 0
    except OSError as error:
        raise RsockError(f"{arguments.write}: cannot be written: {error.strerror or error}") from None
    lines = [f"{tally.packets:,} packets", f"{tally.drops:,} lost because this process was too slow"]
    if clear:
        lines.append(f"{clear.opened:,} in clear, {clear.closed:,} that no key opens")
    complain("; ".join(lines))
    return 0


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number (at least 1)")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value
