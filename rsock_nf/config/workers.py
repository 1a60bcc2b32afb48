"""How many processes an instance is: the key ``workers``, beside what it does not go with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rsock_nf.config.keys import ClientKeys, ServerKeys
from rsock_nf.config.values import count_ports
from rsock_nf.core.types import PortRange, Shard, ports_of
from rsock_nf.errors import ConfigError
from rsock_nf.link import system
from rsock_nf.wire.parameters import WireName

_FEW: Final = 2
"""So many processors are for the instance and for what it serves."""
_MOST_BY_ITSELF: Final = 8


def how_many(path: Path, keys: ServerKeys | ClientKeys) -> int:
    """The number of processes.  Raises ``ConfigError`` if there cannot be so many."""
    if keys.workers == "auto":
        return _as_many_as_fit(keys)
    if keys.workers > 1:
        for field, message in _obstacles(keys, keys.workers):
            raise ConfigError(path, field, message)
    return keys.workers


def usable_processors() -> int:
    """On which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _as_many_as_fit(keys: ServerKeys | ClientKeys) -> int:
    processors = usable_processors()
    most = 1 if processors <= _FEW else min(processors, _MOST_BY_ITSELF)
    return next((count for count in range(most, 1, -1) if not any(_obstacles(keys, count))), 1)


def _obstacles(keys: ServerKeys | ClientKeys, count: int) -> Iterator[tuple[str, str]]:
    """(field, why it cannot be ``count`` processes)."""
    one = 'set "workers": 1'
    if not system().has_workers:
        yield "workers", f"several share packets and sockets on Linux only: {one}"
    if keys.wire is WireName.RSOCK or (isinstance(keys, ServerKeys) and keys.rsock is not None):
        yield "workers", f"the original's wire does not tell which of the ports a session is at: {one}, or leave it out"
    if isinstance(keys, ServerKeys):
        lacking = next((number for number in range(count) if not ports_of(keys.ports, Shard(number, count))), None)
        if lacking is not None:
            yield "workers", _without_port(keys.ports, lacking, count)
        return
    for field, end in [("listen", end) for end in keys.listen] + [("tunnels", one.listen) for one in keys.tunnels]:
        if isinstance(end, Path):
            yield "workers", f"{field}: unix:{end}: one process alone can read it: {one}, or name an address and a port"
    if keys.client_ports:
        flows = -(-min(keys.flows, count_ports(keys.ports)) // count) * (2 if keys.flow_age else 1)
        fewest = min(len(ports_of(keys.client_ports, Shard(number, count))) for number in range(count))
        if fewest < flows:
            remedy = f"name {flows * count} consecutive ones, or fewer workers"
            yield "client_ports", f"each of {count} workers needs {flows}, and one of them has {fewest}: {remedy}"


def _without_port(ports: tuple[PortRange, ...], number: int, count: int) -> str:
    which = f"none of the ports {','.join(map(str, ports))} is {number} modulo {count}, as those of one worker must be"
    return f"{which}: name {count} consecutive ports, or fewer workers"
