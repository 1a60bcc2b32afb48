"""Instances that are several processes: either end, both, each kind of flow, and what becomes of them when one dies."""

from __future__ import annotations

import os
import pwd
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from rsock_nf.lab.lab import Router
from rsock_nf.lab.netns import CommandFailed
from rsock_nf.lab.traffic import Application, EchoTarget, Exchange
from rsock_nf.lab.tunnel import Role
from tests.netns.conftest import Site
from tests.netns.judges import wait_until
from tests.netns.test_host import states, unchanged

ROLES: tuple[Role, Role] = ("client", "server")
OPEN = Router(block_udp=False)
SEALED = {"cipher": "aes-256-gcm"}
COMMON = {**SEALED, "idle_timeout": 0}


def workers(site: Site, role: Role) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = site.tunnel.status(role)["workers"]
    return found


def complete(site: Site, role: Role, count: int) -> bool:
    """Whether all workers answer."""
    return len(workers(site, role)) == count


def another(site: Site, role: Role, pid: int) -> bool:
    """Whether a process has taken the place of worker ``pid``, and all answer."""
    found = [one["pid"] for one in workers(site, role)]
    return len(found) == site.tunnel.status(role)["workers_wanted"] and pid not in found


def pid_of(site: Site, role: Role, number: int) -> int:
    """Of worker ``number``, from 1 on."""
    return int(next(one["pid"] for one in workers(site, role) if one["worker"] == number))


def supervisor(site: Site, role: Role) -> int:
    return int(site.tunnel.status(role)["pid"])


def shared_memory(site: Site, role: Role) -> list[str]:
    """What the processes of that end could write into and another would see."""
    maps = [Path(f"/proc/{pid}/maps").read_text().splitlines() for pid in site.tunnel.pids(role)]
    return [line for lines in maps for line in lines if line.split()[1].startswith("rw-s")]


def shards(site: Site, count: int) -> list[set[int]]:
    """Of each session of the client, the shards of the server's ports to which its flows lead."""
    sessions = site.tunnel.status("client")["sessions"]
    return [{int(flow["remote"].rpartition(":")[2]) % count for flow in one["flows"]} for one in sessions]


def places(site: Site, count: int) -> dict[int, tuple[int, int]]:
    """By the port of an application: (the client's worker that has its conversation, the server's)."""
    found = {}
    for session in site.tunnel.status("client")["sessions"]:
        (shard,) = {int(flow["remote"].rpartition(":")[2]) % count for flow in session["flows"]}
        for conversation in session["conversation_list"]:
            port = int(conversation["peer"].rpartition(":")[2])
            found[port] = (session.get("worker", 1), shard + 1)
    return found


