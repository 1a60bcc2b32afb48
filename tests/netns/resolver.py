"""A resolver of a network namespace: the real dnsmasq, with names that tests change."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from rsock_nf.lab.netns import Namespace
from tests.netns.judges import wait_until

ETC = Path("/etc/netns")
"""ip-netns(8) binds the files below it over those of /etc."""


class Resolver:
    """dnsmasq on the loopback address of ``host``; it begins to answer with ``start``.  TTL 1 s."""

    def __init__(self, host: Namespace, directory: Path) -> None:
        self._host = host
        self._hosts = directory / f"hosts-{host.name}"
        self._log = directory / f"queries-{host.name}"
        self._hosts.write_text("")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Answer, and wait until it does."""
        command = [
            "dnsmasq", "--conf-file=/dev/null", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--local=/test/",
            "--listen-address=127.0.0.1", "--bind-interfaces", "--user=root", "--pid-file", "--local-ttl=1",
            f"--addn-hosts={self._hosts}", "--log-queries", f"--log-facility={self._log}",
        ]  # fmt: skip
        self._process = self._host.popen(command)
        wait_until(lambda: self._log.exists() and "read " in self._log.read_text(), "dnsmasq")

    def stop(self) -> None:
        """Nobody answers any more."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def name(self, **hosts: list[str]) -> None:
        """From now on ``srv=["10.0.0.1"]`` is the address of ``srv.test``; all others are unknown."""
        lines = [f"{address} {name}.test" for name, addresses in hosts.items() for address in addresses]
        self._hosts.write_text("\n".join([*lines, ""]))
        if self._process is not None:
            read = self._log.read_text().count("read ")
            os.kill(self._process.pid, signal.SIGHUP)
            wait_until(lambda: self._log.read_text().count("read ") > read, "dnsmasq to read its names")

    def questions(self) -> int:
        """So far."""
        return self._log.read_text().count("query[") if self._log.exists() else 0


@contextlib.contextmanager
def resolver(host: Namespace, directory: Path) -> Iterator[Resolver]:
    """``host`` asks it from now on; it does not answer yet."""
    own = ETC / host.name
    own.mkdir(parents=True)
    made = Resolver(host, directory)
    try:
        (own / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        yield made
    finally:
        made.stop()
        shutil.rmtree(own)
        with contextlib.suppress(OSError):  # others are at work
            ETC.rmdir()
