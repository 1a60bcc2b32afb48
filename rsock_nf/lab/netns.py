"""One network namespace as a test host.  It is removed together with everything that runs in it.

It does what the laboratory (``lab``) needs, with the ``ip`` command and ``pyroute2.netns``.  The namespace that the
process itself runs in is never changed.

``ip netns add`` makes a namespace, not ``pyroute2.netns.create``: that one forks this process, which may have threads.
pyroute2 is imported late, because that takes 0.3 s.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
S = TypeVar("S", bound=contextlib.AbstractContextManager[Any])

NETNS_DIR = Path("/run/netns")
"""Where iproute2 keeps its named namespaces (ip-netns(8))."""


class CommandFailed(RuntimeError):  # noqa: N818 - a sentence, as in "command failed"
    """A command failed that had to succeed.  The text is one line with the command and its output."""


class Namespace:
    """A named network namespace; ``close`` ends its processes and deletes it."""

    def __init__(self, name: str, *, create: bool = True) -> None:
        """Make it, with ``lo`` up and IPv6 duplicate address detection off (it would delay every address by 1-2 s).

        ``create=False`` takes over one that exists.
        """
        self.name = name
        self._processes: list[subprocess.Popen[Any]] = []
        self._opened = contextlib.ExitStack()
        if not create:
            return
        _checked(["ip", "netns", "add", name])
        try:
            self.ip("link set lo up")
            for scope in ("all", "default"):
                self.sysctl(f"net.ipv6.conf.{scope}.accept_dad", "0")
                self.sysctl(f"net.ipv6.conf.{scope}.router_solicitations", "0")
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"Namespace({self.name!r})"

    def ip(self, *commands: str) -> None:
        """Run ``ip`` subcommands inside, in one batch.  Raises ``CommandFailed``."""
        _checked(["ip", "-n", self.name, "-batch", "-"], stdin="\n".join(commands))

    def nft(self, script: str) -> None:
        """Load an nft script, atomically.  Raises ``CommandFailed``."""
        _checked([*self._prefix, "nft", "-f", "-"], stdin=script)

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end and capture the output.  Raises ``CommandFailed`` unless ``check`` is off."""
        result = subprocess.run(
            [*self._prefix, *argv], capture_output=True, text=True, timeout=timeout, env=env, check=False
        )
        if check and result.returncode != 0:
            raise CommandFailed(_describe(argv, result))
        return result

    def popen(self, argv: Sequence[str], **keywords: Any) -> subprocess.Popen[Any]:
        """Start a process inside; its pid is the program's own (``ip netns exec`` replaces itself).

        It is ended and reaped, and its pipes are closed, with the namespace at the latest.
        """
        process = subprocess.Popen([*self._prefix, *argv], **keywords)
        self._processes.append(process)
        self._opened.push(process)
        return process

    def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` in a thread that has entered the namespace; whatever it opens stays inside.

        Files below ``/proc/sys/net`` and ``/proc/thread-self/net`` are the namespace's.
        """
        outcome: list[T] = []
        failure: list[BaseException] = []

        def enter_and_run() -> None:
            try:
                _enter(self.name)
                outcome.append(function())
            except BaseException as error:  # noqa: BLE001 - re-raised in the caller's thread
                failure.append(error)

        thread = threading.Thread(target=enter_and_run, name=f"netns {self.name}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that lives inside, usable from any thread; closed with the namespace at the latest."""
        made = self.call(lambda: socket.socket(family, kind, protocol))
        return self.keep(made)

    def keep(self, opened: S) -> S:
        """Close ``opened`` with the namespace at the latest (for an accepted socket, say)."""
        self._opened.push(opened)
        return opened

    def sysctl(self, key: str, value: str | None = None) -> str:
        """Read, or write and read back, a network sysctl by its dotted name."""
        path = Path("/proc/sys") / key.replace(".", "/")

        def access() -> str:
            if value is not None:
                path.write_text(value)
            return path.read_text().strip()

        return self.call(access)

    def read(self, path: str) -> str:
        """A file below ``/proc/thread-self/net`` (``nf_conntrack``, ``tcp``, ``packet``, ...)."""
        return self.call(Path("/proc/thread-self/net", path).read_text)

    def pids(self) -> list[int]:
        """The processes that run inside."""
        inode = (NETNS_DIR / self.name).stat().st_ino
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if (entry / "ns/net").stat().st_ino == inode:
                        found.append(int(entry.name))
        return sorted(found)

    def close(self) -> None:
        """End what runs inside (SIGTERM, after 3 s SIGKILL), delete it.  Idempotent."""
        # A process that has just started may not have entered yet, so ``pids`` would miss it.
        _end([process.pid for process in self._processes if process.poll() is None], signal.SIGTERM, 3.0)
        _end(self._inside(), signal.SIGTERM, 3.0)
        _end([process.pid for process in self._processes if process.poll() is None], signal.SIGKILL, 3.0)
        _end(self._inside(), signal.SIGKILL, 3.0)
        self._processes.clear()
        self._opened.close()
        if (NETNS_DIR / self.name).exists():
            _remove(self.name)

    def _inside(self) -> list[int]:
        try:
            return self.pids()
        except FileNotFoundError:  # it is gone
            return []

    @property
    def _prefix(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]


def orphans(pattern: str) -> Iterator[str]:
    """Names of namespaces that match ``pattern``, whose first group is the pid of a maker that is gone."""
    from pyroute2 import netns

    for name in sorted(netns.listnetns()):
        match = re.fullmatch(pattern, name)
        if match and not Path(f"/proc/{match[1]}").exists():
            yield name


def _enter(name: str) -> None:
    """Move the calling thread into a namespace (setns(2)); raises ``OSError``."""
    from pyroute2 import netns

    netns.setns(name, flags=0)  # no O_CREAT: a namespace that is missing is an error


def _remove(name: str) -> None:
    from pyroute2 import netns

    try:
        netns.remove(name)
    except FileNotFoundError:
        pass  # another laboratory has swept it up meanwhile
    except OSError as error:
        raise CommandFailed(f"network namespace {name} cannot be removed: {error.strerror}") from error


def _end(pids: Sequence[int], number: signal.Signals, patience: float) -> None:
    """Signal every process, then wait up to ``patience`` seconds for each of them to be gone."""
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        raise CommandFailed("network namespaces need Linux 5.3")
    handles: list[int] = []
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                handles.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(handles[-1], number)
        for handle in handles:
            # A pidfd is readable once its process has ended (pidfd_open(2)).
            select.select([handle], [], [], patience)
    finally:
        for handle in handles:
            os.close(handle)


def _checked(argv: Sequence[str], stdin: str | None = None) -> str:
    try:
        result = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        raise CommandFailed(f"{argv[0]}: command not found (Debian: apt-get install iproute2 nftables)") from None
    if result.returncode != 0:
        raise CommandFailed(_describe(argv, result))
    return result.stdout


def _describe(argv: Sequence[str], result: subprocess.CompletedProcess[str]) -> str:
    said = (result.stderr or result.stdout).strip().replace("\n", " | ")
    return f"{' '.join(argv)}: exit {result.returncode}: {said}"
