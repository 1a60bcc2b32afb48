"""Running instances: file descriptors in, ``poll`` drained, one timer.

Between the sans-IO endpoint, the link, the application's sockets and the firewall; it decides nothing about the protocol.
``make_tunnel`` makes one instance, ``tunnel`` is its life, ``client`` and ``server`` put its parts together, ``driver`` is
its data path.
"""

from __future__ import annotations

import functools
import logging

from rsock_nf.core.parameters import ClientParameters
from rsock_nf.runtime import client, server
from rsock_nf.runtime.tunnel import Build, Tunnel
from rsock_nf.settings import Settings


def make_tunnel(settings: Settings, log: logging.Logger) -> Tunnel:
    """The tunnel that ``settings`` describe, not started yet."""
    build: Build
    if isinstance(settings.tunnel, ClientParameters):
        build = functools.partial(client.build, settings, settings.tunnel)
    else:
        build = functools.partial(server.build, settings, settings.tunnel)
    return Tunnel(settings, build, log)


__all__ = ["Tunnel", "make_tunnel"]
