"""One measurement of one cell: a load through a carrier, and what was seen.

Rates are datagrams a second, sizes bytes, times of round trips microseconds, CPU seconds.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

from bench.carriers import OUT, Carrier, ready, restart
from bench.cells import MIX, Cell
from rsock_nf.lab.tunnel import TARGET

LOAD = str(OUT / "udp_load")
SEGMENTS = 40
"""Datagrams that an application with UDP GSO hands over in one call."""
IDLE_MS = "300"
"""How long after the last datagram a receiver gives up."""
PATIENCE = 30.0
_FAR = ["-p", str(TARGET[1])]


def measure_load(carrier: Carrier, cell: Cell, seconds: float, rate: float = 0) -> dict[str, float]:
    """As much as the sender can, or ``rate`` a second each way.

    ``received`` counts distinct datagrams over the sender's time.  ``cpu`` is what the carrier's processes need for
    10^9 bytes of payload that arrived.
    """
    before = carrier.cpu()
    flows = _both(carrier, cell, seconds, rate) if cell.direction == "both" else _one_way(carrier, cell, seconds, rate)
    used = carrier.cpu() - before
    offered = sum(sent["offered"] for sent, _ in flows)
    arrived = sum(got["unique"] for _, got in flows)
    payload = sum(got["bytes"] for _, got in flows)
    return {
        "offered": sum(sent["offered"] / sent["seconds"] for sent, _ in flows),
        "received": sum(got["unique"] / sent["seconds"] for sent, got in flows),
        "lost": 1 - arrived / max(offered, 1),
        "duplicates": sum(got["duplicates"] for _, got in flows),
        "mbit": sum(got["bytes"] * 8 / 1e6 / sent["seconds"] for sent, got in flows),
        "cpu": used / max(payload, 1) * 1e9,
    }


def measure_trips(carrier: Carrier, cell: Cell, seconds: float, load: float = 0) -> dict[str, float]:
    """1,000 round trips a second beside ``load`` datagrams a second from client to server."""
    near = [LOAD, "rtt", *_near(carrier), *_sizes(cell), "-t", str(seconds), "-r", "1000"]
    far = [LOAD, "receive", *_FAR, "-e", "-i", IDLE_MS] if load else [LOAD, "echo", *_FAR]
    with ready(carrier.lab.server, far) as process:
        said = carrier.lab.client.run([*near, *(["-b", str(load)] if load else [])]).stdout.splitlines()
        counted = _line(process) if load else {}
    got = json.loads(said[-1])
    found = {"p50": got["p50_us"], "p99": got["p99_us"], "p999": got["p999_us"]}
    found["lost"] = 1 - got["received"] / got["offered"]
    if load:
        sent = json.loads(said[0])
        found |= {"load": sent["offered"] / sent["seconds"], "load_lost": 1 - counted["unique"] / sent["offered"]}
    return found


def measure_start(carrier: Carrier) -> dict[str, float]:
    """Both ends anew."""
    assert carrier.tunnel is not None
    return restart(carrier.tunnel)


def measure_memory(carrier: Carrier) -> dict[str, float]:
    """Bytes."""
    return {"resident": carrier.resident(), "proportional": carrier.proportional()}


def settle() -> None:
    """Let queues and sockets of the measurement before drain, so that it leaves nothing to the next."""
    time.sleep(0.2)


def _near(carrier: Carrier) -> list[str]:
    return ["-h", carrier.host, "-p", carrier.port]


def _sizes(cell: Cell) -> list[str]:
    return ["-s", MIX if cell.size == "mix" else cell.size]


def _sending(cell: Cell, seconds: float, rate: float) -> list[str]:
    gso = ["-g", str(SEGMENTS)] if cell.app == "gso" else []
    return [
        *_sizes(cell),
        "-t",
        str(seconds),
        "-c",
        str(cell.conversations),
        *(["-r", str(rate)] if rate else []),
        *gso,
    ]


def _one_way(carrier: Carrier, cell: Cell, seconds: float, rate: float) -> list[tuple[Any, Any]]:
    """What the sender and the receiver say."""
    near, sending = _near(carrier), _sending(cell, seconds, rate)
    receiving = ["-t", "5", "-i", IDLE_MS, *(["-g"] if cell.app == "gso" else [])]
    if cell.direction == "up":
        with ready(carrier.lab.server, [LOAD, "receive", *_FAR, *receiving]) as receiver:
            sent = json.loads(carrier.lab.client.run([LOAD, "send", *near, *sending]).stdout)
            return [(sent, _line(receiver))]
    receiving += ["-c", str(cell.conversations)]
    with ready(carrier.lab.server, [LOAD, "send", *_FAR, *sending]) as sender:
        said = carrier.lab.client.run([LOAD, "receive", *near, *receiving]).stdout.splitlines()
        return [(_line(sender), json.loads(said[-1]))]


def _both(carrier: Carrier, cell: Cell, seconds: float, rate: float) -> list[tuple[Any, Any]]:
    """What the senders and the receivers of both directions say."""
    sending = ["-i", IDLE_MS, *_sending(cell, seconds, rate)]
    with ready(carrier.lab.server, [LOAD, "both", *_FAR, *sending]) as far:
        near = carrier.lab.client.run([LOAD, "both", *_near(carrier), *sending]).stdout.splitlines()
        said, _ = far.communicate(timeout=PATIENCE)
    (received_near, sent_near), (received_far, sent_far) = (
        [json.loads(line) for line in lines if line != "ready"] for lines in (near, said.splitlines())
    )
    return [(sent_near, received_far), (sent_far, received_near)]


def _line(process: subprocess.Popen[str]) -> Any:
    """The result of a load program that ends by itself."""
    said, _ = process.communicate(timeout=PATIENCE)
    return json.loads(said)
