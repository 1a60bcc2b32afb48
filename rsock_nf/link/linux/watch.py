"""Looking on: an AF_PACKET socket that shows a tunnel's packets in both directions, with the kernel's time stamps.

It takes nothing away from the tunnel: each packet socket gets packets of its own.  What GSO has not cut yet, or GRO has
merged, is shown as one packet, as tcpdump shows it.  ``tap_filter.watch_program`` says which packets are seen.

The filter is attached while the socket is bound to no protocol, so no foreign packet is ever queued.

Sources: packet(7), include/uapi/linux/if_packet.h (PACKET_AUXDATA), include/uapi/asm-generic/socket.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

from rsock_nf.link.ethernet import ETHERNET_HEADER
from rsock_nf.link.linux import arphrd
from rsock_nf.link.linux.buffers import enlarge_receive
from rsock_nf.link.linux.devices import Devices
from rsock_nf.link.linux.rtnetlink import RouteSocket
from rsock_nf.link.linux.sender import AF_PACKET, SOL_PACKET
from rsock_nf.link.linux.socket_filter import attach_filter
from rsock_nf.link.linux.stamp import SO_TIMESTAMPNS, TIMESPEC
from rsock_nf.link.linux.tap import bind_to_all, new_drops
from rsock_nf.link.linux.tap_filter import PACKET_OUTGOING, watch_program
from rsock_nf.link.protocol import AbsentError, LinkError, Seen, Watched

_PACKET_AUXDATA: Final = 8
_AUXDATA: Final = struct.Struct("=IIIHHHH")
"""struct tpacket_auxdata: tp_status, tp_len, tp_snaplen, tp_mac, tp_net, tp_vlan_tci, tp_vlan_tpid."""
_ANCILLARY: Final = socket.CMSG_SPACE(_AUXDATA.size) + socket.CMSG_SPACE(TIMESPEC.size)
_RECEIVE_BUFFER: Final = 32 << 20


class PacketWatch:
    """See ``Watch``.  ``device``: the only one that is looked at; None = all.  ``snap``: bytes of an IP packet to keep.

    Raises ``LinkError``.
    """

    def __init__(self, watched: Watched, device: str | None, snap: int) -> None:
        self._drops = 0
        self._buffer = memoryview(bytearray(ETHERNET_HEADER + snap))
        self._snap = snap
        only, hidden = _place(device)
        try:
            self._socket = socket.socket(AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError:
            raise LinkError("no permission for a packet socket: run it as root or grant CAP_NET_RAW") from None
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(SOL_PACKET, _PACKET_AUXDATA, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            enlarge_receive(self._socket, _RECEIVE_BUFFER)
            attach_filter(self._socket, watch_program(watched, only=only, hidden=hidden))
            bind_to_all(self._socket)
        except ValueError as error:
            self._socket.close()
            raise LinkError(str(error)) from None
        except OSError as error:
            self._socket.close()
            raise LinkError(f"cannot bind a packet socket: {error.strerror}") from None

    def fileno(self) -> int:
        """See ``Watch``."""
        return self._socket.fileno()

    def read(self, budget: int) -> list[Seen]:
        """See ``Watch``.  A device that goes down is told once to a socket, and is no trouble here."""
        found = []
        for _ in range(budget):
            try:
                size, ancillary, _, name = self._socket.recvmsg_into([self._buffer], _ANCILLARY)
            except BlockingIOError:
                break
            except OSError:
                continue
            found.append(self._seen(size, ancillary, name))
        return found

    def _seen(self, size: int, ancillary: list[tuple[int, int, bytes]], name: tuple[str, int, int, int, bytes]) -> Seen:
        device, _, direction, kind, _ = name
        ethernet = kind not in arphrd.HEADERLESS
        when, length = 0, size
        for level, option, content in ancillary:
            if (level, option) == (SOL_PACKET, _PACKET_AUXDATA):
                length = _AUXDATA.unpack_from(content)[1]
            elif (level, option) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                seconds, nanoseconds = TIMESPEC.unpack_from(content)
                when = seconds * 1_000_000_000 + nanoseconds
        kept = min(size, self._snap + (ETHERNET_HEADER if ethernet else 0))
        return Seen(when, device, direction == PACKET_OUTGOING, ethernet, bytes(self._buffer[:kept]), length)

    def drops(self) -> int:
        """See ``Watch``."""
        self._drops += new_drops(self._socket)
        return self._drops

    def close(self) -> None:
        """See ``Watch``."""
        self._socket.close()


def _place(name: str | None) -> tuple[int, list[int]]:
    """The index of that device (0 = any), and the devices whose packets are seen again on their master."""
    with contextlib.closing(RouteSocket()) as kernel:
        devices = Devices(kernel)
    if name is None:
        return 0, devices.hidden()
    device = devices.named(name)
    if device is None:
        raise AbsentError(f"device {name} does not exist")
    return device.ifindex, []
