"""A user of the original moves over: its flags and its JSON file start working ends, and end as they used to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from rsock_nf.lab.tunnel import Role
from tests.netns.conftest import Site
from tests.netns.judges import wait_until


@pytest.fixture
def site(build: Callable[..., Site]) -> Site:
    made = build(up=False)
    roles: tuple[Role, Role] = ("client", "server")
    for role in roles:
        made.stack.callback(made.tunnel.command, role, "down", check=False)
    return made


def rules(site: Site, role: Role) -> str:
    host = site.lab.client if role == "client" else site.lab.server
    return host.run(["nft", "list", "tables"]).stdout


def test_flags_at_one_end_and_a_file_at_the_other(site: Site) -> None:
    tunnel, address = site.tunnel, site.lab.server_ip[4]
    said = tunnel.command("server", "server", "--taddr=127.0.0.1:9999", "--ports=10001-10003", "--hash=k", "--daemon=1")
    how = "`rsock-nf status --name server-10001` shows it, `rsock-nf down --name server-10001` stops it"
    assert said.stdout == f"server-10001: up: TCP ports 10001-10003; {how}\n"
    file = tunnel.directory / "home.json"
    param = {"taddr": f"{address}:1", "ludp": "127.0.0.1:30000", "ports": "10001-10003", "hash": "k", "type": "?"}
    file.write_text(json.dumps({"daemon": 1, "verbose": True, "param": param}))
    said = tunnel.command("client", "client", "-f", str(file))
    assert said.stdout.startswith("home: up: ")
    assert 'param.type: "?" is taken as "tcp", as the original does' in said.stderr
    target = site.target()
    found = site.application().exchange(200, window=32)  # flows begin with a window of 64 KiB: no more at once
    assert (found.lost, found.corrupted, target.corrupted) == (0, 0, 0)
    assert tunnel.status("server")["config"] == "the command line"
    assert 'param.type: "?" is taken as "tcp", as the original does' in tunnel.log("client")

    ends: dict[Role, str] = {"client": "home", "server": "server-10001"}
    for role, name in ends.items():
        assert "rsock_nf" in rules(site, role)
        assert tunnel.command(role, "down", "--name", name).stdout == f"{name}: stopped\n"
        assert "rsock_nf" not in rules(site, role)
        assert tunnel.pids(role) == []


def test_daemon_0_stays_in_the_foreground_until_sigusr1(site: Site) -> None:
    argv = [sys.executable, "-m", "rsock_nf", "server", "-t", "127.0.0.1:9999", "--daemon=0"]
    with site.lab.server.popen(argv, env=site.tunnel.environment("server"), stderr=subprocess.PIPE) as process:
        wait_until(lambda: "rsock_nf" in rules(site, "server"), "the rules")
        wait_until(lambda: site.tunnel.command("server", "status", check=False).returncode == 0, "an answer")
        process.send_signal(signal.SIGUSR1)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert b"SIGUSR1: going down" in process.stderr.read()
    assert "rsock_nf" not in rules(site, "server")
