"""How many conversations the limit of open files allows: at a server, each has a socket."""

from __future__ import annotations

import dataclasses
import logging
import resource
from pathlib import Path

from rsock_nf.core.parameters import ServerParameters
from rsock_nf.settings import SecondWire

SPARE = 64
"""Descriptors for everything else that the process opens: its log, its control socket, questions to the kernel."""


def fit(
    parameters: ServerParameters, second: SecondWire | None, log: logging.Logger, *, open_now: int = 0
) -> tuple[ServerParameters, SecondWire | None]:
    """The same, with a smaller ``max_conversations`` if the process can open fewer files.  ``log`` gets a warning then.

    Everything but the sockets of conversations is open already, and of these ``open_now``.
    """
    wanted = parameters.max_conversations + (second.tunnel.max_conversations if second else 0)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = limit - _open_now() + open_now - SPARE
    if limit == resource.RLIM_INFINITY or wanted <= room:
        return parameters, second
    log.warning(
        "max_conversations: %d, but the process may open only %d more files, which it takes instead: "
        "raise its limit of open files (LimitNOFILE=, ulimit -n) from %d to %d",
        wanted,
        max(room, 1),
        limit,
        limit + wanted - room,
    )
    if second is not None:
        second = dataclasses.replace(second, tunnel=_scaled(second.tunnel, room, wanted))
    return _scaled(parameters, room, wanted), second


def _open_now() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def _scaled(parameters: ServerParameters, room: int, wanted: int) -> ServerParameters:
    return dataclasses.replace(parameters, max_conversations=max(1, parameters.max_conversations * room // wanted))
