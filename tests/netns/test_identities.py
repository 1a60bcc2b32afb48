"""Clients with secrets of their own, on one server, which is told to change while they carry."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rsock_nf.config.values import format_secret
from rsock_nf.lab.traffic import Application, EchoTarget, Exchange
from tests.netns.asked import AskedTunnel
from tests.netns.conftest import Build, Site
from tests.netns.judges import wait_until

ALICE, BOB, NEW = (format_secret(os.urandom(32)) for _ in range(3))
CLIENTS: list[dict[str, Any]] = [{"name": "alice", "secret": ALICE}, {"name": "bob", "secret": BOB}]
SECOND = ("127.0.0.1", 30001)
pumps = pytest.mark.parametrize("pump", ["native", "python"])


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def site_of(build: Build, pump: str, clients: list[dict[str, Any]] | None = None, **more: Any) -> Site:
    return build(
        client={"secret": ALICE, "pump": pump, **more},
        server={"secret": None, "clients": clients or CLIENTS, "pump": pump, **more},
    )


def bob_of(site: Site, pump: str, stack: contextlib.ExitStack) -> AskedTunnel:
    """Another client, behind the same NAT."""
    keys = {"name": "bob", "secret": BOB, "listen": f"{SECOND[0]}:{SECOND[1]}", "pump": pump}
    bob = AskedTunnel(site.lab, site.tunnel.directory / "bob", client=keys)
    stack.callback(bob.end, "client")
    bob.up("client")
    return bob


def reload(tunnel: AskedTunnel, role: Any, **changes: Any) -> str:
    tunnel.rewrite(role, **changes)
    return tunnel.command(role, "reload").stdout


def sessions(site: Site) -> dict[str, dict[str, Any]]:
    return {session["name"]: session for session in site.tunnel.status("server")["sessions"]}


@contextlib.contextmanager
def carrying(site: Site) -> Iterator[list[Exchange]]:
    """Alice carries, evenly, as long as this lasts; then what came of it is in the list."""
    found: list[Exchange] = []
    over = threading.Event()
    with Application(site.lab) as application:

        def carry() -> None:
            while not over.is_set():
                found.append(application.exchange_evenly(200, 1000))

        thread = threading.Thread(target=carry)
        thread.start()
        try:
            yield found
        finally:
            over.set()
            thread.join()


@pumps
def test_one_client_is_revoked_while_the_other_loses_nothing(
    build: Build, stack: contextlib.ExitStack, pump: str
) -> None:
    site = site_of(build, pump)
    bob = bob_of(site, pump, stack)
    stack.enter_context(EchoTarget(site.lab))
    wait_until(lambda: set(sessions(site)) == {"alice", "bob"}, "both sessions")
    assert "of bob with" in site.tunnel.log("server")
    flows = {flow["id"] for flow in sessions(site)["alice"]["flows"]}
    with carrying(site) as found:
        wait_until(lambda: len(found) > 0, "alice to carry")
        said = reload(site.tunnel, "server", clients=CLIENTS[:1], keepalive=5)
        assert said == "server: changed: keepalive, clients (-bob)\n"
        assert set(sessions(site)) == {"alice"}
        wait_until(lambda: bob.status("client")["state"] == "connecting", "bob to notice")
        before = len(found)
        wait_until(lambda: len(found) > before + 1, "alice to go on")
    assert sum(one.lost for one in found) == 0
    assert sum(one.corrupted for one in found) == 0
    assert {flow["id"] for flow in sessions(site)["alice"]["flows"]} >= flows
    assert "of bob has ended: its secret is not valid any more" in site.tunnel.log("server")
    wait_until(lambda: "leaves our hellos unanswered" in bob.status("client")["reason"], "the reason", 30)
    assert reload(site.tunnel, "server", clients=CLIENTS) == "server: changed: clients (+bob)\n"
    wait_until(lambda: set(sessions(site)) == {"alice", "bob"}, "bob to be back", 60)
    assert site.lab.rsts() == 0


@pumps
def test_a_secret_is_replaced_while_datagrams_pass(build: Build, pump: str, stack: contextlib.ExitStack) -> None:
    site = site_of(build, pump, CLIENTS[:1], cipher="aes-256-gcm")
    stack.enter_context(EchoTarget(site.lab))
    site.all_flows()
    (before,) = {session["id"] for session in sessions(site).values()}
    with carrying(site) as found:
        said = reload(site.tunnel, "server", clients=[{"name": "alice", "secret": [ALICE, NEW]}])
        assert said == "server: changed: clients (alice)\n"
        assert sessions(site)["alice"]["secret"] == 1
        assert (
            reload(site.tunnel, "client", secret=NEW)
            == "client: changed: secret (new flows show it to the server; the session goes on)\n"
        )
        wait_until(lambda: sessions(site)["alice"]["secret"] == 2, "the second secret in use", 30)
        reload(site.tunnel, "server", clients=[{"name": "alice", "secret": NEW}])
        assert sessions(site)["alice"]["secret"] is None
        before_that = len(found)
        wait_until(lambda: len(found) > before_that + 1, "alice to go on")
    assert sum(one.lost for one in found) == 0
    assert [session["id"] for session in sessions(site).values()] == [before]


@pumps
def test_a_rate_holds_both_ways_and_for_nobody_else(build: Build, stack: contextlib.ExitStack, pump: str) -> None:
    site = site_of(build, pump, [{**CLIENTS[0], "rate": "800k"}, CLIENTS[1]])
    stack.enter_context(EchoTarget(site.lab))
    above = "datagrams above a client's rate"
    with Application(site.lab) as application:
        few = application.exchange(100, window=10)
        assert few.lost == 0, "within what may come at once"
        many = application.exchange_evenly(2000, 4000, size=500)  # 1 MB in half a second, where 0.2 MB may pass
        assert 0 < many.returned < 1000
        assert site.tunnel.status("server")["counters"][above] >= 1000
        assert reload(site.tunnel, "server", clients=CLIENTS) == "server: changed: clients (alice)\n"
        free = application.exchange(2000)
        assert free.lost == 0, "the same conversation, without a limit"
        assert reload(site.tunnel, "server", clients=[{**CLIENTS[0], "rate": "800k"}]) != ""
        again = application.exchange_evenly(2000, 4000, size=500)
        assert 0 < again.returned < 1000


def test_sighup_of_another_user_leaves_the_file_to_roots_reload(build: Build) -> None:
    site = build(up=False, client={"secret": ALICE}, server={"secret": None, "clients": CLIENTS, "user": "nobody"})
    with site.tunnel:
        (pid,) = site.tunnel.pids("server")
        site.tunnel.rewrite("server", clients=CLIENTS[:1])
        os.kill(pid, signal.SIGHUP)
        line = "root's `rsock-nf reload --name server` may"
        wait_until(lambda: line in site.tunnel.log("server"), "the log to tell", 30)
        assert site.tunnel.command("server", "reload").stdout == "server: changed: clients (-bob)\n"
        assert set(sessions(site)) == {"alice"}


def test_a_conversation_moves_to_its_new_target_and_a_broken_file_moves_nothing(build: Build) -> None:
    site = site_of(build, "native")
    other = ("127.0.0.1", 9998)
    with EchoTarget(site.lab) as first, EchoTarget(site.lab, other) as second, Application(site.lab) as application:
        assert application.exchange(100).lost == 0
        good = site.tunnel.config("server").read_text()
        site.tunnel.config("server").write_text(json.dumps({"role": "server", "target": "127.0.0.1:9998"}))
        done = site.tunnel.command("server", "reload", check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "secret: missing" in done.stderr
        assert application.exchange(100).lost == 0
        assert not second.seen
        site.tunnel.config("server").write_text(good)
        assert reload(site.tunnel, "server", target="{}:{}".format(*other)) == "server: changed: targets\n"
        before = len(first.seen)
        assert application.exchange(100).lost == 0
        assert (len(first.seen), len(second.seen)) == (before, 100)
        assert reload(site.tunnel, "server", allow="192.0.2.0/24") == "server: changed: allow\n"
        wait_until(lambda: not sessions(site)["alice"]["flows"], "its flows to close")
        reload(site.tunnel, "server", allow=None)
        wait_until(lambda: bool(sessions(site)["alice"]["flows"]), "it to be back", 60)
