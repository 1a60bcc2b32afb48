"""The asyncio driver: file descriptors in, ``poll_*`` drained, one timer re-armed.

Between the sans-IO core, the link, the application's sockets and the firewall; it decides
nothing about the protocol.  ``make_tunnel`` makes one instance.
"""

from __future__ import annotations

import logging

from rsock_nf.core.parameters import ClientParameters
from rsock_nf.errors import TunnelError
from rsock_nf.runtime.client import ClientTunnel
from rsock_nf.runtime.server import ServerTunnel
from rsock_nf.settings import Settings


def make_tunnel(settings: Settings, log: logging.Logger) -> ClientTunnel | ServerTunnel:
    """The tunnel that ``settings`` describe, not started yet.  Raises ``TunnelError``."""
    _refuse_udp(settings)
    if isinstance(settings.tunnel, ClientParameters):
        return ClientTunnel(settings, settings.tunnel, log)
    return ServerTunnel(settings, settings.tunnel, log)


def _refuse_udp(settings: Settings) -> None:
    if settings.tunnel.carriers.udp or (settings.rsock and settings.rsock.carriers.udp):
        raise TunnelError(f'{settings.path}: type: only "tcp" is available yet')


__all__ = ["ClientTunnel", "ServerTunnel", "make_tunnel"]
