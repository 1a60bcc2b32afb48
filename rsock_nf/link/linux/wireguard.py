"""What the kernel's WireGuard says of its UDP socket: its port, and the addresses of its peers.

That socket belongs to no program, so /proc does not tell whose it is.  It is asked for over generic netlink
(include/uapi/linux/wireguard.h, WG_CMD_GET_DEVICE), for which CAP_NET_ADMIN is wanted.
"""

from __future__ import annotations

import contextlib
import errno
import os
from ipaddress import ip_address
from typing import Any, Final

from rsock_firewall.netlink import NLM_F_REQUEST, NetlinkSocket
from rsock_nf.core.types import IPAddress

_NETLINK_GENERIC: Final = 16
_ANY: Final = ip_address(0)

Ends = tuple[tuple[IPAddress, int], tuple[IPAddress, int]]
"""Local and remote address of a UDP socket, each with its port."""


def wireguard_sockets(device: str) -> list[Ends]:
    """The socket of the WireGuard device ``device``, once for each of its peers.  Empty if the kernel does not tell."""
    try:
        from pyroute2.netlink.generic.wireguard import WG_CMD_GET_DEVICE, wgmsg  # 0.2 s, and only here

        with contextlib.closing(NetlinkSocket(_NETLINK_GENERIC)) as kernel:
            request = wgmsg()
            request["cmd"], request["version"] = WG_CMD_GET_DEVICE, 1
            request["attrs"] = [["WGDEVICE_A_IFNAME", device]]
            request["header"]["type"] = _family(kernel, "wireguard")
            request["header"]["flags"] = NLM_F_REQUEST
            answers, _ = kernel.dump(request, 1)
    except OSError:
        return []
    return [ends for answer in answers for ends in _ends(wgmsg(answer))]


def _family(kernel: NetlinkSocket, name: str) -> int:
    """The number of a generic netlink family.  Raises ``OSError`` when the kernel does not have it."""
    from pyroute2.netlink import CTRL_CMD_GETFAMILY, GENL_ID_CTRL, ctrlmsg

    request = ctrlmsg()
    request["cmd"], request["version"] = CTRL_CMD_GETFAMILY, 1
    request["attrs"] = [["CTRL_ATTR_FAMILY_NAME", name]]
    request["header"]["type"] = GENL_ID_CTRL
    request["header"]["flags"] = NLM_F_REQUEST
    answer = ctrlmsg(kernel.ask(request))
    answer.decode()
    number = answer.get_attr("CTRL_ATTR_FAMILY_ID")
    if number is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return int(number)


def _ends(told: Any) -> list[Ends]:
    told.decode()
    local = (_ANY, told.get_attr("WGDEVICE_A_LISTEN_PORT") or 0)
    endpoints = [peer.get_attr("WGPEER_A_ENDPOINT") for peer in told.get_attr("WGDEVICE_A_PEERS") or ()]
    known = [(ip_address(one["addr"]), int(one["port"])) for one in endpoints if one is not None]
    return [(local, remote) for remote in known or [(_ANY, 0)]]
