"""One line of text for each way in which bind and connect fail."""

from __future__ import annotations

import errno
import os

from rsock_nf.core.types import TransportAddress
from rsock_nf.link import AbsentError, LinkError, system

_ABSENT = (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO)


def refusal(action: str, endpoint: TransportAddress, error: OSError) -> LinkError:
    """The error to raise, with the text of ``why_not``; ``AbsentError`` for an address or a device that may appear."""
    kind = AbsentError if error.errno in _ABSENT else LinkError
    return kind(why_not(action, endpoint, error))


def why_not(action: str, endpoint: TransportAddress, error: OSError) -> str:
    """One line that says what failed, where, and what to do about it."""
    what = f"cannot {action} {endpoint}"
    remedies = system().remedies
    match error.errno:
        case errno.EADDRINUSE:
            return f"{what}: address in use; `{remedies.udp_port.format(port=endpoint.port)}` tells by whom"
        case errno.EADDRNOTAVAIL:
            return f"{what}: not an address of this host; `{remedies.addresses}` lists them"
        case errno.EACCES | errno.EINVAL if "flow" in action:  # a route or a rule: prohibit, blackhole
            return f"{what}: no route, or a rule forbids it ({os.strerror(error.errno)})"
        case errno.EACCES:
            return f"{what}: permission denied; ports below 1024 need {remedies.low_ports}"
        case errno.ENODEV | errno.ENXIO:
            return f"{what}: no such device {endpoint.scope}"
        case errno.EINVAL if endpoint.address.is_link_local and not endpoint.scope:
            return f"{what}: a link-local address needs its device, as in {endpoint.address}%eth0"
        case errno.EMFILE | errno.ENFILE:
            return f"{what}: too many open files; raise `ulimit -n`"
    return f"{what}: {os.strerror(error.errno) if error.errno else error}"
