"""Compile the fuzzer of the native data path: the C files of ``rsock_nf/native/c`` on a simulated kernel (kernel.c).

``libfuzzer`` looks at the coverage, and needs clang with its runtime.  ``replay`` needs any compiler: it runs files,
and mutations of them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from rsock_nf.native.sources import SOURCES

HERE = Path(__file__).parent
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1")
HARNESS = ("kernel.c", "world.c", "checks.c", "fuzz_hot.c")


def libfuzzer(to: Path, sources: Path = SOURCES) -> Path:
    """Raises ``OSError`` or ``CalledProcessError`` without clang, or without its libFuzzer."""
    return _compile("clang", to, sources, "-fsanitize=fuzzer")


def replay(to: Path, sources: Path = SOURCES, *, compiler: str = "gcc") -> Path:
    """Raises ``OSError`` or ``CalledProcessError``."""
    return _compile(compiler, to, sources, str(HERE / "replay.c"))


def _compile(compiler: str, to: Path, sources: Path, more: str) -> Path:
    files = [*map(str, sorted(sources.glob("*.c"))), *(str(HERE / name) for name in HARNESS)]
    flags = ["-std=c11", *SANITIZED, "-Wall", "-Wextra", "-Wshadow", "-Werror", "-D_GNU_SOURCE"]
    flags += ["-include", str(HERE / "renamed.h"), f"-I{sources}", f"-I{HERE}"]
    subprocess.run(
        [compiler, *flags, *files, more, "-lcrypto", "-o", str(to)], check=True, capture_output=True, text=True
    )
    return to