class Crowd:
    """Applications, and an echo target."""

    def __init__(self, site: Site, count: int) -> None:
        self._stack = ExitStack()
        self.target = self._stack.enter_context(EchoTarget(site.lab))
        self.all = [self._stack.enter_context(Application(site.lab)) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def carry(self, count: int = 200) -> None:
        """Assert that nothing is lost or changed of what each sends, all at the same time."""
        with ThreadPoolExecutor(len(self.all)) as pool:
            found = list(pool.map(lambda one: one.exchange_evenly(count, 200), self.all))
        assert [(one.lost, one.corrupted) for one in found] == [(0, 0)] * len(found)
        assert self.target.corrupted == 0


def port_of(application: Application) -> int:
    return int(application._socket.getsockname()[1])


@pytest.mark.parametrize("pump", ["native", "python"])
@pytest.mark.parametrize("kind", ["tcp", "udp", "all"])
@pytest.mark.parametrize(("served", "dialled"), [(4, 1), (1, 4), (4, 4)])
def test_it_carries_and_is_asked_and_leaves_nothing(
    build: Callable[..., Site], served: int, dialled: int, kind: str, pump: str
) -> None:
    both = {**SEALED, "type": kind, "pump": pump}
    site = build(
        OPEN, up=False, server={**both, "workers": served}, client={**both, "workers": dialled, "idle_timeout": 0}
    )
    before = states(site)
    site.tunnel.up("server")
    site.tunnel.up("client")
    flows = 10 * (2 if kind == "all" else 1)

    def all_flows() -> bool:
        return sum(len(one["flows"]) for one in site.tunnel.status("client")["sessions"]) >= flows

    wait_until(all_flows, f"{flows} flows")
    found = site.tunnel.status("client")
    assert found["state"] == "connected"
    assert found["flows_wanted"] == flows
    assert len(found["sessions"]) == dialled
    assert all(len(one) == 1 for one in shards(site, served))
    with Crowd(site, 6) as crowd:
        crowd.carry()
        conversations = places(site, served)
        assert {port_of(one) for one in crowd.all} <= conversations.keys()
    assert sum(one["conversations"] for one in site.tunnel.status("server")["sessions"]) >= 6
    counts: dict[Role, int] = {"server": served, "client": dialled}
    for role, count in counts.items():
        assert len(site.tunnel.pids(role)) == (count + 1 if count > 1 else 1)
        assert (f"{count} workers" in site.tunnel.command(role, "status").stdout) is (count > 1)
        assert f'"workers": {count}' in site.tunnel.config(role).read_text()
        assert shared_memory(site, role) == []
    assert f"{2 * dialled} sent, {2 * dialled} answered" in site.tunnel.command("client", "ping", "-c", "2").stdout
    assert "renews its flows" in site.tunnel.command("client", "reconnect").stdout
    with Crowd(site, 2) as crowd:
        crowd.carry()
    for role in ROLES:
        assert "stopped" in site.tunnel.command(role, "down").stdout
        assert site.tunnel.pids(role) == []
    assert unchanged(site, before)


def carries_all(one: Application) -> bool:
    return one.exchange(20).lost == 0


def at_several_workers(site: Site, crowd: Crowd, end: int) -> dict[int, list[Application]]:
    """The crowd's applications by the worker that has their conversations; ``end``: 0 = the client's, 1 = the server's.

    There are two workers at least.
    """
    crowd.carry(20)
    by: dict[int, list[Application]] = {}
    for port, workers in places(site, 4).items():
        by.setdefault(workers[end], []).extend(one for one in crowd.all if port_of(one) == port)
    assert len(by) > 1, by
    return by


@pytest.mark.parametrize("end", [0, 1])
def test_who_is_at_another_worker_loses_nothing_when_one_is_killed(build: Callable[..., Site], end: int) -> None:
    both = {**SEALED, "workers": 4}
    site = build(server=both, client={**both, "idle_timeout": 0})
    role = ROLES[end]
    with Crowd(site, 12) as crowd:
        by = at_several_workers(site, crowd, end)
        killed = min(by)
        victim = pid_of(site, role, killed)
        others = [one for number, those in by.items() if number != killed for one in those]
        found: list[Exchange] = []

        def load(one: Application) -> None:
            found.append(one.exchange_evenly(400, 200))

        threads = [threading.Thread(target=load, args=(one,)) for one in others]
        for thread in threads:
            thread.start()
        os.kill(victim, signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert [one.lost for one in found] == [0] * len(others)
        for one in by[killed]:
            wait_until(partial(carries_all, one), "the killed worker's conversation to be back", 90)
    wait_until(lambda: len(workers(site, role)) == 4, "the worker to be there again")
    assert pid_of(site, role, killed) != victim
    assert f"worker {killed}: was killed by SIGKILL: it is started again" in site.tunnel.log(role)


@pytest.mark.parametrize("role", ROLES)
def test_when_the_supervisor_is_killed_nothing_is_left_and_it_can_be_brought_up_again(
    build: Callable[..., Site], role: Role
) -> None:
    both = {**SEALED, "workers": 3}
    site = build(up=False, server=both, client=both)
    before = states(site)
    site.tunnel.up("server")
    site.tunnel.up("client")
    os.kill(supervisor(site, role), signal.SIGKILL)
    site.tunnel.command(role, "down")
    assert site.tunnel.pids(role) == []
    site.tunnel.up(role)
    os.kill(supervisor(site, role), signal.SIGKILL)
    wait_until(lambda: not site.tunnel.pids(role), "the workers to end by themselves")
    assert "rsock_nf_" in site.host(role).run(["nft", "list", "tables"]).stdout, "they stay, as after any crash"
    site.tunnel.up(role)
    wait_until(lambda: site.tunnel.status("client")["state"] == "connected", "the sessions to be back", 60)
    site.carries(200)
    for one in ROLES:
        site.tunnel.down(one)
    assert unchanged(site, before)


def test_up_at_once_after_the_supervisor_was_killed(build: Callable[..., Site]) -> None:
    site = build(server={**SEALED, "workers": 3}, client=SEALED)
    os.kill(before := supervisor(site, "server"), signal.SIGKILL)
    site.tunnel.up("server")
    assert supervisor(site, "server") != before
    wait_until(lambda: site.tunnel.status("client")["state"] == "connected", "the session to be back", 60)


def test_a_worker_that_ends_again_and_again_ends_the_instance(build: Callable[..., Site]) -> None:
    site = build(up=False, server={**SEALED, "workers": 2}, client=SEALED)
    before = states(site)
    site.tunnel.up("server")
    for again in (True, True, False):
        pid = pid_of(site, "server", 2)
        os.kill(pid, signal.SIGKILL)
        if again:
            wait_until(partial(another, site, "server", pid), "it to be there again")
    wait_until(lambda: not site.tunnel.pids("server"), "the instance to end")
    told = site.tunnel.command("server", "status", check=False).stdout
    assert "worker 2 has ended 3 times within 60 s: was killed by SIGKILL" in told
    site.tunnel.down("server")
    assert unchanged(site, before)


def test_a_worker_that_hangs_is_killed_and_started_again(build: Callable[..., Site]) -> None:
    site = build(server={**SEALED, "workers": 2}, client=SEALED)
    hung = pid_of(site, "server", 1)
    os.kill(hung, signal.SIGSTOP)
    assert "worker 1 does not answer" in site.tunnel.status("server")["reason"]
    wait_until(partial(another, site, "server", hung), "another to be there", 90)
    assert "worker 1: it gave no sign of life for 30 s: it is started again" in site.tunnel.log("server")


@pytest.mark.parametrize("first", ["nobody", "supervisor"])
def test_a_worker_that_hangs_keeps_no_instance_from_going_down(build: Callable[..., Site], first: str) -> None:
    site = build(up=False, server={**SEALED, "workers": 2}, client=SEALED)
    before = states(site)
    site.tunnel.up("server")
    os.kill(pid_of(site, "server", 2), signal.SIGSTOP)
    if first == "supervisor":
        os.kill(supervisor(site, "server"), signal.SIGKILL)
    assert "stopped" in site.tunnel.command("server", "down").stdout
    assert site.tunnel.pids("server") == []
    assert unchanged(site, before)


def test_a_reload_and_a_kick_reach_every_worker(build: Callable[..., Site]) -> None:
    both = {**SEALED, "workers": 3}
    site = build(server=both, client={**both, "idle_timeout": 0})
    secret = site.tunnel.config("client").read_text().split('"secret": "')[1].split('"')[0]
    site.tunnel.rewrite("server", secret=None, clients=[{"name": "ann", "secret": secret}], log={"level": "debug"})
    assert "clients (+ann)" in site.tunnel.command("server", "reload").stdout

    def all_named() -> bool:
        sessions = site.tunnel.status("server")["sessions"]
        return len(sessions) == 3 and all(one["name"] == "ann" for one in sessions)

    wait_until(all_named, "every session to have its name")
    site.tunnel.rewrite("server", workers=2)
    assert "until down and up these stay as before: workers" in site.tunnel.command("server", "reload").stdout
    assert "3" in site.tunnel.command("server", "kick", "ann").stdout
    wait_until(all_named, "the sessions to be there again")
    assert {one["worker"] for one in workers(site, "server")} == {1, 2, 3}


def test_it_runs_as_another_user(build: Callable[..., Site]) -> None:
    user = {**SEALED, "workers": 2, "user": pwd.getpwnam("nobody").pw_name}
    site = build(up=False, server={**user, "backend": "iptables"}, client=user)
    for command in ("iptables-legacy", "ip6tables-legacy"):
        site.host("server").run([command, "-t", "raw", "-S"])  # the table is there before and after
    before = states(site)
    site.tunnel.up("server")
    site.tunnel.up("client")
    site.carries(500)
    for role in ROLES:
        os.kill(pid_of(site, role, 1), signal.SIGKILL)
        wait_until(partial(complete, site, role, 2), "the worker to be there again")
    wait_until(lambda: site.tunnel.status("client")["state"] == "connected", "the sessions to be back", 90)
    with EchoTarget(site.lab), Application(site.lab) as application:
        wait_until(lambda: application.exchange(100).lost == 0, "it to carry again", 90)
    for role in ROLES:
        site.tunnel.down(role)
    assert unchanged(site, before)


def test_no_other_instance_can_listen_there_too(build: Callable[..., Site]) -> None:
    site = build(up=False, server={**SEALED, "workers": 2}, client={**SEALED, "workers": 2})
    site.tunnel.up("server")
    with Application(site.lab) as other:
        taken = other._socket.getsockname()
        site.tunnel.rewrite("client", listen=f"{taken[0]}:{taken[1]}")
        with pytest.raises(CommandFailed, match="in use"):
            site.tunnel.up("client")


def test_metrics_tell_of_each_worker(build: Callable[..., Site]) -> None:
    site = build(server={**SEALED, "workers": 2, "metrics": "127.0.0.1:9273"}, client=SEALED)
    told = site.host("server").run(["curl", "-s", "http://127.0.0.1:9273/metrics"]).stdout
    assert 'rsock_nf_workers{tunnel="server"} 2' in told
    assert 'rsock_nf_worker_processor_seconds_total{tunnel="server",worker="2"}' in told
