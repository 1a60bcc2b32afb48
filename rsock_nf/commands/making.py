"""What ``init`` and ``join`` share: they make a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from rsock_nf.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from rsock_nf.config.invitation import Invitation
    from rsock_nf.ops.new_tunnel import Key

_OPTIONS: Final = {"server": "public"}
"""The option from which a key comes, where it has another name."""


def made(invitation: Invitation, keys: list[Key], role: str, *, force: bool) -> Path:
    """The file that has been written.  Raises ``UsageError`` for a value that cannot be used, ``InstanceError``."""
    from rsock_nf import config
    from rsock_nf.config.values import parse_host, parse_name
    from rsock_nf.ops import new_tunnel
    from rsock_nf.ops.applications import application

    for option, parse, values in (("name", parse_name, [invitation.name]), ("public", parse_host, invitation.servers)):
        for value in values:
            try:
                parse(value)
            except ValueError as error:
                raise UsageError(f"--{option}: {error}") from None
    path = new_tunnel.path_for(invitation.name, force=force)
    try:
        config.judge(path, {key.name: key.value for key in keys})
    except ConfigError as error:
        raise UsageError(f"--{_OPTIONS.get(error.field, error.field)}: {error.message}") from None
    heading = f"rsock-nf, {role} of the tunnel {invitation.name}, for {application(invitation.application).title}."
    new_tunnel.write(path, new_tunnel.text_of(heading, keys), force=force)
    return path
