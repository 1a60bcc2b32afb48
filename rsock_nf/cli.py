"""The command line: parses it and calls the command.  What the commands do is in ``commands``.

Exit status:
0: done.
1: it cannot be done on this host now (``status``: not everything that is shown runs; ``doctor``: something is in the
way).
2: wrong arguments or configuration; nothing was touched.
128 + n: signal n ended it (130: Ctrl-C).  ``up --foreground`` is meant to be ended by a signal: 0.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rsock_nf import __version__, commands
from rsock_nf.commands import PROGRAM, complain
from rsock_nf.errors import RsockError

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    parser, parsers = _parser(words)
    arguments, extra = parser.parse_known_args(words)
    if extra and arguments.command != "demo":
        parsers[arguments.command].error(f"unrecognized arguments: {' '.join(extra)}")
    arguments.extra = extra
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # `rsock-nf status | head`: the reader has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RsockError as error:
        complain(str(error))
        return error.exit_code
    except Exception as error:
        if os.environ.get("RSOCK_NF_DEBUG") == "1":
            raise
        complain(f"unexpected {type(error).__name__}: {error} (RSOCK_NF_DEBUG=1 shows where)")
        return 1
    else:
        return status


class _Command(NamedTuple):
    """One command of the command line."""

    name: str
    run: Callable[[argparse.Namespace], int]
    text: str
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None
    has_help: bool = True
    """Else it parses its own options, ``--help`` among them."""


def _groups() -> dict[str, tuple[_Command, ...]]:
    """The commands by heading, in the order in which ``--help`` lists them."""
    return {
        "tunnels": (
            _Command("up", commands.up, "start a tunnel; returns when it is up", _add_up_arguments),
            _Command(
                "down",
                commands.down,
                "stop one tunnel or all; remove their rules, also after a crash",
                _instance_arguments,
            ),
            _Command(
                "status",
                commands.status,
                "show sessions, flows, loss, round-trip times and counters",
                _add_status_arguments,
            ),
            _Command(
                "reconnect", commands.reconnect, "clients: replace every flow, keep the session", _instance_arguments
            ),
        ),
        "configuration": (
            _Command("genkey", commands.genkey, "make a secret"),
            _Command("check", commands.check, "validate a configuration file", _add_check_arguments),
            _Command("rules", commands.rules, "print the exact firewall rules; touch nothing", _required_config),
            _Command("schema", commands.schema, "print the JSON schema of the configuration file"),
            _Command(
                "convert",
                commands.convert,
                "print a configuration of the original rsock as ours",
                _add_convert_arguments,
            ),
        ),
        "this host": (
            _Command("doctor", commands.doctor, "check whether this host can run a tunnel", _optional_config),
            _Command("demo", commands.demo, "show a tunnel at work in network namespaces (as root)", has_help=False),
        ),
        "compatibility with the original rsock (for new tunnels, use up)": (
            _Command(
                "server", commands.original, "start a server by the original's flags", _add_original_flags("server")
            ),
            _Command(
                "client", commands.original, "start a client by the original's flags", _add_original_flags("client")
            ),
        ),
    }


def _parser(argv: Sequence[str]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser for ``argv``, and that of each command; only the command that is called has its arguments."""
    groups = _groups()
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [-h] [--version] COMMAND ...",
        description="Carries an application's UDP inside many flows that look like TCP.",
        epilog=_listed(groups),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    subparsers = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", prog=PROGRAM, help=argparse.SUPPRESS
    )
    called = next((word for word in argv if not word.startswith("-")), "")
    for command in (command for group in groups.values() for command in group):
        described = f"{command.text[:1].upper()}{command.text[1:]}."
        made = subparsers.add_parser(command.name, description=described, add_help=command.has_help)
        made.set_defaults(run=command.run)
        if command.add_arguments is not None and command.name == called:
            command.add_arguments(made)
    return parser, subparsers.choices


def _listed(groups: dict[str, tuple[_Command, ...]]) -> str:
    lines = []
    for heading, group in groups.items():
        lines += [f"{heading}:", *(f"  {command.name:<11}{command.text}" for command in group), ""]
    return "\n".join([*lines, f"`{PROGRAM} COMMAND --help` shows the options of a command."])


def _add_up_arguments(parser: argparse.ArgumentParser) -> None:
    _config_argument(parser, required=True)
    parser.add_argument(
        "--foreground", action="store_true", help="stay, log to standard error, and keep dialling until it is up"
    )
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait for a name, route, device or address that this host does not have yet (as --foreground does), and "
        "for the server, as long as it takes",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="undo everything and fail unless it is up after so long "
        f"(default {commands.TIMEOUT:g}; with --foreground or --wait: no limit)",
    )
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)  # how the background process is started


def _add_status_arguments(parser: argparse.ArgumentParser) -> None:
    _instance_arguments(parser)
    parser.add_argument(
        "--json", action="store_true", help="for programs: a list, or one object if an instance is named"
    )
    parser.add_argument("--watch", action="store_true", help="again every second, with rates")


def _add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="its JSON file")


def _add_original_flags(role: str) -> Callable[[argparse.ArgumentParser], None]:
    def add(parser: argparse.ArgumentParser) -> None:
        from rsock_nf.ops import original_flags

        original_flags.add_flags(parser, role)

    return add


def _add_check_arguments(parser: argparse.ArgumentParser) -> None:
    _config_argument(parser, required=True)
    parser.add_argument("--print-log", action="store_true", help=argparse.SUPPRESS)  # how a running instance asks


def _required_config(parser: argparse.ArgumentParser) -> None:
    _config_argument(parser, required=True)


def _optional_config(parser: argparse.ArgumentParser) -> None:
    _config_argument(parser, required=False)


def _config_argument(parser: argparse.ArgumentParser | argparse._MutuallyExclusiveGroup, *, required: bool) -> None:
    parser.add_argument("-c", "--config", type=Path, required=required, metavar="FILE", help="the configuration file")


def _instance_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    _config_argument(which, required=False)
    which.add_argument("-n", "--name", help="the instance's name")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (0-3600)")
    return value
