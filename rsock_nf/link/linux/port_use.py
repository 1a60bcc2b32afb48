"""Who else may use this host's ports: the kernel for its own connections, and others whose traffic it forwards."""

from __future__ import annotations

from pathlib import Path

from rsock_nf.core.types import PortRange
from rsock_nf.link.protocol import NO_DESCRIPTOR

_SYSCTL = Path("/proc/sys/net")
_RANGE = "ipv4/ip_local_port_range"
_RESERVED = "ipv4/ip_local_reserved_ports"
_BRIDGED = ("bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables")
_DEVICES = Path("/sys/class/net")
_FORWARDING = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")


def forwards(sysctl: Path = _SYSCTL) -> bool:
    """See ``System.forwards``.  Docker, wg-quick and every router switch it on, perhaps long after we start.

    Raises ``OSError`` when no descriptor is left to look with."""
    return any(_read(sysctl / name).strip() not in ("", "0") for name in _FORWARDING)


def filters_bridged(sysctl: Path = _SYSCTL, devices: Path = _DEVICES) -> bool:
    """Whether there is a bridge whose packets pass nftables and iptables (br_netfilter).

    It is switched on for all bridges, as Docker does, or for one of them.
    Raises ``OSError`` when no descriptor is left to look with."""
    try:
        bridges = [bridge for device in devices.iterdir() if (bridge := device / "bridge").is_dir()]
    except (FileNotFoundError, NotADirectoryError):  # no /sys; a device has just gone
        bridges = []
    named = [sysctl / name for name in _BRIDGED if bridges]
    own = [bridge / name for bridge in bridges for name in ("nf_call_iptables", "nf_call_ip6tables")]
    return any(_read(file).strip() not in ("", "0") for file in (*named, *own))


def ephemeral_ports(sysctl: Path = _SYSCTL) -> tuple[PortRange, ...]:
    """See ``System.ephemeral_ports``: net.ipv4.ip_local_port_range, which is for IPv6 too, without the reserved ones
    (Documentation/networking/ip-sysctl.rst)."""
    words = _read(sysctl / _RANGE).split()
    if len(words) != 2:
        return ()
    free = [PortRange(int(words[0]), int(words[1]))]
    for text in filter(None, _read(sysctl / _RESERVED).strip().split(",")):
        first, _, last = text.partition("-")
        free = [part for span in free for part in _without(span, int(first), int(last or first))]
    return tuple(free)


def _without(span: PortRange, first: int, last: int) -> list[PortRange]:
    parts = [(span.first, min(span.last, first - 1)), (max(span.first, last + 1), span.last)]
    return [PortRange(*part) for part in parts if part[0] <= part[1]]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        if error.errno in NO_DESCRIPTOR:
            raise
        return ""  # no /proc, or a kernel without IPv6
