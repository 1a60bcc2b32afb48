"""The errors that reach the user: each is one line that names what is wrong and, where there is one, the remedy.

Not here: ``LinkError`` and ``FirewallError``, which belong to the two doors to the operating system, and ``Malformed``,
which never leaves the code that parses packets.
"""

from __future__ import annotations

from pathlib import Path


class RsockError(Exception):
    """Something that the user can act on.  The command line prints it and exits with ``exit_code``."""

    exit_code = 1


class UsageError(RsockError):
    """The words of the command line cannot be used.  Nothing on the host was changed."""

    exit_code = 2


class ConfigError(RsockError):
    """The configuration cannot be used.  Nothing on the host was changed."""

    exit_code = 2

    def __init__(self, path: Path, field: str, message: str) -> None:
        """``field`` is the dotted path of the key in the file, or empty when the file as a whole is meant."""
        super().__init__(f"{path}: {field}: {message}" if field else f"{path}: {message}")
        self.path = path
        self.field = field
        self.message = message


class UnresolvedError(ConfigError):
    """A host name cannot be resolved at the moment: the file may be right."""

    exit_code = 1


class TunnelError(RsockError):
    """The tunnel cannot start or go on: a port is taken, the device is gone, the firewall refused."""


class NotYetError(TunnelError):
    """A name's address, a route, a device or an address of this host is not there.  It may appear later, as at boot."""


class InstanceError(RsockError):
    """An instance is in the way (running with another configuration), missing, or does not stop."""


class ControlError(RsockError):
    """A running instance does not answer, or answers that it cannot do what was asked."""
