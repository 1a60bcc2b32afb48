"""What the kernel's WireGuard says of its socket.  The answers were recorded on Linux 6.1, between two virtual
machines."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from rsock_nf.core.types import TransportAddress
from rsock_nf.link.linux import arphrd, wireguard
from rsock_nf.link.linux.devices import Devices
from rsock_nf.link.linux.passengers import Passengers
from rsock_nf.link.linux.rtnetlink import Device, RouteSocket
from rsock_nf.link.protocol import Routing

# CTRL_CMD_GETFAMILY "wireguard": the family has the number 0x21.
FAMILY = bytes.fromhex(
    "700000001000000001000000f0010000010200000e00020077697265677561726400000006000100210000000800030001000000"
    "080004000000000008000500080000002c000600140001000800010000000000080002001c000000140002000800010001000000"
    "080002001a000000"
)
# WG_CMD_GET_DEVICE wg0, with private keys of zeros: a client with Endpoint = 127.0.0.1:30000, AllowedIPs = 0.0.0.0/0,
# PersistentKeepalive = 5; and its server with ListenPort = 9999.
CLIENT = bytes.fromhex(
    "3c0100002100020002000000f0010000000100000600060035a70000080007006cca000008000100050000000800020077673000"
    "24000300000000000000000000000000000000000000000000000000000000000000000024000400106cce444c1c084c85896120"
    "f3255320a51fac679400a4f97328b5bda0bb5b50c0000880bc00008024000100a3ec27adf4c48e20e2f25e64a5612d27076ed611"
    "93d389843e1a24db2c37881b24000200000000000000000000000000000000000000000000000000000000000000000014000600"
    "77f8096b00000000510d6d110000000006000500050000000c00080044020000000000000c0007007c0000000000000008000a00"
    "0100000014000400020075307f0000010000000000000000200009801c0000800500030000000000060001000200000008000200"
    "00000000"
)
SERVER = bytes.fromhex(
    "3c0100002100020002000000e101000000010000060006000f270000080007000000000008000100050000000800020077673000"
    "24000300000000000000000000000000000000000000000000000000000000000000000024000400a3ec27adf4c48e20e2f25e64"
    "a5612d27076ed61193d389843e1a24db2c37881bc0000880bc00008024000100106cce444c1c084c85896120f3255320a51fac67"
    "9400a4f97328b5bda0bb5b5024000200000000000000000000000000000000000000000000000000000000000000000014000600"
    "76f8096b0000000095b487320000000006000500000000000c0008007c010000000000000c000700b40200000000000008000a00"
    "01000000140004000200a5897f0000010000000000000000200009801c0000800500030020000000060001000200000008000200"
    "0a630002"
)
ANY, LOOPBACK = ip_address("0.0.0.0"), ip_address("127.0.0.1")
LISTEN = TransportAddress(LOOPBACK, 30000)
WG0 = Device(5, "wg0", 0, arphrd.HEADERLESS[-1], 1400, b"", kind="wireguard")


class Kernel:
    """A netlink socket that repeats what was recorded."""

    def __init__(self, answer: Callable[[], bytes]) -> None:
        self._answer = answer
        self.asked: list[Any] = []
        self.closed = 0

    def ask(self, request: Any) -> bytes:
        self.asked.append(request)
        return FAMILY

    def dump(self, request: Any, _: int) -> tuple[list[bytes], bool]:
        self.asked.append(request)
        return [self._answer()], True

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], bytes]], Kernel]:
    def install(answer: Callable[[], bytes]) -> Kernel:
        made = Kernel(answer)
        monkeypatch.setattr(wireguard, "NetlinkSocket", lambda _: made)
        return made

    return install


Install = Callable[[Callable[[], bytes]], Kernel]


@pytest.mark.parametrize(
    ("answer", "local", "remote"),
    [(CLIENT, (ANY, 42805), (LOOPBACK, 30000)), (SERVER, (ANY, 9999), (LOOPBACK, 42377))],
)
def test_the_port_and_the_peers(kernel: Install, answer: bytes, local: object, remote: object) -> None:
    asked = kernel(lambda: answer)
    assert wireguard.wireguard_sockets("wg0") == [(local, remote)]
    family, device = asked.asked
    assert family.get_attr("CTRL_ATTR_FAMILY_NAME") == "wireguard"
    assert device["header"]["type"] == 0x21
    assert device.get_attr("WGDEVICE_A_IFNAME") == "wg0"
    assert asked.closed == 1


def refused() -> bytes:
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


def test_nothing_where_the_kernel_does_not_tell(kernel: Install) -> None:
    asked = kernel(refused)
    assert wireguard.wireguard_sockets("wg0") == []
    assert asked.closed == 1


def carries(listens: tuple[TransportAddress, ...] = (), applications: tuple[TransportAddress, ...] = ()) -> bool:
    with contextlib.closing(RouteSocket()) as routes:
        devices = Devices(routes)
    return Passengers(Routing(listens=listens, applications=lambda: applications), devices).carries(WG0)


def test_a_client_whose_endpoint_is_our_local_end_runs_over_this_tunnel(kernel: Install) -> None:
    kernel(lambda: CLIENT)
    assert carries(listens=(LISTEN,))
    assert not carries(listens=(TransportAddress(LOOPBACK, 30001),))


def test_an_application_at_its_port_is_enough(kernel: Install) -> None:
    """The local end is on another address, as with a port forwarded to it."""
    kernel(lambda: CLIENT)
    assert carries(applications=(TransportAddress(LOOPBACK, 42805),))
    assert not carries(applications=(TransportAddress(ip_address("192.0.2.7"), 42805),)), "on another host"
