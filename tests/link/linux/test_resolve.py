"""A neighbour is resolved with CAP_NET_ADMIN by a request, and without it by a ping to the neighbour itself."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, cast

import pytest

from rsock_nf.core.types import IPAddress
from rsock_nf.lab.lab import DEVICE, Lab
from rsock_nf.link.linux.resolve import Resolver
from rsock_nf.link.linux.rtnetlink import RouteSocket
from tests.netns.judges import wait_until


class Unprivileged:
    """A kernel that takes no request to change neighbours."""

    def __init__(self) -> None:
        self.asked = 0

    def use_neighbour(self, *_: object) -> None:
        self.asked += 1
        raise PermissionError


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(None, prefix="rsnfhop") as lab:
        yield lab


def neighbour(lab: Lab, kind: str) -> IPAddress:
    if kind == "link-local":
        listed = lab.server.run(["ip", "-6", "addr", "show", "dev", DEVICE, "scope", "link"]).stdout
        found = re.search(r"inet6 (fe80::[^/]+)", listed)
        assert found
        return ip_address(found[1])
    return ip_address(lab.server_ip[int(kind)])


@pytest.mark.parametrize("kind", ["4", "6", "link-local"])
@pytest.mark.parametrize("privileged", [True, False])
def test_it_is_resolved(lab: Lab, kind: str, privileged: bool) -> None:  # noqa: FBT001
    address = neighbour(lab, kind)
    lab.client.run(["ip", "neigh", "flush", "dev", DEVICE])
    refusing = Unprivileged()

    def ask() -> None:
        with contextlib.closing(RouteSocket()) as kernel:
            resolver = Resolver(kernel if privileged else cast("Any", refusing))
            with contextlib.closing(resolver):
                index = socket.if_nametoindex(DEVICE)
                resolver.use(index, address, 0)
                resolver.use(index, address, 0)

    def known() -> bool:
        return "lladdr" in lab.client.run(["ip", "neigh", "show", str(address), "dev", DEVICE]).stdout

    assert not known()
    lab.client.call(ask)
    wait_until(known, "the neighbour")
    assert refusing.asked == (0 if privileged else 1), "it is not asked again in vain"


def test_a_neighbour_on_a_device_that_is_gone(lab: Lab) -> None:
    def ask() -> None:
        with contextlib.closing(Resolver(cast("Any", Unprivileged()))) as resolver, pytest.raises(OSError):  # noqa: PT011
            resolver.use(4711, ip_address("192.0.2.1"), 0)

    lab.client.call(ask)
