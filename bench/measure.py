"""One measurement of the benchmark: a carrier between two namespaces, and a load through it.

A carrier is *direct* (nothing in between), *relay* (``relay.c`` on each host) or a tunnel.
Each stands in a laboratory of its own, client and server joined by one veth pair, so that
all of them can be up at once and be measured in turn: the machine's noise then falls on
all alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rsock_nf.lab.lab import Lab
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.tunnel import LISTEN, TARGET, Tunnel

OUT = Path(__file__).parent / "out"
LOAD = str(OUT / "udp_load")
RELAY = str(OUT / "relay")
RELAY_PORT = "20000"
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Carrier:
    """Something that carries datagrams from the client's host to the server's."""

    name: str
    lab: Lab
    host: str
    port: str
    pids: tuple[int, ...] = ()
    """Its processes; none for direct."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one measurement saw."""

    offered: float
    """Datagrams a second that the application sent."""
    received: float
    """Distinct datagrams a second that arrived, over the sender's time."""
    lost: float
    """1 - received / offered."""
    duplicates: int
    tunnel_cpu: float
    """CPU seconds of the carrier's processes for 10^9 payload bytes received."""
    machine_cpu: float
    """CPU seconds of the whole machine, application and kernel included, for the same."""


@dataclass(frozen=True, slots=True)
class Trip:
    """Round trips at 1,000 datagrams a second through an otherwise idle carrier, microseconds."""

    p50: float
    p99: float
    lost: float


@dataclass(slots=True)
class Samples:
    """Every repetition of one cell of the table."""

    loads: list[Load] = field(default_factory=list)
    trips: list[Trip] = field(default_factory=list)


@contextlib.contextmanager
def direct() -> Iterator[Carrier]:
    """The application talks to the server's address itself."""
    with Lab(None) as lab:
        yield Carrier("direct", lab, lab.server_ip[4], str(TARGET[1]))


@contextlib.contextmanager
def relay() -> Iterator[Carrier]:
    """``relay.c`` on each host."""
    with Lab(None) as lab, contextlib.ExitStack() as stack:
        far = stack.enter_context(_ready(lab.server, [RELAY, RELAY_PORT, TARGET[0], str(TARGET[1])]))
        near = stack.enter_context(_ready(lab.client, [RELAY, str(LISTEN[1]), lab.server_ip[4], RELAY_PORT]))
        yield Carrier("relay", lab, LISTEN[0], str(LISTEN[1]), (near.pid, far.pid))


@contextlib.contextmanager
def tunnel(name: str, directory: Path, **both: str) -> Iterator[Carrier]:
    """rsock-nf with ``both`` ends configured so; its flows never go idle, so that a dial is no part of a measurement."""
    with Lab(None) as lab:
        ends = Tunnel(lab, directory, client={**both, "idle_timeout": 0}, server=both)
        with ends:
            pids = (*ends.pids("client"), *ends.pids("server"))
            yield Carrier(name, lab, LISTEN[0], str(LISTEN[1]), pids)


def measure_load(carrier: Carrier, size: int, seconds: float, *, segments: int = 0, rate: float = 0) -> Load:
    """One way, as fast as the sender can or at ``rate`` a second; ``segments`` > 0: an application with UDP GSO and GRO."""
    receive = [LOAD, "receive", "-p", str(TARGET[1]), "-t", "5", *(["-g"] if segments else [])]
    send = [LOAD, "send", "-h", carrier.host, "-p", carrier.port, "-s", str(size), "-t", str(seconds)]
    send += ["-g", str(segments)] if segments else []
    send += ["-r", str(rate)] if rate else []
    with _ready(carrier.lab.server, receive) as receiver:
        tunnel_before, machine_before = _process_cpu(carrier.pids), _machine_cpu()
        sent = json.loads(carrier.lab.client.run(send).stdout)
        said, _ = receiver.communicate(timeout=30)
        tunnel_after, machine_after = _process_cpu(carrier.pids), _machine_cpu()
    got = json.loads(said)
    gigabytes = max(got["bytes"], 1) / 1e9
    return Load(
        offered=sent["offered"] / sent["seconds"],
        received=got["unique"] / sent["seconds"],
        lost=1 - got["unique"] / sent["offered"],
        duplicates=got["duplicates"],
        tunnel_cpu=(tunnel_after - tunnel_before) / gigabytes,
        machine_cpu=(machine_after - machine_before) / gigabytes,
    )


def measure_trips(carrier: Carrier, size: int, seconds: float) -> Trip:
    """Echo at 1,000 datagrams a second."""
    with _ready(carrier.lab.server, [LOAD, "echo", "-p", str(TARGET[1])]):
        argv = [LOAD, "rtt", "-h", carrier.host, "-p", carrier.port, "-s", str(size), "-t", str(seconds), "-r", "1000"]
        got = json.loads(carrier.lab.client.run(argv).stdout)
    return Trip(got["p50_us"], got["p99_us"], 1 - got["received"] / got["offered"])


def other_load(seconds: float = 1.0) -> float:
    """Share of the machine that others use, with every carrier idle: what it is above a few percent spoils the numbers."""
    before = _machine_cpu()
    time.sleep(seconds)
    return (_machine_cpu() - before) / seconds / (os.cpu_count() or 1)


def settle() -> None:
    """Let queues and sockets of the measurement before drain, so that it leaves nothing to the next."""
    time.sleep(0.2)


@contextlib.contextmanager
def _ready(namespace: Namespace, argv: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that has said it is ready; ended on the way out."""
    process: subprocess.Popen[str] = namespace.popen(argv, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"{argv[0]} did not start")
            yield process
        finally:
            process.terminate()


def _process_cpu(pids: tuple[int, ...]) -> float:
    """User and system seconds so far (proc(5), /proc/pid/stat fields 14 and 15)."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICK


def _machine_cpu() -> float:
    """Seconds that any CPU was not idle: user, nice, system, irq, softirq (proc(5), /proc/stat)."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / _TICK
