"""What a tunnel may do: whether that is enough, seen before anything is touched; and the rest, given up by stages.

The stages stand in ``confine``, in their order.  They come before there is a second thread, for capabilities(7) belong
to threads; so a capability is kept if it is needed at any later time.  ``_kept`` says which, and why.

With ``user`` the instance becomes another user.  Root's run directory stays root's: what the instance needs there is
open by then (control socket, log, ``instances.instance``), and so is what the firewall backend needs.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import pwd
import resource
from collections.abc import Iterator
from pathlib import Path

from rsock_firewall import FirewallError, keep_files, select
from rsock_nf.errors import InstanceError
from rsock_nf.link import system
from rsock_nf.native import library
from rsock_nf.policy import fake_tcp_ports, served_ports
from rsock_nf.settings import Settings

_NEEDED = ("CAP_NET_ADMIN", "CAP_NET_RAW")
_TO_BECOME = ("CAP_SETGID", "CAP_SETUID")
"""What it takes to be another user."""
_LATE = ("concurrent.futures.thread", "encodings.idna", "pyroute2.netlink.generic.wireguard")
"""What the tunnel and the standard library import only when they use it: for a resolver's question, for WireGuard."""
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

    Called once, by the process that becomes the instance, before it has a second thread.  Raises ``InstanceError`` when
    it cannot become the user of the settings.
    """
    _no_core_dumps()
    _load_firewall(settings)
    account = _account(settings)
    if account is not None:
        _load_program()
        try:
            system().become(account, _kept(settings))
        except OSError as error:
            raise InstanceError(f"user: cannot become {account.pw_name}: {error.strerror}") from None
    return _keep(_kept(settings), "" if account is None else f"user {account.pw_name}, ")


def refusal_of_user(settings: Settings) -> str | None:
    """One line that says why this process cannot become the user of the settings, or None when it can."""
    try:
        _account(settings)
    except InstanceError as error:
        return str(error)
    return None


@contextlib.contextmanager
def acting_as_user(settings: Settings) -> Iterator[None]:
    """Open files with the rights of the user of the settings: it could lead root astray where it may write.

    Raises ``InstanceError``.
    """
    account = _account(settings)
    if account is None:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups(os.getgrouplist(account.pw_name, account.pw_gid))
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _account(settings: Settings) -> pwd.struct_passwd | None:
    """The user to become; None = it is this one.  Raises ``InstanceError`` when that cannot be."""
    if settings.user is None:
        return None
    try:
        account = pwd.getpwnam(settings.user)
    except KeyError:
        remedy = f"make it (useradd --system {settings.user}), or leave the key out"
        raise InstanceError(f"user: this host has no user {settings.user}: {remedy}") from None
    if account.pw_uid == os.geteuid():
        return None
    lacking = [name for name in _TO_BECOME if name not in (system().effective_capabilities() or _TO_BECOME)]
    if os.geteuid() != 0 or lacking:
        who = f"{' and '.join(lacking)} (container?)" if os.geteuid() == 0 else "root"
        raise InstanceError(f"user: to become {settings.user} takes {who}: grant that, or leave the key out")
    if not system().has_capabilities and fake_tcp_ports(settings):
        raise InstanceError('user: only Linux lets another user have fake TCP: leave the key out, or "type": "udp"')
    return account


def _load_program() -> None:
    """Import what the tunnel may need: the other user may be unable to read where it is installed."""
    for room in (
        "rsock_nf.runtime",
        "rsock_nf.native",
        "rsock_nf.sockets",
        "rsock_nf.wire",
        "rsock_nf.link",
        "rsock_firewall",
    ):
        package = importlib.import_module(room)
        for found in pkgutil.walk_packages(package.__path__, f"{room}."):
            importlib.import_module(found.name)
    library.load()  # it may look at files beside it
    for late in _LATE:
        with contextlib.suppress(ImportError):  # there is no pyroute2 on BSD
            importlib.import_module(late)


def _no_core_dumps() -> None:
    """A crash writes no file with the secret in it."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _load_firewall(settings: Settings) -> None:
    """Have the kernel load what iptables needs: its library calls modprobe(8), which needs all of root's privileges.

    And open what another user cannot.
    """
    unready = settings.backend in {"auto", "iptables"} or settings.user is not None
    if unready and fake_tcp_ports(settings) and os.geteuid() == 0:
        with contextlib.suppress(FirewallError):  # the tunnel's own start tells why
            chosen = select(settings.backend)
            if settings.user is not None:
                keep_files(chosen, settings.workers if settings.workers > 1 else 0)


def _keep(names: list[str], user: str) -> str:
    try:
        left = system().keep_privileges(names)
    except OSError as error:
        return f"privileges: {user}all stay, for they cannot be given up: {error.strerror}"
    ending = "no core dumps, none gained by executing"
    return f"privileges: {user}{left}; {ending}" if left else f"privileges: {user}no core dumps"


def _kept(settings: Settings) -> list[str]:
    """The capabilities that the tunnel may need at any time from now on.

    Another user keeps none that is as good as root: it sees no VPN programs, and what it may do with Unix sockets is
    what file modes allow it.
    """
    names = []
    if fake_tcp_ports(settings) or settings.user is None:
        # Rules, routes, neighbours, marks, large buffers; packet sockets, devices.
        names += ["CAP_NET_ADMIN", "CAP_NET_RAW"]
    elif settings.fwmark:
        names.append("CAP_NET_ADMIN")
    if any(span.first < _FIRST_FREE_PORT for span in (*served_ports(settings), *settings.client_ports)) or any(
        not isinstance(local, Path) and local[1] < _FIRST_FREE_PORT for local in settings.listen
    ):
        names.append("CAP_NET_BIND_SERVICE")
    if settings.user is not None:
        return names
    if settings.device is None:
        # Which VPN runs over this tunnel is seen in /proc/PID/fd of a program of any user, when routes change.
        names += ["CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"]
    if any(isinstance(local, Path) for local in settings.listen):
        # The socket's group; answers go to sockets that only their owners may write (unix(7)).
        names += ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]
    return names
