"""Features of a device, as ``ethtool`` reads them, and which devices take bursts.

The kernel cuts a burst behind its link header.  For a packet socket it takes that header to be as long as the device
says (``hard_header_len``).  Two kinds of devices say more than a sender writes, and then bursts are lost, without an
error if the device has a queue:

* PPP: 2 bytes, which the device adds itself;
* a VLAN on a card that does not put in the tag: 4 bytes more than Ethernet.

Sources: net/packet/af_packet.c, packet_snd; drivers/net/ppp/ppp_generic.c, ppp_setup; net/8021q/vlan_dev.c,
vlan_dev_init; include/uapi/linux/ethtool.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from typing import Final

from rsock_nf.link.linux import arphrd
from rsock_nf.link.linux.rtnetlink import Device

_SIOCETHTOOL: Final = 0x8946  # include/uapi/linux/sockios.h
_GET_FLAGS: Final = 0x25
_TAGS_WHAT_IS_SENT: Final = 1 << 7
"""ETHTOOL_GFLAGS, ETH_FLAG_TXVLAN"""


def ethtool_value(device: str, command: int) -> int | None:
    """The answer to a command with one number, ETHTOOL_G*; None = it cannot be told."""
    value = ctypes.create_string_buffer(struct.pack("=II", command, 0), 8)
    request = struct.pack("16sP", device.encode(), ctypes.addressof(value))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            fcntl.ioctl(asked, _SIOCETHTOOL, request.ljust(40, b"\0"))
    except OSError:
        return None
    return int(struct.unpack("=II", value.raw)[1])


def takes_bursts(device: Device) -> bool:
    """Whether bursts that are given to it as one packet arrive."""
    if device.link_type == arphrd.PPP:
        return False
    if device.kind != "vlan" or not device.lower:
        return True
    try:
        card = socket.if_indextoname(device.lower)
    except OSError:  # it is in another namespace, or gone
        return True
    flags = ethtool_value(card, _GET_FLAGS)
    return flags is None or bool(flags & _TAGS_WHAT_IS_SENT)
