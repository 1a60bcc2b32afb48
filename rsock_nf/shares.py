"""An instance that is several processes: what of its settings is each worker's.

Each worker has a share: of the server's ports, or of a client's flows and source ports.  The kernel gives it the
packets of these alone.  It has a name of its own, with which its firewall rules are found again.

Not here: how workers are started and asked (``rsock_nf.workers``).
"""

from __future__ import annotations

import dataclasses
from typing import Final

from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.types import Shard
from rsock_nf.settings import Settings

MOST_WORKERS: Final = 16
_MARK: Final = "/"
"""No name of an instance has it."""


def share(settings: Settings, number: int, first_port: int = 0) -> Settings:
    """The settings of worker ``number``, from 0 on.

    ``first_port``: see ``ClientParameters``; of the first worker, the others begin behind it.
    """
    of, tunnel = settings.workers, settings.tunnel
    shard, name = Shard(number, of), worker_name(settings.name, number)
    if isinstance(tunnel, ClientParameters):
        mine = dataclasses.replace(
            tunnel, shard=shard, flows=_even_part(tunnel.flows_of_a_kind, number, of), first_port=first_port + number
        )
        return dataclasses.replace(settings, name=name, tunnel=mine)
    served = dataclasses.replace(
        tunnel,
        shard=shard,
        max_sessions=_part(tunnel.max_sessions, of),
        max_conversations=_part(tunnel.max_conversations, of),
        # Rounded down, so that all together do not send more; but 0 would be: not at all.
        speedtest=max(tunnel.speedtest // of, min(tunnel.speedtest, 1)),
    )
    return dataclasses.replace(settings, name=name, tunnel=served)


def shares(settings: Settings) -> list[Settings]:
    """Of each worker; of a single process its settings themselves."""
    if settings.workers == 1:
        return [settings]
    return [share(settings, number) for number in range(settings.workers)]


def worker_name(name: str, number: int) -> str:
    """What the rules of worker ``number`` are found by."""
    return f"{name}{_MARK}{number + 1}"


def instance_of(name: str) -> str:
    """The instance of which this is the name, or that of a worker."""
    return name.partition(_MARK)[0]


def names_of(name: str) -> list[str]:
    """What rules of instance ``name`` can be found by, whatever number of workers it had."""
    return [name, *(worker_name(name, number) for number in range(MOST_WORKERS))]


def _even_part(of_all: int, number: int, workers: int) -> int:
    """Of worker ``number``; at least 1."""
    return max(of_all * (number + 1) // workers - of_all * number // workers, 1)


def _part(of_all: int, workers: int) -> int:
    return -(-of_all // workers)
