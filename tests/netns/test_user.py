"""Key ``user``: both ends run as a user without privileges, and everything works that root's would do."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from rsock_nf.lab.lab import DEVICE
from rsock_nf.lab.tunnel import Role
from tests.netns.conftest import Site
from tests.netns.judges import wait_until
from tests.netns.test_host import ROLES, complaints, has_ended, has_rules, states, unchanged

NOBODY = pwd.getpwnam("nobody")
USER = {"user": NOBODY.pw_name}
NET_ADMIN, NET_RAW, NET_BIND_SERVICE = 1 << 12, 1 << 13, 1 << 10


def may(site: Site, role: Role, capabilities: int) -> bool:
    """Whether that end is this user in every thread, with exactly these capabilities; says what is not so."""
    (pid,) = site.tunnel.pids(role)
    for thread in Path(f"/proc/{pid}/task").iterdir():
        lines = (line.partition(":") for line in (thread / "status").read_text().splitlines())
        status = {name: value.split() for name, _, value in lines}
        assert status["Uid"] == [str(NOBODY.pw_uid)] * 4
        assert status["Gid"] == [str(NOBODY.pw_gid)] * 4
        assert set(status["Groups"]) <= {str(group) for group in os.getgrouplist(NOBODY.pw_name, NOBODY.pw_gid)}
        sets = {name: int(status[name][0], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")}
        assert sets == {
            "CapEff": capabilities, "CapPrm": capabilities, "CapBnd": capabilities, "CapInh": 0, "CapAmb": 0,
        }  # fmt: skip
        assert status["NoNewPrivs"] == ["1"]
    return True


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_it_carries_is_asked_repaired_killed_and_ended(build: Callable[..., Site], backend: str) -> None:
    both = {**USER, "backend": backend}
    site = build(up=False, client=both, server=both)
    if backend == "iptables":
        for role in ROLES:
            for command in ("iptables-legacy", "ip6tables-legacy"):
                site.host(role).run([command, "-t", "raw", "-S"])  # the table is there before and after
    with site.watch() as wires:
        before = states(site)
        site.tunnel.up("server")
        site.tunnel.up("client")
        site.carries()
        for role in ROLES:
            assert may(site, role, NET_ADMIN | NET_RAW)
            assert f"{NOBODY.pw_name}, CAP_NET_ADMIN CAP_NET_RAW; no core dumps" in site.tunnel.log(role)
            assert "  firewall  " in site.tunnel.command(role, "status", "--flows").stdout
            flush(site, role, backend)
        site.carries()
        for role in ROLES:
            site.kill(role)
            assert "crashed" in site.tunnel.command(role, "status", check=False).stdout
            site.tunnel.up(role)
            assert may(site, role, NET_ADMIN | NET_RAW)
        wait_until(lambda: site.tunnel.status("client")["state"] == "connected", "the session to be back", 30)
        site.carries()
        for role in ("client", "server"):
            assert "stopped" in site.tunnel.command(role, "down").stdout
        assert unchanged(site, before)
    assert wires.resets() == 0


def flush(site: Site, role: Role, backend: str) -> None:
    """An nftables table has an owner, which survives that; iptables rules are put back within a second or two."""
    if backend == "nftables":
        site.host(role).run(["nft", "flush", "ruleset"])
        wait_until(partial(has_rules, site, role), "the rules to be back")
        return
    site.host(role).run(["iptables-legacy", "--wait", "-t", "raw", "-F"])
    wait_until(lambda: site.tunnel.status(role)["firewall"]["repairs"] >= 1, "the rules to be back")


def test_a_device_that_goes_and_comes_back_and_a_log_that_is_rotated(build: Callable[..., Site]) -> None:
    site = build(up=False, client=USER, server=USER)
    logs = site.tunnel.directory / "logs"
    logs.mkdir()
    for path in (site.tunnel.directory.parent, site.tunnel.directory):
        path.chmod(0o711)
    os.chown(logs, NOBODY.pw_uid, NOBODY.pw_gid)
    site.tunnel.rewrite("server", log={"file": str(logs / "server.log")})
    with site.tunnel:
        site.carries(200)
        site.lab.server.ip(f"link set {DEVICE} down")
        wait_until(lambda: not site.tunnel.status("server")["link"]["up"], "the server to notice")
        site.lab.server.ip(f"link set {DEVICE} up")
        wait_until(lambda: site.tunnel.status("server")["link"]["up"], "the server to notice")
        wait_until(lambda: site.tunnel.status("client")["state"] == "connected", "the session to be back", 30)
        site.carries(200)
        assert (logs / "server.log").stat().st_uid == NOBODY.pw_uid
        (logs / "server.log").rename(logs / "server.log.1")
        for role in ROLES:
            (pid,) = site.tunnel.pids(role)
            os.kill(pid, signal.SIGHUP)
        new = logs / "server.log"
        wait_until(lambda: new.exists() and "SIGHUP" in new.read_text(), "the log to be opened anew", 30)
        wait_until(lambda: "SIGHUP" in site.tunnel.log("client"), "the client to have read its file", 30)
        assert "cannot be read" in new.read_text(), "the file is root's"
        site.tunnel.command("client", "reconnect")
        site.carries(200)


def test_low_ports_are_held_and_an_orderly_end_leaves_no_trace_for_status(build: Callable[..., Site]) -> None:
    """SIGTERM, as from systemd: nobody runs ``down``.  Its files are root's, and the next ``up`` finds them."""
    ports = {**USER, "ports": "443-444"}
    site = build(up=False, client=ports, server=ports)
    before = states(site)
    for _ in range(2):
        site.tunnel.up("server")
        site.tunnel.up("client")
        assert may(site, "server", NET_ADMIN | NET_RAW | NET_BIND_SERVICE)
        site.carries(200)
        for role in ("client", "server"):
            (pid,) = site.tunnel.pids(role)
            os.kill(pid, signal.SIGTERM)
            wait_until(partial(has_ended, site, role), f"the {role} to end")
            assert not has_rules(site, role)
            said = site.tunnel.command(role, "status", check=False)
            assert (said.returncode, said.stdout, complaints(said)) == (1, "", ["rsock-nf: no instance is running"])
    for role in ROLES:
        site.tunnel.down(role)
        left = [path for path in (site.tunnel.directory / f"run-{role}").rglob("*") if not path.is_dir()]
        assert [path.name for path in left] == ["log"]
    assert unchanged(site, before)


def test_udp_alone_needs_no_capability_at_all(build: Callable[..., Site]) -> None:
    udp = {**USER, "type": "udp"}
    site = build(None, up=False, client=udp, server=udp)
    with site.tunnel:
        site.carries(200)
        for role in ROLES:
            assert may(site, role, 0)


def test_an_unknown_user_is_one_line_and_nothing_is_left(build: Callable[..., Site]) -> None:
    site = build(up=False)
    before = states(site)
    name = "rsnf-no-such-user"
    site.tunnel.rewrite("server", user=name)
    said = site.tunnel.command("server", "up", "--config", str(site.tunnel.config("server")), check=False)
    assert said.returncode == 1
    remedy = f"make it (useradd --system {name}), or leave the key out"
    assert complaints(said) == [f"rsock-nf: user: this host has no user {name}: {remedy}"]
    assert unchanged(site, before)
