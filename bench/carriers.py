"""Carriers: what brings datagrams from the client's host to the server's.

*direct* is nothing in between, *relay* is ``relay.c`` on each host, the others are tunnels.  Each stands in a
laboratory of its own, client and server joined by one veth pair.  So all can be up at once and be measured in turn:
the machine's noise then falls on all alike.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cells import DIRECT, RELAY, TUNNELS
from rsock_nf.lab.lab import Lab
from rsock_nf.lab.netns import CommandFailed, Namespace
from rsock_nf.lab.tunnel import LISTEN, TARGET, Role, Tunnel

OUT = Path(__file__).parent / "out"
RELAY_PROGRAM = str(OUT / "relay")
RELAY_PORT = "20000"
THERE = "@there"
"""Ends the name of a carrier that runs from another checkout."""
AWAKE = 1.0
"""Seconds that a tunnel which stood still has for its probes."""
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Carrier:
    """One that is up."""

    name: str
    lab: Lab
    host: str
    port: str
    pids: Callable[[], list[int]]
    """Its processes; none for direct."""
    tunnel: Tunnel | None = None

    def cpu(self) -> float:
        """User and system seconds of its processes so far (proc(5), /proc/pid/stat fields 14 and 15)."""
        total = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / _TICK

    def resident(self) -> float:
        """Bytes of memory of its processes (proc(5), VmRSS)."""
        return self._memory("status", "VmRSS:")

    def proportional(self) -> float:
        """The same, where a page that several processes share counts once (proc(5), Pss)."""
        return self._memory("smaps_rollup", "Pss:")

    def _memory(self, file: str, word: str) -> float:
        total = 0
        for pid in self.pids():
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith(word))
        return total * 1024


@contextlib.contextmanager
def carrier(name: str, scratch: Path, there: Path | None) -> Iterator[Carrier]:
    """The carrier of that name, up.  Raises ``CommandFailed``."""
    base = name.removesuffix(THERE)
    other = there if name.endswith(THERE) else None
    both = dict(TUNNELS.get(base, {}))
    if other and not (other / "rsock_nf/native").exists():
        both.pop("pump", None)  # a checkout from before there was a choice
    with direct() if base == DIRECT else relay() if base == RELAY else tunnel(name, scratch, both, other) as made:
        yield made


@contextlib.contextmanager
def direct() -> Iterator[Carrier]:
    """The application talks to the server's address itself."""
    with Lab(None, prefix="rsnfbench") as lab:
        yield Carrier(DIRECT, lab, lab.server_ip[4], str(TARGET[1]), list)


@contextlib.contextmanager
def relay() -> Iterator[Carrier]:
    """``relay.c`` on each host."""
    with Lab(None, prefix="rsnfbench") as lab, contextlib.ExitStack() as stack:
        far = stack.enter_context(ready(lab.server, [RELAY_PROGRAM, RELAY_PORT, TARGET[0], str(TARGET[1])]))
        near = stack.enter_context(ready(lab.client, [RELAY_PROGRAM, str(LISTEN[1]), lab.server_ip[4], RELAY_PORT]))
        pids = [near.pid, far.pid]
        yield Carrier(RELAY, lab, LISTEN[0], str(LISTEN[1]), lambda: pids)


@contextlib.contextmanager
def tunnel(name: str, directory: Path, both: Mapping[str, Any], other: Path | None) -> Iterator[Carrier]:
    """Both ends configured alike; its flows never go idle, so that a dial is no part of a measurement.

    ``other``: the checkout whose code they run; None = this one.
    """
    with Lab(None, prefix="rsnfbench") as lab:
        ends = Tunnel(lab, directory, client={**both, "idle_timeout": 0}, server=both)
        if other:
            ends.variables.update(other_checkout(other))
            ends.program = [sys.executable, "-P", str(other.resolve() / "rsock_nf/__main__.py")]
        with ends:
            processes: list[int] = []

            def pids() -> list[int]:
                if not processes or not all(_runs(pid) for pid in processes):
                    processes[:] = [*ends.pids("client"), *ends.pids("server")]
                return list(processes)

            yield Carrier(name, lab, LISTEN[0], str(LISTEN[1]), pids, ends)


@contextlib.contextmanager
def alone(chosen: Carrier, all_of_them: Iterable[Carrier]) -> Iterator[None]:
    """The other carriers stand still: their timers, of many processes, would show in the longest round trips."""
    time.sleep(AWAKE)
    others = [pid for one in all_of_them if one is not chosen for pid in one.pids()]
    try:
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


def other_checkout(directory: Path) -> dict[str, str]:
    """What the environment needs so that ``rsock_nf`` is that of ``directory``.  Raises ``CommandFailed``."""
    path = f"{directory.resolve()}:{directory.resolve() / 'firewall'}"
    variables = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}  # safe path: nothing from the current directory
    ask = [sys.executable, "-c", "import rsock_nf.cli, rsock_firewall; print(rsock_nf.cli.__file__)"]
    said = subprocess.run(ask, capture_output=True, text=True, check=False, env={**os.environ, **variables})
    if said.returncode or not Path(said.stdout.strip()).is_relative_to(directory.resolve()):
        raise CommandFailed(f"--against {directory}: not a checkout of rsock-nf: name its top directory")
    return variables


def restart(ends: Tunnel) -> dict[str, float]:
    """Wall and CPU seconds until each end is up again: ``up``, and the instance so far."""
    ends.down("client")
    ends.down("server")
    found: dict[str, float] = {}
    roles: tuple[Role, ...] = ("server", "client")
    for role in roles:
        before, began = _children_cpu(), time.perf_counter()
        ends.up(role)
        found[f"{role}_wall"] = time.perf_counter() - began
        own = Carrier(role, ends.lab, "", "", lambda role=role: ends.pids(role))  # type: ignore[misc]
        found[f"{role}_cpu"] = _children_cpu() - before + own.cpu()
    return found


def _runs(pid: int) -> bool:
    """Not gone, nor a zombie: the latter has no command line (proc(5))."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def ready(namespace: Namespace, argv: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that has said it is ready; ended on the way out."""
    process: subprocess.Popen[str] = namespace.popen(argv, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise CommandFailed(f"{argv[0]} did not start: its message is above")
            yield process
        finally:
            process.terminate()
