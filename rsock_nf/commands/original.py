"""What ``server`` and ``client`` share: they start an instance as the original's two programs do."""

from __future__ import annotations

import argparse

from rsock_nf.commands.output import PROGRAM, complain
from rsock_nf.commands.shared import tell
from rsock_nf.commands.starting import be_in_background, start


def add_arguments(parser: argparse.ArgumentParser, role: str) -> None:
    """The original's flags of ``role``."""
    from rsock_nf.ops import original_flags

    original_flags.add_flags(parser, role)


def run(arguments: argparse.Namespace) -> int:
    """``server`` and ``client``: start an instance as the original's two programs do."""
    if arguments.ready_fd is not None:
        return be_in_background(arguments.ready_fd)
    from rsock_nf import config
    from rsock_nf.ops import original_flags

    role = arguments.command
    if arguments.file:
        configuration = config.load(arguments.file, role)
        command = original_flags.file_command(arguments.file, role)
        for flag in original_flags.given(arguments):
            complain(f"{flag}: has no meaning beside -f")
    else:
        configuration = config.from_flags(role, original_flags.to_json(arguments, role))
        command = original_flags.flags_command(configuration.settings.name, role)
    arguments.foreground = configuration.foreground
    if not arguments.foreground:
        tell(configuration)
    name = configuration.settings.name
    which = f"`{PROGRAM} status --name {name}` shows it, `{PROGRAM} down --name {name}` stops it"
    return start(arguments, configuration, command, which)
