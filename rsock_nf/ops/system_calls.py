"""System calls that an instance never makes, denied for good: the last stage after ``privileges``.

A list of what is denied, not of what is allowed: the next version of a C library or of Python may call something new,
and a tunnel must not die of it.  What is denied answers EPERM, and nobody is killed.

It takes libseccomp's Python binding (Debian: python3-seccomp), or pyseccomp, which has the same interface.  Without
either nothing is denied, and the log says so.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
from types import ModuleType
from typing import Final

DENIED: Final = (
    # of other processes
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "process_madvise"),
    # of the file system
    *("mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsmount", "fsconfig", "fspick"),
    *("mount_setattr", "swapon", "swapoff", "quotactl", "acct", "open_by_handle_at", "mknod", "mknodat"),
    # of the kernel
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "bpf", "syslog"),
    *("perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    # of keys, namespaces and clocks
    *("add_key", "keyctl", "request_key", "setns", "unshare", "settimeofday", "clock_settime", "clock_adjtime"),
    *("adjtimex", "iopl", "ioperm", "sethostname", "setdomainname", "vhangup"),
)
ABSENT: Final = "system calls: none is denied: install python3-seccomp, or pip install 'rsock-nf[seccomp]'"


def deny() -> str:
    """Deny them to this process, and to what it starts from now on.  Returns one line for the log."""
    seccomp = _binding()
    if seccomp is None:
        return ABSENT
    try:
        made = seccomp.SyscallFilter(defaction=seccomp.ALLOW)
        denied = 0
        for name in DENIED:
            with contextlib.suppress(RuntimeError, ValueError, OSError):  # this machine has no such call
                made.add_rule(seccomp.ERRNO(errno.EPERM), name)
                denied += 1
        made.load()
    except (OSError, RuntimeError) as error:  # a kernel without seccomp filters
        return f"system calls: none is denied: the kernel refuses the filter: {error}"
    return f"system calls: {denied} that a tunnel never makes are denied"


def _binding() -> ModuleType | None:
    for name in ("seccomp", "pyseccomp"):
        with contextlib.suppress(ImportError, OSError, RuntimeError):  # pyseccomp without the library libseccomp.so.2
            return importlib.import_module(name)
    return None
