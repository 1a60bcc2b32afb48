"""How many files an instance may open: one descriptor for each held port, each carrier and each conversation.

Not here: what a server does when that is not enough for its conversations (``runtime.host.conversation_limit``).
"""

from __future__ import annotations

import contextlib
import resource

from rsock_nf.core.parameters import ServerParameters
from rsock_nf.policy import carrier_ports, fake_tcp_ports
from rsock_nf.settings import Settings

_OWN = 256
"""For everything else: log, control socket, link, and so on."""
_OPEN_MAX = 10_240  # sys/syslimits.h: where "unlimited" is not taken (macOS)


def needed(settings: Settings) -> int:
    """The descriptors that an instance may come to need."""
    count = _OWN
    for tunnel in settings.tunnels:
        if isinstance(tunnel, ServerParameters):
            count += tunnel.max_conversations
    if isinstance(settings.tunnel, ServerParameters):
        named = len(settings.addresses)
        count += sum(map(len, fake_tcp_ports(settings))) * (named or 1)
        count += sum(map(len, carrier_ports(settings))) * (named or 2)
    return count


def raise_limit(count: int) -> None:
    """Let this process have as many descriptors as it may, and if possible ``count``.

    The usual soft limit is 1,024.  To raise the hard limit takes CAP_SYS_RESOURCE; who lacks that, and needs
    more, is told when a port cannot be held.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = hard == resource.RLIM_INFINITY or hard >= count
    for soft, limit in ([] if enough else [(count, count)]) + [(hard, hard), (_OPEN_MAX, hard)]:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limit))
            return
