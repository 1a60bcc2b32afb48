"""Whether this process may do what a tunnel needs, seen before anything is touched."""

from __future__ import annotations

import os
from pathlib import Path

from rsock_nf.link import system

_NEEDED = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}  # include/uapi/linux/capability.h


def missing() -> list[str]:
    """The capabilities that are needed and not effective, or "root" where there are none; empty when all is well."""
    if not system().has_capabilities:
        return [] if os.geteuid() == 0 else ["root"]
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return [] if os.geteuid() == 0 else sorted(_NEEDED)
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return [name for name, bit in _NEEDED.items() if not effective >> bit & 1]


def needed(backend: str = "auto") -> str:
    """What a tunnel with that firewall backend needs, in words."""
    return ", ".join(name for name in _NEEDED if _needs(backend, name)) if system().has_capabilities else "root"


def _needs(backend: str, capability: str) -> bool:
    """Where somebody else installs the rules, a packet socket is all that is asked for."""
    return backend != "manual" or capability != "CAP_NET_ADMIN"


def refusal(what: str, backend: str = "auto") -> str | None:
    """One line that says why ``what`` cannot be done with that firewall backend, or None when it can."""
    lacking = [name for name in missing() if _needs(backend, name)]
    if not lacking:
        return None
    who = "run it as root" if os.geteuid() != 0 else "this root has been stripped of them (container?)"
    manual = '; "backend": "manual" needs CAP_NET_RAW only' if lacking == ["CAP_NET_ADMIN"] else ""
    return f"{what} needs {' and '.join(lacking)}: {who}{manual}"


WITHOUT = '"type": "udp" runs without'
"""What a refusal to start adds for people."""
