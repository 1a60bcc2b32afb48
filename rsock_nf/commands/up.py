"""``up``: start an instance of a configuration file."""

from __future__ import annotations

import argparse
from dataclasses import replace

from rsock_nf.commands.output import PROGRAM
from rsock_nf.commands.shared import config_argument, loaded, required_file
from rsock_nf.commands.starting import TIMEOUT, be_in_background, start
from rsock_nf.errors import InstanceError, UnresolvedError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``up``."""
    config_argument(parser, required=True)
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
        f"(default {TIMEOUT:g}; with --foreground or --wait: no limit)",
    )
    parser.add_argument(
        "--user",
        type=_user,
        metavar="USER",
        help="the system user that the instance becomes, unless the file names one (services use it)",
    )
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)  # how the background process is started


def run(arguments: argparse.Namespace) -> int:
    """Start an instance of a configuration file."""
    if arguments.ready_fd is not None:
        return be_in_background(arguments.ready_fd, wait=arguments.wait)
    from rsock_nf.ops import launch

    path = required_file(arguments)
    patient = arguments.foreground or arguments.wait
    try:
        configuration = loaded(path, warn=not arguments.foreground, patient=patient)  # else the log has them
    except UnresolvedError as error:
        raise InstanceError(f"{error}; `{PROGRAM} up --wait` waits for it") from None
    if arguments.user is not None and configuration.settings.user is None:
        configuration = replace(configuration, settings=replace(configuration.settings, user=arguments.user))
    command = launch.background_command(configuration.settings.path, wait=arguments.wait)
    return start(arguments, configuration, command)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (0-3600)")
    return value


def _user(text: str) -> str:
    from rsock_nf.config.values import parse_user

    try:
        return parse_user(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
