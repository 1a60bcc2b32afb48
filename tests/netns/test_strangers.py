"""Strangers at a running server: they shut no client out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rsock_nf.lab.traffic import Application, EchoTarget
from tests.netns.conftest import FLOWS, Site
from tests.netns.judges import wait_until

GARBAGE = """
import os, socket, sys, time
connections = []
while True:
    connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(10):
        connection.send(os.urandom(93))
    connections = [*connections[-50:], connection]
    time.sleep(0.02)
"""
"""Whole TCP handshakes by a kernel, and 500 segments of garbage a second behind them."""


@contextmanager
def garbage(site: Site) -> Iterator[subprocess.Popen[bytes]]:
    """A stranger behind the client's NAT address: for the server, both have one address."""
    process = site.lab.client.popen([sys.executable, "-c", GARBAGE, site.lab.server_ip[4], "10001"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def flows(site: Site) -> int:
    """How many flows of the client carry traffic."""
    return sum(len(session["flows"]) for session in site.tunnel.status("client")["sessions"])


def test_garbage_from_the_clients_address_does_not_lock_it_out(build: Callable[..., Site]) -> None:
    site = build(up=False)
    with EchoTarget(site.lab), Application(site.lab) as application:
        site.tunnel.up("server")
        with garbage(site) as stranger:
            wait_until(lambda: "that do not authenticate" in site.tunnel.log("server"), "the server to see the garbage")
            site.tunnel.up("client")
            wait_until(lambda: flows(site) == FLOWS, "every flow")
            assert application.exchange(200).lost == 0
            assert stranger.poll() is None
        site.tunnel.down("client")
        site.tunnel.down("server")
