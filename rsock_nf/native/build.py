"""Compile the native data path: cffi writes the module between Python and C, the host's C compiler does the rest.

``pip install`` calls ``build`` (``hatch_build.py``).  By hand: ``python -m rsock_nf.native.build``, which does nothing
if the module is there and is made of the present files.

The module knows the fingerprint of its sources (``hot_sources``): ``library`` refuses one of other sources.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rsock_nf.native.sources import HERE, SOURCES, fingerprint

MODULE = "_hot"
SUFFIX = ".abi3.so"
"""cffi writes for the limited API (PEP 384): one module for every version of CPython."""
FLAGS = ("-std=c11", "-O2", "-fPIC", "-fno-strict-aliasing")
HARDENING = ("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-Wl,-z,relro,-z,now")
WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Werror")
"""For tests: a compiler that warns of something new must not keep the module from a user."""
WITHOUT_CIPHERS = "-DHOT_WITHOUT_CRYPTO"

_PREAMBLE = '#include "hot.h"\nstatic const char *hot_sources(void) { return HOT_SOURCES; }\n'
_DECLARED = "const char *hot_sources(void);\n"


class BuildError(Exception):
    """Why there is no native data path: one line."""


def target() -> Path:
    """Where the compiled module belongs."""
    return HERE / f"{MODULE}{SUFFIX}"


def sources() -> list[Path]:
    """The C files, in the order of their names."""
    return sorted(SOURCES.glob("*.c"))


def compiler_here() -> str:
    """The command of the C compiler: that of ``CC`` in the environment, else the one that made Python, else ``cc``."""
    if asked := os.environ.get("CC"):
        return asked
    made_python = str(sysconfig.get_config_var("CC") or "")
    return made_python if made_python and shutil.which(made_python.split(maxsplit=1)[0]) else "cc"


def is_made() -> bool:
    """The module is there, and is made of the present files.  It is not loaded."""
    made = target()
    return made.is_file() and not _others(made) and fingerprint().encode() in made.read_bytes()


def _others(made: Path) -> set[Path]:
    """Modules for one version of Python: that version would take them first."""
    return set(made.parent.glob(f"{MODULE}.*.so")) - {made}


def build(to: Path | None = None, *, compiler: str = "", flags: Sequence[str] = (*FLAGS, *HARDENING)) -> Path:
    """Compile everything into one module, and return its path.

    Without the headers of OpenSSL it has no ciphers.  ``compiler``: a command, "" = ``compiler_here``.  Raises
    ``BuildError``; then nothing has changed.
    """
    if not hasattr(select, "epoll"):
        raise BuildError("the native data path is for Linux")
    if not sources():
        raise BuildError("the C files are not here: they come with the source of rsock-nf, not with its wheel")
    to = to or target()
    with tempfile.TemporaryDirectory() as directory:
        glue, made = Path(directory) / f"{MODULE}.c", Path(directory) / to.name
        _write_glue(glue)
        command = [
            *shlex.split(compiler or compiler_here()),
            *flags,
            f'-DHOT_SOURCES="{fingerprint()}"',
            "-shared",
            f"-I{sysconfig.get_path('include')}",
            f"-I{SOURCES}",
            str(glue),
            *map(str, sources()),
            "-o",
            str(made),
        ]
        complaint = _run([*command, "-lcrypto"])
        if "openssl/" in complaint or "-lcrypto" in complaint:
            complaint = _run([*command, WITHOUT_CIPHERS])
        if complaint:
            raise BuildError(_first_error(complaint))
        _put(made, to)
    return to


def _write_glue(to: Path) -> None:
    try:
        from cffi import FFI
    except ImportError:
        raise BuildError("cffi is not installed") from None
    ffi = FFI()
    ffi.cdef((SOURCES / "api.h").read_text(encoding="utf-8") + _DECLARED)
    ffi.set_source(f"rsock_nf.native.{MODULE}", _PREAMBLE, compiler_verbose=0)
    ffi.emit_c_code(str(to))


def _put(made: Path, to: Path) -> None:
    """At once, and as a new file: a process that has loaded the old one keeps it."""
    beside = to.with_name(f"{to.name}.{os.getpid()}")
    try:
        shutil.copyfile(made, beside)
        beside.chmod(0o755)
        beside.replace(to)
        for other in _others(to):
            other.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise BuildError(f"cannot write {to}: {error.strerror}") from error


def _run(command: Sequence[str]) -> str:
    """Run the compiler; what it complains about, "" = nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    except OSError as error:
        return f"no C compiler: {command[0]}: {error.strerror}"
    if done.returncode == 0:
        return ""
    return done.stderr.strip() or f"the C compiler {command[0]} ended with status {done.returncode}"


def _first_error(complaint: str) -> str:
    lines = complaint.splitlines()
    return next((line for line in lines if "error" in line), lines[0]).strip()


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{target() if is_made() else build()}\n")
    except BuildError as problem:
        sys.exit(f"it stays with the data path in Python: {problem}")
