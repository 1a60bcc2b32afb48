"""What a tunnel may do: whether that is enough, seen before anything is touched; and the rest, given up by stages.

The stages stand in ``confine``, in their order.  They come before there is a second thread, for capabilities(7) belong
to threads; so a capability is kept if it is needed at any later time.  ``_kept`` says which, and why.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

from rsock_firewall import FirewallError, select
from rsock_nf.link import system
from rsock_nf.policy import fake_tcp_ports, served_ports
from rsock_nf.settings import Settings

_NEEDED = ("CAP_NET_ADMIN", "CAP_NET_RAW")
_FIRST_FREE_PORT = 1024


def missing() -> list[str]:
    """The capabilities that are needed and not effective, or "root" where there are none; empty when all is well."""
    if not system().has_capabilities:
        return [] if os.geteuid() == 0 else ["root"]
    effective = system().effective_capabilities()
    if effective is None:
        return [] if os.geteuid() == 0 else list(_NEEDED)
    return [name for name in _NEEDED if name not in effective]


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


def confine(settings: Settings) -> str:
    """Give up what the tunnel of these settings does not need; in one line, for the log, what is left.

    Called once, by the process that becomes the instance, before it has a second thread.
    """
    _no_core_dumps()
    _load_modules(settings)
    return _keep(_kept(settings))


def _no_core_dumps() -> None:
    """A crash writes no file with the secret in it."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _load_modules(settings: Settings) -> None:
    """Have the kernel load what iptables needs: its library calls modprobe(8), which needs all of root's privileges."""
    if settings.backend in {"auto", "iptables"} and fake_tcp_ports(settings) and os.geteuid() == 0:
        with contextlib.suppress(FirewallError):  # the tunnel's own start tells why
            select(settings.backend)


def _keep(names: list[str]) -> str:
    try:
        left = system().keep_privileges(names)
    except OSError as error:
        return f"privileges: all stay, for they cannot be given up: {error.strerror}"
    return f"privileges: {left}; no core dumps, none gained by executing" if left else "privileges: no core dumps"


def _kept(settings: Settings) -> list[str]:
    """The capabilities that the tunnel may need at any time from now on."""
    # Rules, routes, neighbours, marks, large buffers; packet sockets, devices.
    names = ["CAP_NET_ADMIN", "CAP_NET_RAW"]
    if any(span.first < _FIRST_FREE_PORT for span in (*served_ports(settings), *settings.client_ports)) or any(
        not isinstance(local, Path) and local[1] < _FIRST_FREE_PORT for local in settings.listen
    ):
        names.append("CAP_NET_BIND_SERVICE")
    if settings.device is None:
        # Which VPN runs over this tunnel is seen in /proc/PID/fd of a program of any user, when routes change.
        names += ["CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"]
    if any(isinstance(local, Path) for local in settings.listen):
        # The socket's group; answers go to sockets that only their owners may write (unix(7)).
        names += ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]
    return names
