"""The asyncio driver: file descriptors in, ``poll`` drained, one timer re-armed.

Between the sans-IO core, the link, the application's sockets and the firewall; it decides
nothing about the protocol.  ``make_tunnel`` makes one instance.
"""

from __future__ import annotations

import logging

from rsock_nf.core.parameters import ClientParameters
from rsock_nf.runtime.client import ClientTunnel
from rsock_nf.runtime.server import ServerTunnel
from rsock_nf.settings import Settings


def make_tunnel(settings: Settings, log: logging.Logger) -> ClientTunnel | ServerTunnel:
    """The tunnel that ``settings`` describe, not started yet."""
    if isinstance(settings.tunnel, ClientParameters):
        return ClientTunnel(settings, settings.tunnel, log)
    return ServerTunnel(settings, settings.tunnel, log)


__all__ = ["ClientTunnel", "ServerTunnel", "make_tunnel"]
