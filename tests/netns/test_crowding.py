"""A server with few conversations: a resolver that asks from a new port each time, and two clients, one of them
greedy."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
from collections.abc import Iterator

import pytest

from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.tunnel import LISTEN, TARGET
from tests.netns.asked import AskedTunnel
from tests.netns.conftest import Build, Site
from tests.netns.judges import wait_until

LIMIT = 200
ADDRESS = "192.0.2.53"
PATIENCE = 10.0
AT_ONCE = 50
"""Questions that are under way at a time: far fewer than ``LIMIT``."""


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def name_server(host: Namespace, stack: contextlib.ExitStack) -> None:
    """dnsmasq, which answers each question for an address by ``ADDRESS``."""
    words = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--user=",
    ]
    words += [f"--port={TARGET[1]}", f"--listen-address={TARGET[0]}", f"--address=/#/{ADDRESS}", "--pid-file="]
    process = host.popen(["dnsmasq", *words], stderr=subprocess.PIPE, text=True)
    stack.callback(process.communicate)
    stack.callback(process.terminate)
    wait_until(lambda: f":{TARGET[1]}" in host.run(["ss", "-H", "-u", "-l", "-n"]).stdout, "dnsmasq to listen")


def question(number: int) -> bytes:
    """One for the IPv4 address of a name of its own (RFC 1035 section 4.1)."""
    name = f"host{number}".encode()
    header = (number & 0xFFFF).to_bytes(2) + bytes.fromhex("0100 0001 0000 0000 0000")
    return header + bytes([len(name)]) + name + b"\x04test\x00" + bytes.fromhex("0001 0001")


def resolve(host: Namespace, count: int) -> int:
    """Ask ``count`` questions, each from a port of its own.  Returns how many were answered, by the right address."""
    answered = 0
    for first in range(0, count, AT_ONCE):
        waiting = {}
        for number in range(first, min(first + AT_ONCE, count)):
            asking = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
            asking.connect(LISTEN)
            asking.send(question(number))
            waiting[asking] = number
        while waiting and (ready := select.select(list(waiting), [], [], PATIENCE)[0]):
            for asking in ready:
                answer, number = asking.recv(2000), waiting.pop(asking)
                asking.close()
                right = answer[:2] == question(number)[:2] and answer.endswith(socket.inet_aton(ADDRESS))
                answered += right
        for asking in waiting:
            asking.close()
    return answered


def test_a_resolver_with_new_ports_loses_nothing(build: Build, stack: contextlib.ExitStack) -> None:
    site = build(server={"max_conversations": LIMIT})
    name_server(site.lab.server, stack)
    assert resolve(site.lab.client, 5 * LIMIT) == 5 * LIMIT
    dig = ["dig", "+short", "+tries=1", f"+time={PATIENCE:.0f}", f"@{LISTEN[0]}", "-p", str(LISTEN[1])]
    said = site.lab.client.run([*dig, "one.test", "A", "two.test", "A"], timeout=60).stdout
    assert said.split() == [ADDRESS, ADDRESS]
    status = site.tunnel.status("server")
    why = f"conversations: {LIMIT} of {LIMIT} in use: answered or silent ones make room; raise max_conversations"
    assert status["reason"] == why
    assert status["made_room"] > 3 * LIMIT, "the kernel gives some ports twice"
    assert sum(session["conversations"] for session in status["sessions"]) == LIMIT
    wait_until(lambda: why in site.tunnel.log("server"), "the warning")
    assert site.tunnel.status("client")["reason"] == ""
    site.no_offence()


def test_a_greedy_client_does_not_lock_out_another(build: Build, stack: contextlib.ExitStack) -> None:
    site = build(server={"max_conversations": LIMIT})
    site.target()
    greedy = [stack.enter_context(application(site, LISTEN)) for _ in range(2 * LIMIT)]
    for number, asking in enumerate(greedy):
        asking.send(number.to_bytes(4))
    heard_by_all(greedy[-LIMIT:])
    other = ("127.0.0.1", 30001)
    second = second_client(site, other, stack)
    modest = [stack.enter_context(application(site, other)) for _ in range(20)]
    for number, asking in enumerate(modest):
        asking.send((1000 + number).to_bytes(4))
    heard_by_all(modest)
    assert second.status("client")["reason"] == ""
    sessions = {session["conversations"] for session in site.tunnel.status("server")["sessions"]}
    assert sessions == {20, LIMIT - 20}


def application(site: Site, listen: tuple[str, int]) -> socket.socket:
    made = site.lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(PATIENCE)
    made.connect(listen)
    return made


def heard_by_all(applications: list[socket.socket]) -> None:
    """Wait until each has its echo."""
    for asking in applications:
        assert asking.recv(100)


def second_client(site: Site, listen: tuple[str, int], stack: contextlib.ExitStack) -> AskedTunnel:
    """Another client process on the client's host."""
    secret = json.loads(site.tunnel.config("client").read_text())["secret"]
    keys = {"name": "second", "secret": secret, "listen": f"{listen[0]}:{listen[1]}"}
    second = AskedTunnel(site.lab, site.tunnel.directory / "second", client=keys)
    stack.callback(second.end, "client")
    second.up("client")
    return second
