"""Whether a Linux host has what a tunnel needs.  It reads, and opens a socket for a moment; it changes nothing."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from rsock_nf.link.checks import Finding, Verdict
from rsock_nf.link.linux.ethtool import ethtool_value

_NET = Path("/sys/class/net")
_AF_PACKET = 17  # linux/socket.h
_FEATURES = {  # include/uapi/linux/ethtool.h: ETHTOOL_GTSO, ETHTOOL_GGSO, ETHTOOL_GGRO
    "tso": (0x1E, "bursts are cut in software"),
    "gso": (0x23, "every segment costs the whole way through the kernel"),
    "gro": (0x2B, "received segments come one by one"),
}

_LARGEST_MTU = 9000
"""Of a VPN device that somebody has chosen: that of jumbo frames."""


def examine_host() -> list[Finding]:
    """See ``System.examine_host``."""
    return [_kernel(), _packet_socket()]


def examine_device(device: str, *, tap: bool) -> list[Finding]:
    """See ``System.examine_device``."""
    return [*_device_state(device), *_offloads(device), *(_bridge(device) if tap else ()), *_vpn_devices()]


def _kernel() -> Finding:
    release = os.uname().release
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < (6, 9):
        text = f"{release}: no persistent nftables tables (6.9): rules are watched and put back instead"
        return Finding(Verdict.OK, "kernel", text)
    return Finding(Verdict.OK, "kernel", f"{release}: rules can be owned by the instance and outlive its crash")


def _packet_socket() -> Finding:
    try:
        socket.socket(_AF_PACKET, socket.SOCK_RAW, 0).close()
    except PermissionError:
        return Finding(Verdict.FAIL, "packet socket", "not permitted: CAP_NET_RAW is wanted")
    except OSError as error:
        return Finding(Verdict.FAIL, "packet socket", f"{error.strerror}: a kernel with CONFIG_PACKET is wanted")
    return Finding(Verdict.OK, "packet socket", "AF_PACKET can be opened")


def _device_state(device: str) -> Iterator[Finding]:
    entry = _NET / device
    if not entry.exists():
        yield Finding(Verdict.FAIL, "device", f"{device} does not exist: `ip link` lists those that do")
        return
    if not int((entry / "flags").read_text(), 16) & 1:  # IFF_UP
        yield Finding(Verdict.FAIL, "device", f"{device} is down: ip link set {device} up")
        return
    mtu = int((entry / "mtu").read_text())
    if mtu < 1280:
        yield Finding(Verdict.WARN, "device", f"{device}, MTU {mtu}: IPv6 wants 1280: ip link set {device} mtu 1280")
    else:
        yield Finding(Verdict.OK, "device", f"{device}, MTU {mtu}")


def _offloads(device: str) -> Iterator[Finding]:
    for name, (command, consequence) in _FEATURES.items():
        enabled = ethtool_value(device, command)
        if enabled is None:
            continue  # the device does not exist, or does not say
        if enabled:
            yield Finding(Verdict.OK, name, f"on, {device}", quiet=True)
        elif name == "gro" and not (_NET / device / "device").exists():
            # Only a card's own receive path merges.  What a veth or a tunnel's device gets was merged before, or cut.
            yield Finding(Verdict.OK, name, f"off, {device}, which is no card: it makes no difference", quiet=True)
        else:
            yield Finding(Verdict.WARN, name, f"off, {device}: {consequence}: ethtool -K {device} {name} on")


def _bridge(device: str) -> Iterator[Finding]:
    """With ``device``: the port of a bridge hides its traffic from us."""
    if (_NET / device / "brport").exists():
        bridge = (_NET / device / "brport" / "bridge").resolve().name
        text = f'{device} is a port of {bridge}: set "device": "{bridge}"'
        yield Finding(Verdict.WARN, "bridge", text)


def _vpn_devices() -> Iterator[Finding]:
    """WireGuard's devices, and those of programs, whose MTU nobody has chosen.

    Without ``MTU =`` wg-quick takes the MTU of the route to the endpoint, less 80 (wg-quick(8)).  The endpoint is our
    local end, so that is the loopback's.
    """
    for entry in sorted(_NET.iterdir()):
        try:
            is_vpn = (entry / "tun_flags").exists() or "DEVTYPE=wireguard" in (entry / "uevent").read_text()
            mtu = int((entry / "mtu").read_text())
        except OSError:  # bonding_masters is a file, and devices may go meanwhile
            continue
        if is_vpn and mtu > _LARGEST_MTU:
            text = f"{entry.name} has {mtu}: wg-quick without `MTU =` takes the loopback's, and large packets are cut"
            yield Finding(Verdict.WARN, "MTU", f"{text}: set `MTU =` in its [Interface]")
