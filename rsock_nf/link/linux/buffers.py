"""The size of a Linux socket's buffers: beyond net.core.[rw]mem_max with CAP_NET_ADMIN, up to it without (socket(7))."""

from __future__ import annotations

import socket

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h


def enlarge_receive(sock: socket.socket, size: int) -> None:
    """To ``size`` bytes, which the kernel doubles.  Raises ``OSError``, but not for want of the privilege."""
    _enlarge(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF, size)


def enlarge_send(sock: socket.socket, size: int) -> None:
    """See ``enlarge_receive``."""
    _enlarge(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, size)


def _enlarge(sock: socket.socket, forced: int, plain: int, size: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, plain, size)
