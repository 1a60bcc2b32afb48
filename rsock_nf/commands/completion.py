"""``completion``: print what makes a shell complete the command line."""

from __future__ import annotations

import argparse

from rsock_nf.commands.output import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``completion``."""
    from rsock_nf.ops.manual.completion import SHELLS

    parser.add_argument("shell", choices=SHELLS, help="bash: source <(rsock-nf completion bash)")


def run(arguments: argparse.Namespace) -> int:
    """Print the script of one shell."""
    from rsock_nf.ops.manual.completion import completion

    say(completion(arguments.whole_parser(), arguments.shell).rstrip("\n"))
    return 0
