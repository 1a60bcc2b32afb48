"""Two hosts behind each other's routers, each with a /etc, a /run and a home of its own, as two machines have.

    with two_hosts(directory) as hosts:
        hosts["server"].type("rsock-nf genkey")

The server has the address 203.0.113.5, which the documents use.  The client is behind the laboratory's strict NAT,
which lets no UDP pass.  1.1.1.1 stands for the Internet: the router answers pings and DNS questions there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rsock_nf.lab.lab import Lab, Router
from rsock_nf.lab.netns import Namespace
from tests.evidence import watched
from tests.netns.judges import wait_until

PUBLIC, INTERNET = "203.0.113.5", "1.1.1.1"
COMMANDS = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH: rsock-nf is beside the interpreter of the tests."""
OWN_FILES = """
set -e
mkdir -p "$1/etc" "$1/home"
cp -a /etc/. "$1/etc"
mkdir -p "$1/etc/rsock-nf"
mount --bind "$1/etc" /etc
mount -t tmpfs -o mode=755 own /run
echo ready
exec sleep infinity
"""


class Host:
    """One host: what is typed there, and what it said."""

    def __init__(self, namespace: Namespace, directory: Path, said: Path) -> None:
        """``directory``: its files; ``said``: what commands print."""
        self.namespace = namespace
        self.home = directory / "home"
        self.said: list[str] = []
        """The output of each command so far."""
        self._outputs = said
        self._numbers = itertools.count()
        directory.mkdir()
        argv = ["unshare", "--mount", "sh", "-c", OWN_FILES, "own-files", str(directory)]
        self._keeper = namespace.popen(argv, stdout=subprocess.PIPE, text=True)
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "ready\n", "no /etc of its own"

    def type(self, script: str, *, patience: float = 60) -> int:
        """Run lines of bash up to the first that fails; the exit status.  What they leave in the background stays."""
        argv = ["nsenter", "--target", str(self._keeper.pid), "--mount", "--net", f"--wd={self.home}"]
        environment = {"PATH": COMMANDS, "HOME": str(self.home), "LANG": "C.UTF-8", "USER": "root"}
        path = self._outputs / f"{self.namespace.name}-{next(self._numbers)}.log"
        with path.open("wb") as output:  # no pipe: what stays in the background would keep it open
            result = subprocess.run(
                [*argv, "bash", "-e", "-o", "pipefail", "-c", script],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, timeout=patience, check=False,
            )  # fmt: skip
        self.said.append(path.read_text(errors="replace"))
        return result.returncode

    def must(self, script: str, what: str, *, again: bool = False) -> str:
        """Type it, and see that it succeeds; ``again``: within a while.  Returns the output."""

        def succeeds() -> bool:
            return self.type(script) == 0

        if again:
            with contextlib.suppress(AssertionError):
                wait_until(succeeds, what, 30)
                return self.said[-1]
        elif succeeds():
            return self.said[-1]
        raise AssertionError(f"{what} failed on {self.namespace.name}:\n{script}\n{self.said[-1]}")


@contextlib.contextmanager
def two_hosts(directory: Path) -> Iterator[tuple[Lab, dict[str, Host]]]:
    """See the module."""
    said = directory / "said"
    said.mkdir()
    with Lab(Router()) as lab, watched(lab, said):
        lab.server.ip(f"address add {PUBLIC}/32 dev eth0")
        lab.router.ip(f"route add {PUBLIC}/32 via {lab.server_ip[4]}", f"address add {INTERNET}/32 dev lo")
        lab.router.popen(
            ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", f"--listen-address={INTERNET}",
             "--bind-interfaces", "--no-resolv", "--no-hosts", "--address=/example.org/192.0.2.80"],
            env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        yield lab, {role: Host(getattr(lab, role), directory / role, said) for role in ("server", "client")}
