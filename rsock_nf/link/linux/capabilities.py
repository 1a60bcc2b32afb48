"""What a process may do, made less: capabilities(7), prctl(2).

All calls are about the calling thread: they belong before any other thread is started.  They are made in the order
in which they stand here, which is that of ``System.become`` and then ``System.keep_privileges``.
Numbers: include/uapi/linux/capability.h, include/uapi/linux/prctl.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Collection
from pathlib import Path
from pwd import struct_passwd
from typing import Final

NUMBERS: Final = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
}
"""Those that a tunnel may want."""
_SETPCAP = 8
_LAST = Path("/proc/sys/kernel/cap_last_cap")
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 8, 24, 38
_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def capability_sets() -> dict[str, int]:
    """The sets of this thread as bits, by their names in proc_pid_status(5): ``CapEff`` …; empty without /proc."""
    try:
        lines = Path("/proc/thread-self/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: int(value, 16) for name, _, value in (line.partition(":") for line in lines) if name[:3] == "Cap"}


def named(bits: int) -> list[str]:
    """The names of ``NUMBERS`` whose bits are set."""
    return [name for name, number in NUMBERS.items() if bits >> number & 1]


def bound(names: Collection[str]) -> None:
    """No program that this process executes gets any but those of ``NUMBERS`` that are named.  Raises ``OSError``."""
    kept = sum(1 << NUMBERS[name] for name in names)
    if capability_sets().get("CapEff", 0) >> _SETPCAP & 1:  # else the set stays: with no_new_privs it gives nothing
        for number in range(int(_LAST.read_text()) + 1):
            if not kept >> number & 1:
                _prctl(_PR_CAPBSET_DROP, number)


def become(account: struct_passwd) -> None:
    """Be this user, in its groups.  What is permitted stays so, but has no effect any more.  Raises ``OSError``."""
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups(groups)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    _prctl(_PR_SET_KEEPCAPS, 0)


def keep_only(names: Collection[str]) -> None:
    """Give up every capability but those of ``NUMBERS`` that are named, and have these if they are permitted.

    Raises ``OSError``.
    """
    kept = sum(1 << NUMBERS[name] for name in names)
    have = capability_sets()
    if not have:
        return
    permitted, inheritable = have["CapPrm"] & kept, have["CapInh"] & kept
    sets = (permitted, permitted, inheritable)  # those with effect come first
    low, high = [each & 0xFFFFFFFF for each in sets], [each >> 32 for each in sets]
    header, data = struct.pack("=Ii", _VERSION_3, 0), struct.pack("=6I", *low, *high)
    if _libc.capset(header, data):
        raise _error("capset")


def forbid_new_privileges() -> None:
    """Nothing that this process executes gains any by it.  Raises ``OSError``."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def hide_memory() -> None:
    """No core dump, and only who may trace every process may look into this one.  Raises ``OSError``."""
    _prctl(_PR_SET_DUMPABLE, 0)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3):
        raise _error("prctl")


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
