"""Host names: one question to the operating system's resolver (its ``hosts`` file, DNS, or what else it asks).

Not here: when a running instance asks again (``runtime.host.names``).
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Final

from rsock_nf.core.types import HostAddress

_NEVER: Final = UnicodeError
"""What Python raises about text that can be no host name: an empty label, or one of more than 63 characters."""


class LookUpError(Exception):
    """There is no answer, or the answer is that there is no such name.  The text is the resolver's reason."""

    def __init__(self, reason: str, *, temporary: bool, wrong: bool = False) -> None:
        """``temporary``: the resolver could not be asked, or has no answer now.  ``wrong``: no host can have it."""
        super().__init__(reason)
        self.temporary = temporary
        self.wrong = wrong


def look_up(name: str) -> tuple[HostAddress, ...]:
    """The addresses of a host, in the resolver's order of preference (RFC 6724): those with a route come first.

    It blocks as long as the resolver likes, perhaps minutes.  Raises ``LookUpError``.
    """
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except _NEVER as error:
        raise LookUpError(str(error), temporary=False, wrong=True) from None
    except OSError as error:
        temporary = not isinstance(error, socket.gaierror) or error.errno == socket.EAI_AGAIN
        raise LookUpError(error.strerror or str(error), temporary=temporary) from None
    return tuple(dict.fromkeys(_parse(str(answer[4][0])) for answer in answers))


def _parse(text: str) -> HostAddress:
    """``"fe80::1%eth0"`` → the address without its zone, and the zone."""
    bare, _, zone = text.partition("%")
    return HostAddress(ip_address(bare), zone)
