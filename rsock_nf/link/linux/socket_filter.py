"""Giving a socket a classic BPF filter: SO_ATTACH_FILTER (socket(7))."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final

from rsock_nf.link.cbpf import RET, Instruction, encode

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
REFUSE_ALL: Final = (Instruction(RET, 0, 0, 0),)
"""Keep 0 bytes of everything."""


def attach_filter(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Replace the socket's filter, atomically.  Raises ``OSError``."""
    code = ctypes.create_string_buffer(encode(program))
    sock_fprog = struct.pack("HP", len(program), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, sock_fprog)
