"""Which devices take bursts, by their kind and by the features of the device below."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from rsock_nf.lab.netns import Namespace
from rsock_nf.link.linux import arphrd
from rsock_nf.link.linux.ethtool import ethtool_value, takes_bursts
from rsock_nf.link.linux.rtnetlink import Device, RouteSocket

VLAN = Device(99, "v0.100", 0, arphrd.ETHERNET, 1500, b"", kind="vlan")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with contextlib.closing(Namespace(f"rsnf-ethtool-{os.getpid()}")) as made:
        made.ip("link add v0 type veth peer name v1", "link add mv0 link v0 type macvlan")
        yield made


def index(namespace: Namespace, device: str) -> int:
    return namespace.call(lambda: socket.if_nametoindex(device))


def test_ethernet_and_devices_without_link_header() -> None:
    assert takes_bursts(VLAN._replace(kind=""))
    assert takes_bursts(VLAN._replace(kind="wireguard", link_type=arphrd.HEADERLESS[-1]))


def test_never_ppp() -> None:
    assert not takes_bursts(VLAN._replace(kind="ppp", link_type=arphrd.PPP))


def test_a_vlan_only_if_the_card_puts_in_the_tag(namespace: Namespace) -> None:
    vlan = VLAN._replace(lower=index(namespace, "v0"))
    assert namespace.call(lambda: takes_bursts(vlan))
    namespace.run(["ethtool", "-K", "v0", "txvlan", "off"])
    assert not namespace.call(lambda: takes_bursts(vlan))
    assert namespace.call(lambda: takes_bursts(vlan._replace(kind="macvlan")))


def test_a_vlan_whose_card_is_in_another_namespace(namespace: Namespace) -> None:
    assert namespace.call(lambda: takes_bursts(VLAN))
    assert namespace.call(lambda: takes_bursts(VLAN._replace(lower=4242)))
    assert namespace.call(lambda: ethtool_value("nowhere", 0x25)) is None


def test_the_device_below_is_read(namespace: Namespace) -> None:
    with contextlib.closing(namespace.call(RouteSocket)) as kernel:
        found = {device.name: device.lower for device in kernel.devices()}
    assert found["mv0"] == index(namespace, "v0")
    assert found["lo"] == 0
