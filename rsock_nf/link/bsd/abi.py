"""The numbers and layouts of FreeBSD, NetBSD, OpenBSD and macOS, as their C headers have them.

It reads the table ``abi.json``, which is data and nothing else.  A key is a C expression (``BIOCSETIF``,
``offsetof(struct bpf_hdr, bh_caplen)``), and its value is what the system's own headers make of it.  A macro that a
system does not define is not in its table.  ``tests/link/bsd/headers.py`` writes it, and a test asks the headers again.
How systems behave is not here, but in ``bpf_device``, ``pf_route`` and ``udp``.

The LP64 systems have one table for every CPU; 32-bit ones differ by CPU (the size of time_t).
"""

from __future__ import annotations

import functools
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

from rsock_nf.link.protocol import LinkError

_LP64: Final = "lp64"
_MODELS_32: Final = {"i386": "i386", "i686": "i386", "x86": "i386", "evbarm": "arm", "arm": "arm", "armv7": "arm"}
"""By the machine's name in uname(3)."""


@dataclass(frozen=True)
class Abi:
    """One system's table: ``abi["BIOCSETIF"]``.  ``KeyError`` for what the system does not define."""

    system: str
    """freebsd | netbsd | openbsd | macos"""
    numbers: Mapping[str, int]

    def __getitem__(self, expression: str) -> int:
        return self.numbers[expression]

    def __contains__(self, expression: str) -> bool:
        return expression in self.numbers


def aligned(size: int, unit: int) -> int:
    """``size`` rounded up to ``unit``, a power of two."""
    return (size + unit - 1) & -unit


@functools.cache
def load(system: str, model: str = "") -> Abi:
    """The table of ``system``, by default for the data model of this process.

    Raises ``LinkError`` where no headers were read for it.
    """
    table = json.loads(resources.files("rsock_nf.link.bsd").joinpath("abi.json").read_text())
    if system not in table:
        raise LinkError(f"{system}: not one of the systems whose /dev/bpf is known: {', '.join(table)}")
    model = model or _model()
    if model not in table[system]:
        raise LinkError(
            f"{system} on {model}: the layout of its structures is not known, only {', '.join(table[system])}"
        )
    return Abi(system, table[system][model])


def _model() -> str:
    if struct.calcsize("P") == 8:
        return _LP64
    machine = os.uname().machine
    return _MODELS_32.get(machine, machine)
