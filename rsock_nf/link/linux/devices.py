"""All network devices of the host and their addresses, as the kernel last told them.

It reads everything once, and is kept up to date by the kernel's news.

Not here: routes (``ways``) and neighbours (``neighbours``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rsock_nf.core.types import IPAddress
from rsock_nf.link.linux import arphrd
from rsock_nf.link.linux import rtnetlink as rtnl
from rsock_nf.link.linux.routes import is_temporary, ranked
from rsock_nf.link.linux.rtnetlink import Device, DeviceAddress, RouteSocket

PASS_UP: Final = ("bridge", "bond", "team", "openvswitch")
"""Kinds of masters.  What comes in by one of their ports comes in a second time, by the master itself."""
_VPNS: Final = ("tun", "wireguard", "ovpn", "ovpn-dco")
"""Kinds of devices whose packets a program, or the kernel's WireGuard or OpenVPN, carries elsewhere."""
_SECOND_CHOICE: Final = rtnl.IFA_F_TENTATIVE | rtnl.IFA_F_DEPRECATED


class Devices:
    """The devices of one network namespace.  ``kernel`` answers its questions."""

    def __init__(self, kernel: RouteSocket) -> None:
        """Raises ``OSError`` when the kernel cannot be asked."""
        self._kernel = kernel
        self._by_index: dict[int, Device] = {}
        self._addresses: list[DeviceAddress] = []
        self.read_all()

    def read_all(self) -> None:
        """Ask the kernel for everything."""
        self._by_index = {device.ifindex: device for device in self._kernel.devices()}
        self.read_addresses()

    def read_addresses(self) -> None:
        """Ask the kernel for all addresses."""
        self._addresses = self._kernel.addresses()

    def hear(self, told: Device, *, deleted: bool) -> None:
        """RTM_NEWLINK or RTM_DELLINK."""
        if deleted:
            self._by_index.pop(told.ifindex, None)
        else:
            self._by_index[told.ifindex] = told

    # -- looking

    def __iter__(self) -> Iterator[Device]:
        return iter(list(self._by_index.values()))

    def get(self, ifindex: int) -> Device | None:
        """None = there is no such device (any more)."""
        return self._by_index.get(ifindex)

    def named(self, name: str) -> Device | None:
        """None = there is no such device (now)."""
        return next((device for device in self._by_index.values() if device.name == name), None)

    def name(self, ifindex: int) -> str:
        """Its name; "" if it is gone."""
        device = self._by_index.get(ifindex)
        return device.name if device else ""

    def addresses(self, ifindex: int) -> list[IPAddress]:
        """Those of a device that can be used, the best source addresses first."""
        return [one.address for one in ranked(self._addresses, ifindex)]

    def all_addresses(self) -> frozenset[tuple[int, IPAddress]]:
        """Device and address, of all of them: to see whether anything has changed."""
        return frozenset((one.ifindex, one.address) for one in self._addresses)

    def has(self, address: IPAddress) -> bool:
        """Whether it is an address of this host."""
        return any(one.address.packed == address.packed for one in self._addresses)

    def lasting(self, ifindex: int, version: int) -> list[IPAddress]:
        """A device's addresses of global scope that are neither temporary nor deprecated or tentative, best first."""
        able = [
            one
            for one in ranked(self._addresses, ifindex)
            if one.scope == rtnl.SCOPE_GLOBAL and not one.flags & _SECOND_CHOICE and not is_temporary(one)
        ]
        return [one.address for one in able if one.address.version == version]

    def is_temporary(self, address: IPAddress) -> bool:
        """Whether it is a temporary address (RFC 8981) of any device."""
        return any(one.address == address and is_temporary(one) for one in self._addresses)

    def hidden(self) -> list[int]:
        """The devices on which no packet may be taken, because it is seen again on their master."""
        return sorted(device.ifindex for device in self._by_index.values() if device.port_of in PASS_UP)


def is_vpn(device: Device | None) -> bool:
    """Whether it is the device of a VPN; False if there is none."""
    return device is not None and device.kind in _VPNS


def resolves(device: Device) -> bool:
    """Whether the kernel asks this link for neighbours (ARP, neighbour discovery)."""
    return device.link_type == arphrd.ETHERNET and not device.flags & (rtnl.IFF_NOARP | rtnl.IFF_LOOPBACK)
