"""rsock-nf(1): every command with its arguments from the parsers of the command line, between sections of prose."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Final

from rsock_nf import __version__
from rsock_nf.ops.manual import roff

_DESCRIPTION: Final = """\
`rsock-nf` carries an application's UDP inside many flows that look like TCP, between a client and a server. A tunnel is
an instance; it has a name and a configuration file, rsock-nf.json(5). Instances run in the background. They need root,
or `CAP_NET_ADMIN` and `CAP_NET_RAW`; with `"type": "udp"` they need nothing."""
_BUSY: Final = """\
It cannot be done on this host now: no privilege, port in use, no answer. `status`: no instance runs, or not every one
that is shown runs. `doctor`: something is in the way."""
_SIGNALLED: Final = """\
Signal n ended the command. A start is undone then, too. `up --foreground` ends by a signal as its normal end: 0."""
_EXIT: Final = (
    ("0", "Done."),
    ("1", _BUSY),
    ("2", "Wrong arguments or configuration. Nothing was touched."),
    ("128 + n", _SIGNALLED),
)
_SIGNALS: Final = (
    ("SIGTERM, SIGINT, SIGUSR1", "The instance closes its flows, removes its rules, and ends."),
    ("SIGHUP", "Reads the configuration file again, and opens the log file anew."),
    ("SIGKILL", "The rules stay. The next `up` takes them over, `down` removes them."),
)
_FILES: Final = (
    ("/etc/rsock-nf/NAME.json", "Configuration files of services: rsock-nf.json(5)."),
    ("/run/rsock-nf/NAME/", "The control socket, the state and the log of an instance."),
    ("rsock-nf@.service", "The systemd unit, which `rsock-nf install-service` writes."),
)
_ENVIRONMENT: Final = (
    ("RSOCK_NF_RUN_DIR", "The directory of the instances, in place of /run/rsock-nf."),
    ("RSOCK_NF_DEBUG", "`1`: an unexpected error shows where it arose."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM", "Of systemd: see sd_notify(3). `up --foreground` obeys them."),
)
_EXAMPLE: Final = """
rsock-nf genkey                       # a secret, for both files
rsock-nf up --config server.json      # on the server, first
rsock-nf up --config client.json      # on the client; returns when the tunnel stands
rsock-nf status
rsock-nf down
"""


def page(parsers: Mapping[str, Sequence[argparse.ArgumentParser]], date: str) -> str:
    """``parsers``: those of the commands by heading, each with its arguments and description."""
    lines = [
        roff.title("rsock-nf", 1, date, __version__, "User Commands"),
        roff.heading("Name"),
        "rsock\\-nf \\- carry UDP inside many flows that look like TCP",
        roff.heading("Synopsis"),
        ".B rsock\\-nf\n.I COMMAND\n[\\fIoptions\\fR]",
        roff.heading("Description"),
        roff.markdown(_DESCRIPTION),
        roff.heading("Commands"),
    ]
    for heading, group in parsers.items():
        lines.append(roff.subheading(heading[:1].upper() + heading[1:]))
        for parser in group:
            lines += _command(parser)
    for heading, pairs in (
        ("Exit status", _EXIT), ("Signals", _SIGNALS), ("Files", _FILES), ("Environment", _ENVIRONMENT),
    ):  # fmt: skip
        lines += [roff.heading(heading), *roff.items(pairs)]
    lines += [roff.heading("Examples"), roff.code(_EXAMPLE)]
    lines += [
        roff.heading("See also"),
        "rsock\\-nf.json(5), nft(8), wg\\-quick(8), https://github.com/rsock\\-nf/rsock\\-nf",
    ]
    return "\n".join([*lines, ""])


def _command(parser: argparse.ArgumentParser) -> list[str]:
    """Its usage, its description, its arguments."""
    formatter = argparse.HelpFormatter(parser.prog, width=1000)
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    _, _, rest = usage.partition(parser.prog)
    lines = [f".TP\n\\fB{roff.escaped(parser.prog)}\\fR{roff.escaped(rest)}", roff.markdown(parser.description or "")]
    arguments = [
        (_term(action), formatter._expand_help(action))  # noqa: SLF001 - argparse has no other way to ask
        for action in parser._actions  # noqa: SLF001
        if action.help not in {None, argparse.SUPPRESS} and not isinstance(action, argparse._HelpAction)  # noqa: SLF001
    ]
    return [*lines, ".RS", *roff.items(arguments), ".RE"] if arguments else lines


def _term(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices:
        value = "|".join(map(str, action.choices))
    if not action.option_strings:
        return value
    joined = ", ".join(action.option_strings)
    return joined if action.nargs == 0 else f"{joined} {value}"
