"""Host names: one question to the operating system's resolver (its ``hosts`` file, DNS, or what else it asks).

Not here: when a running instance asks again (``runtime.host.names``).
"""

from __future__ import annotations

import socket
from ipaddress import ip_address

from rsock_nf.core.types import HostAddress


class LookUpError(Exception):
    """There is no answer, or the answer is that there is no such name.  The text is the resolver's reason."""

    def __init__(self, reason: str, *, temporary: bool) -> None:
        """``temporary``: the resolver could not be asked, or has no answer now."""
        super().__init__(reason)
        self.temporary = temporary


def can_be_name(name: str) -> bool:
    """Whether a host can have this name: no label is empty, or longer than 63 characters."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def look_up(name: str) -> tuple[HostAddress, ...]:
    """The addresses of a host, in the resolver's order of preference (RFC 6724): those with a route come first.

    It blocks as long as the resolver likes, perhaps minutes.  Raises ``LookUpError``.
    """
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except UnicodeError as error:  # see ``can_be_name``
        raise LookUpError(str(error), temporary=False) from None
    except OSError as error:
        temporary = not isinstance(error, socket.gaierror) or error.errno == socket.EAI_AGAIN
        raise LookUpError(error.strerror or str(error), temporary=temporary) from None
    return tuple(dict.fromkeys(_parse(str(answer[4][0])) for answer in answers))


def _parse(text: str) -> HostAddress:
    """``"fe80::1%eth0"`` → the address without its zone, and the zone."""
    bare, _, zone = text.partition("%")
    return HostAddress(ip_address(bare), zone)
