"""Compile the native data path: cffi writes the module between Python and C, the host's C compiler does the rest.

``pip install`` calls ``build`` (``hatch_build.py``).  By hand: ``python -m rsock_nf.native.build``.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE / "c"
MODULE = "_hot"
FLAGS = ("-std=c11", "-O2", "-fPIC", "-fno-strict-aliasing")
HARDENING = ("-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-Wl,-z,relro,-z,now")
WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Werror")


class BuildError(Exception):
    """Why there is no native data path: one line."""


def target() -> Path:
    """Where the compiled module belongs."""
    return HERE / f"{MODULE}{sysconfig.get_config_var('EXT_SUFFIX')}"


def sources() -> list[Path]:
    """The C files, in the order of their names."""
    return sorted(SOURCES.glob("*.c"))


def build(to: Path | None = None, *, compiler: str = "", flags: Sequence[str] = (*FLAGS, *HARDENING)) -> Path:
    """Compile everything into one module, and return its path.

    Without the headers of OpenSSL it has no ciphers.  Raises ``BuildError``.
    """
    if not sys.platform.startswith("linux"):
        raise BuildError("the native data path is for Linux only")
    try:
        from cffi import FFI
    except ImportError:
        raise BuildError("cffi is not installed") from None
    to = to or target()
    ffi = FFI()
    ffi.cdef((SOURCES / "api.h").read_text(encoding="utf-8"))
    ffi.set_source(f"rsock_nf.native.{MODULE}", '#include "hot.h"')
    with tempfile.TemporaryDirectory() as directory:
        glue = Path(directory) / f"{MODULE}.c"
        ffi.emit_c_code(str(glue))
        command = [
            *shlex.split(compiler or str(sysconfig.get_config_var("CC") or "cc")),
            *flags,
            "-shared",
            f"-I{sysconfig.get_path('include')}",
            f"-I{SOURCES}",
            str(glue),
            *map(str, sources()),
            "-o",
            str(to),
        ]
        failure = _run([*command, "-lcrypto"])
        if failure:
            failure = _run([*command, "-DHOT_WITHOUT_CRYPTO"])
        if failure:
            raise BuildError(failure)
    return to


def _run(command: Sequence[str]) -> str:
    """Run the compiler; what it complains about first, "" = nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"no C compiler: {command[0]}: {error.strerror}"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
    return (lines or [f"{command[0]} ended with {done.returncode}"])[0].strip()


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{build()}\n")
    except BuildError as problem:
        sys.exit(str(problem))
