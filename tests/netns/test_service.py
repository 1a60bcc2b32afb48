"""An instance as the systemd unit runs it: with its privileges, as its user, heard by a service manager."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable

from rsock_nf.ops.service import unit
from tests.netns.conftest import Site
from tests.netns.test_user import NOBODY, may
from tests.ops.supervised import Manager

ADMIN_AND_RAW = 1 << 12 | 1 << 13


def bounding_set() -> str:
    """The unit's, in the words of setpriv(1)."""
    (line,) = re.findall(r"^CapabilityBoundingSet=(.*)$", unit.template(), re.MULTILINE)
    return ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in line.split())])


def test_it_is_ready_when_it_stands_and_reloads_and_carries_as_its_user(build: Callable[..., Site]) -> None:
    site = build(up=False)
    site.tunnel.directory.chmod(0o711)
    site.tunnel.directory.parent.chmod(0o711)
    with (
        Manager(str(site.tunnel.directory / "notify")) as manager,
        (site.tunnel.directory / "journal").open("ab") as journal,
    ):
        command = ["setpriv", "--no-new-privs", f"--bounding-set={bounding_set()}", sys.executable, "-m", "rsock_nf"]
        command += ["up", "--foreground", "--user", NOBODY.pw_name, "--config", str(site.tunnel.config("client"))]
        environment = {
            **site.tunnel.environment("client"),
            **manager.variables(journal=journal.fileno(), watchdog=10),
        }
        with site.host("client").popen(command, env=environment, stderr=journal) as process:
            try:
                waiting = manager.until("STATUS")
                site.tunnel.up("server")
                begin = manager.until("READY")
                assert not [message for message in waiting if "READY" in message], "no server answered"
                connected = manager.until("STATUS")[-1]["STATUS"]
                assert re.fullmatch(r"connected to 10\.77\.2\.2: \d+ flows?", connected), connected
                assert begin
                site.carries(200)
                assert may(site, "client", ADMIN_AND_RAW)
                assert "connected" in site.tunnel.command("client", "status").stdout, "by root"
                manager.until("WATCHDOG")
                process.send_signal(signal.SIGHUP)
                manager.until("RELOADING")
                manager.until("READY")
                process.send_signal(signal.SIGTERM)
                manager.until("STOPPING")
                assert process.wait(30) == 0
            finally:
                process.kill()
                site.tunnel.down("server", check=False)
    lines = (site.tunnel.directory / "journal").read_text().splitlines()
    assert [line for line in lines if line.startswith("<6>up: pid ")], lines
    assert [line for line in lines if not re.match("<[3-6]>", line)] == []
    assert [line for line in lines if f"user {NOBODY.pw_name}, CAP_NET_ADMIN CAP_NET_RAW; no core dumps" in line], lines
