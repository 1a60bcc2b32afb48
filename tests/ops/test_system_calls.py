"""The system calls that an instance denies itself; each test loads the filter in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from rsock_nf.ops import system_calls

DENIED = """
import ctypes, errno, os, pathlib, socket
from rsock_nf.ops.system_calls import deny
print(deny())
libc = ctypes.CDLL(None, use_errno=True)
for name, *arguments in (("ptrace", 16, 1, 0, 0), ("unshare", 0x40000000), ("mount", 0, 0, 0, 0, 0), ("reboot", 0)):
    assert getattr(libc, name)(*arguments) == -1, name
    assert ctypes.get_errno() == errno.EPERM, (name, ctypes.get_errno())
status = pathlib.Path("/proc/self/status").read_text()
print(status[status.index("Seccomp:"):].split()[1])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.bind(("127.0.0.1", 0))
print(os.waitstatus_to_exitcode(os.system("true")))
"""


def run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_a_tunnel_never_calls_is_denied_and_the_rest_works() -> None:
    said, mode, child = run(DENIED)
    number = int(said.removeprefix("system calls: ").split()[0])
    assert number >= len(system_calls.DENIED) - 3, "a few calls exist only on some machines"
    assert mode == "2"  # SECCOMP_MODE_FILTER (proc(5))
    assert child == "0"


def test_without_a_binding_the_log_says_how_to_get_one() -> None:
    code = "import sys; sys.modules.update(seccomp=None, pyseccomp=None)\n"
    assert run(code + "from rsock_nf.ops.system_calls import deny; print(deny())") == [system_calls.ABSENT]
