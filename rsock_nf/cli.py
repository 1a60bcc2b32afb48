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
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, NoReturn

from rsock_nf import __version__
from rsock_nf.commands.output import PROGRAM, complain
from rsock_nf.errors import RsockError

_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""
_COMMANDS: Final = "rsock_nf.commands"
"""Where each command has a module."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    words = _spelt_out(sys.argv[1:] if argv is None else list(argv))
    parser, parsers = _parser(words)
    arguments, extra = parser.parse_known_args(words)
    if extra and arguments.command != "demo":
        parsers[arguments.command].error(_unrecognized(extra, parsers[arguments.command]))
    arguments.extra = extra
    arguments.whole_parser = whole_parser
    try:
        status: int = _module(arguments.command).run(arguments)
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


class Command(NamedTuple):
    """One command of the command line; ``rsock_nf.commands`` has a module of its name, with ``_`` for ``-``."""

    name: str
    text: str
    has_help: bool = True
    """Else it parses its own options, ``--help`` among them."""


GROUPS: Final[dict[str, tuple[Command, ...]]] = {
    "tunnels": (
        Command("up", "start a tunnel; returns when it is up"),
        Command("down", "stop one tunnel or all; remove rules, also after a crash"),
        Command("status", "show sessions, flows, loss, round-trip times and counters"),
        Command("ping", "measure round trips through a running tunnel"),
        Command("speedtest", "measure what a running tunnel carries, down and up"),
        Command("reconnect", "clients: replace every flow, keep the session"),
        Command("kick", "servers: end the sessions of one client"),
        Command("reload", "follow the configuration file as it is now, without down"),
    ),
    "configuration": (
        Command("init", "make a server's file, and the line that makes the client's"),
        Command("join", "make the client's file from that line"),
        Command("genkey", "make a secret"),
        Command("check", "validate a configuration file"),
        Command("rules", "print the exact firewall rules; touch nothing"),
        Command("schema", "print the JSON schema of the configuration file"),
        Command("convert", "print a configuration of the original rsock as ours"),
    ),
    "this host": (
        Command("install-service", "have systemd start tunnels at boot"),
        Command("completion", "print the completions of a shell"),
        Command("doctor", "check this host and, of a client, the way to its server"),
        Command("capture", "write a tunnel's packets for Wireshark, also decrypted"),
        Command("demo", "show a tunnel at work in network namespaces (as root)", has_help=False),
    ),
    "compatibility with the original rsock (for new tunnels, use up)": (
        Command("server", "start a server by the original's flags"),
        Command("client", "start a client by the original's flags"),
    ),
}
"""The commands by heading, in the order in which ``--help`` lists them."""


class Parser(argparse.ArgumentParser):
    """Its errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Tell it, and exit: 2."""
        complain(f"{message}; see `{self.prog} --help`", command=self.prog)
        raise SystemExit(2)


def _spelt_out(words: list[str]) -> list[str]:
    """``help`` and ``version`` as the options that they stand for; a command that does not exist ends it."""
    at = next((at for at, word in enumerate(words) if not word.startswith("-")), None)
    match words[at:] if at is not None else []:
        case ["help", command, *_] if not command.startswith("-"):
            return _spelt_out([command, "--help"])
        case ["help", *_]:
            return ["--help"]
        case ["version", *_]:
            return ["--version"]
        case [word, *_] if word not in (known := [command.name for group in GROUPS.values() for command in group]):
            complain(f"there is no command {word!r}{_meant(word, known)}; `{PROGRAM} --help` lists them")
            raise SystemExit(2)
    return words


def _unrecognized(extra: list[str], parser: argparse.ArgumentParser) -> str:
    options = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001 - read only
    return f"unrecognized arguments: {' '.join(extra)}{_meant(extra[0].partition('=')[0], options)}"


def _meant(word: str, known: Sequence[str]) -> str:
    import difflib  # not for a command line without mistakes

    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def whole_parser() -> Parser:
    """The parser with every command and its arguments: what completions are made of."""
    return _parser((), whole=True)[0]


def parsers_by_heading() -> dict[str, list[Parser]]:
    """That of every command, with its arguments: what the man page is made of."""
    parsers = _parser((), whole=True)[1]
    return {heading: [parsers[command.name] for command in group] for heading, group in GROUPS.items()}


def _parser(argv: Sequence[str], *, whole: bool = False) -> tuple[Parser, dict[str, Parser]]:
    """The parser for ``argv``, and that of each command; only the command that is called has its arguments.

    ``whole``: all have theirs, and the text of ``GROUPS`` as help, which ``--help`` lists by itself.
    """
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [-h] [-V] COMMAND ...",
        description="Carries an application's UDP inside many flows that look like TCP.",
        epilog=_listed(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"{PROGRAM} {__version__}")
    subparsers = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", prog=PROGRAM, help=None if whole else argparse.SUPPRESS
    )
    called = next((word for word in argv if not word.startswith("-")), "")
    for command in (command for group in GROUPS.values() for command in group):
        described = f"{command.text[:1].upper()}{command.text[1:]}."
        listed: dict[str, Any] = {"help": command.text} if whole else {}
        made = subparsers.add_parser(command.name, description=described, add_help=command.has_help, **listed)
        if whole or command.name == called:
            module = _module(command.name)
            if hasattr(module, "add_arguments"):
                module.add_arguments(made)
    return parser, subparsers.choices


def _module(command: str) -> Any:
    return importlib.import_module(f"{_COMMANDS}.{command.replace('-', '_')}")


def _listed() -> str:
    width = max(len(command.name) for group in GROUPS.values() for command in group) + 2
    lines = []
    for heading, group in GROUPS.items():
        lines += [f"{heading}:", *(f"  {command.name:<{width}}{command.text}" for command in group), ""]
    return "\n".join([*lines, f"`{PROGRAM} help COMMAND` shows the options of a command."])
