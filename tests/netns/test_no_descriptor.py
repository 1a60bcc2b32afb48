"""Ends that can open no file any more, as when conversations have taken all: they go on, and say so.

The limit is set from outside, to the least number that is free: then none can be had.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.lab.lab import DEVICE
from rsock_nf.lab.traffic import Application, EchoTarget
from rsock_nf.lab.tunnel import Role
from tests.netns.conftest import Site
from tests.netns.judges import wait_until
from tests.netns.test_host import ROLES

SAID = (
    "ERROR   no descriptor is left, or too few, so no flow and no conversation can begin: raise the limit of open files"
)


@contextmanager
def none_left(site: Site, *roles: Role) -> Iterator[None]:
    limits = {}
    for role in roles:
        (pid,) = site.tunnel.pids(role)
        limits[pid] = usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
        free = min(set(range(len(used) + 1)) - used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, usual[1]))
    try:
        yield
    finally:
        for pid, usual in limits.items():
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)


def much_happens(site: Site, role: Role) -> None:
    """What makes it look at devices, addresses, routes and rules."""
    host = site.host(role)
    host.ip(
        "link add rsnf-d0 type veth peer name rsnf-d1", "link set rsnf-d0 up", "addr add 198.51.100.77/32 dev rsnf-d0"
    )
    host.ip("link add rsnf-b0 type bridge", "link set rsnf-d0 master rsnf-b0")
    host.ip("link del rsnf-d0", "link del rsnf-b0")
    host.ip(f"link set {DEVICE} mtu 1400", f"link set {DEVICE} mtu 1500")
    host.run(["nft", "add", "table", "inet", "rsnf-foreign"])
    host.run(["nft", "delete", "table", "inet", "rsnf-foreign"])


def uptime(site: Site, role: Role) -> float:
    return float(site.tunnel.status(role)["uptime"])


def _is_up_for(site: Site, role: Role, seconds: float) -> bool:
    return uptime(site, role) > seconds


@pytest.mark.parametrize("keys", [{}, {"backend": "iptables"}])
def test_both_ends_carry_on_and_say_it_once_a_minute(build: Callable[..., Site], keys: dict[str, Any]) -> None:
    site = build(client=keys, server=keys)
    with EchoTarget(site.lab), Application(site.lab) as application:
        assert application.exchange(500).lost == 0
        with none_left(site, *ROLES):
            for role in ROLES:
                much_happens(site, role)
            wait_until(lambda: all(SAID in site.tunnel.log(role) for role in ROLES), "both to say it")
            for role in ROLES:
                much_happens(site, role)
                wait_until(partial(_is_up_for, site, role, uptime(site, role) + 2), "two more ticks")
            assert application.exchange(500).lost == 0
        for role in ROLES:
            assert site.tunnel.log(role).count("no descriptor is left") == 1
            assert "Error" not in site.tunnel.log(role)
    site.carries()


def test_a_server_without_clients_carries_on(build: Callable[..., Site]) -> None:
    """It looks for the device of its default route."""
    site = build(up=False)
    site.tunnel.up("server")
    with none_left(site, "server"):
        much_happens(site, "server")
        wait_until(lambda: SAID in site.tunnel.log("server"), "the server to say it")
        much_happens(site, "server")
    site.tunnel.up("client")
    site.carries()
    for role in ("client", "server"):
        site.tunnel.down(role)


def test_a_client_that_is_to_renew_its_flows_keeps_those_that_it_has(build: Callable[..., Site]) -> None:
    """Each successor needs a port, and the port a socket."""
    site = build()
    site.all_flows()
    with EchoTarget(site.lab), Application(site.lab) as application:
        assert application.exchange(500).lost == 0
        with none_left(site, "client"):
            site.tunnel.command("client", "reconnect")
            wait_until(lambda: "no port for a flow" in site.tunnel.log("client"), "a flow to miss its port")
            assert application.exchange(500).lost == 0
    site.carries()
