"""Which backend: one of the two places where the operating system is chosen.

Backends are imported when asked for: pyroute2 and python-iptables cost 0.3 to 0.6 s.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable

from rsock_firewall.command import Run, run
from rsock_firewall.policy import Firewall, FirewallError, Policy

PLATFORM: str = sys.platform
"""``linux``, ``freebsd14``, ``openbsd7``, ``netbsd10``, ``darwin``."""
BACKENDS = {
    "linux": ("nftables", "iptables", "manual"),
    "freebsd": ("pf", "ipfw", "manual"),
    "openbsd": ("pf", "manual"),
    "netbsd": ("manual",),
    "darwin": ("pf", "manual"),
}
"""By system, in the order in which ``auto`` tries them; it never takes ``manual``, which installs nothing."""
NETBSD = (
    'rsock-nf does not change npf: set "backend": "manual", put what `rsock-nf rules` prints into npf.conf, then '
    "npfctl reload"
)


def select(backend: str = "auto", *, platform: str = PLATFORM, run: Run = run) -> Firewall:
    """A backend that works here.

    ``auto``: on Linux nftables, else iptables; on FreeBSD pf if it is enabled, else ipfw if it is switched on, else pf
    if it can be enabled; on OpenBSD and macOS pf.  A backend that is asked for by name is taken or refused; no other is
    taken instead.
    ``run`` runs the tools of systems that have no better interface.  Raises ``FirewallError`` that says why.
    """
    system = _system(platform)
    if backend != "auto":
        chosen = _load(_known(backend, system), system, run)
        chosen.probe()
        return chosen
    reasons = []
    for name, load in _candidates(system, run):
        chosen = load()
        try:
            chosen.probe()
        except FirewallError as error:
            reasons.append(f"{name}: {error}")
        else:
            return chosen
    raise FirewallError("no firewall backend works here: " + "; ".join(dict.fromkeys(reasons or [NETBSD])))


def keep_files(firewall: Firewall, workers: int = 0) -> None:
    """Open what ``firewall`` needs of root's files, for good: this process is about to become another user.

    ``workers``: how many processes it will fork that have rules of their own.  Raises ``FirewallError``.
    """
    if firewall.name == "iptables":
        from rsock_firewall.iptables import tables

        tables.keep_files(workers)


def kept_by(worker: int) -> list[int]:
    """The descriptors of ``keep_files`` that this process uses from now on, which was forked as that worker."""
    tables = sys.modules.get("rsock_firewall.iptables.tables")
    return tables.kept_by(worker) if tables is not None else []


def render_unprobed(backend: str, policy: Policy, *, platform: str = PLATFORM, run: Run = run) -> str:
    """The rules of a backend as text, whether or not it works here.  Needs no privilege.

    ``auto``: in the language of the backend that ``auto`` tries first.  Raises ``FirewallError`` for an unknown
    backend.
    """
    system = _system(platform)
    name = "manual" if backend == "auto" else _known(backend, system)
    return _load(name, system, run).render(policy)


def left_on_this_host(*, platform: str = PLATFORM, run: Run = run) -> list[Firewall]:
    """Every backend that may have rules of ours on this host, whether or not it would be chosen today.

    For ``clear`` and ``clear_all``.  A kernel without the filter, or a host without its tool, has no such rules.
    """
    system = _system(platform)
    found = []
    for name in BACKENDS[system]:
        if name == "manual" or (name == "iptables" and importlib.util.find_spec("iptc") is None):
            continue
        chosen = _load(name, system, run)
        if name == "nftables":
            try:
                chosen.probe()
            except FirewallError:
                continue
        found.append(chosen)
    return found


def _system(platform: str) -> str:
    for system in BACKENDS:
        if platform.startswith(system):
            return system
    raise FirewallError(f"there is no firewall backend for {platform}, only for {', '.join(BACKENDS)}")


def _known(backend: str, system: str) -> str:
    if backend not in BACKENDS[system]:
        raise FirewallError(f"backend: {backend!r} is not one of auto, {', '.join(BACKENDS[system])}")
    return backend


def _candidates(system: str, run: Run) -> list[tuple[str, Callable[[], Firewall]]]:
    """What ``auto`` tries, in order."""
    named = [(name, _loader(name, system, run)) for name in BACKENDS[system] if name != "manual"]
    if system == "freebsd":
        return [("pf", lambda: _load("pf", system, run, running=True)), *reversed(named)]
    return named


def _loader(backend: str, system: str, run: Run) -> Callable[[], Firewall]:
    return lambda: _load(backend, system, run)


def _load(backend: str, system: str, run: Run, *, running: bool = False) -> Firewall:
    """``running``: take pf only if it is enabled already."""
    if backend == "nftables":
        from rsock_firewall.nftables.backend import Nftables

        return Nftables()
    if backend == "iptables":
        from rsock_firewall.iptables.backend import Iptables

        return Iptables()
    from rsock_firewall import manual
    from rsock_firewall.pf import pfctl

    dialects = {"freebsd": pfctl.FREEBSD, "openbsd": pfctl.OPENBSD, "darwin": pfctl.MACOS}
    if backend == "pf":
        from rsock_firewall.pf.backend import Pf

        return Pf(dialects[system], run=run, running=running)
    if backend == "ipfw":
        from rsock_firewall.ipfw.backend import Ipfw

        return Ipfw(run=run)
    if system in dialects:
        return manual.Manual(language=manual.pf_language(dialects[system]))
    return manual.Manual(language=manual.NPF if system == "netbsd" else manual.NFT)
