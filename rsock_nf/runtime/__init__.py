"""A running instance: between the endpoint, which does no I/O, and the link, the sockets and the firewall.

``make_tunnel`` makes one, ``tunnel`` is its life, ``client`` and ``server`` put its parts together, ``driver`` is its
data path.  ``host`` has the parts that hold something of the host, ``reports`` what an operator sees.  Nothing here
decides about the protocol.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

from rsock_nf.core.parameters import ClientParameters
from rsock_nf.runtime.tunnel import Tunnel
from rsock_nf.settings import Settings
from rsock_nf.sockets.datagrams import Listener


def make_tunnel(
    settings: Settings, log: logging.Logger, *, applications: bool = True, listeners: Sequence[Listener] | None = None
) -> Tunnel:
    """The tunnel that ``settings`` describe, not started yet.  ``applications``: False = a client takes none.

    ``listeners``: the client's sockets toward applications, open already; it closes them.
    """
    if isinstance(settings.tunnel, ClientParameters):
        from rsock_nf.runtime import client  # one role is imported, not both: that takes time

        ends = settings.listen if applications else ()
        build = functools.partial(
            client.build, settings, settings.tunnel, ends=ends if listeners is None else listeners
        )
        return Tunnel(settings, build, log)
    from rsock_nf.runtime import server

    return Tunnel(settings, functools.partial(server.build, settings, settings.tunnel), log)


__all__ = ["Tunnel", "make_tunnel"]
