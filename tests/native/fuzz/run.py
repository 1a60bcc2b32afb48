"""Fuzz the native data path: ``python -m tests.native.fuzz.run --seconds 60 [--keep]``.

With clang and its libFuzzer (Debian: clang, libclang-rt-dev) inputs that reach new code are kept in mind, and with
``--keep`` as files in ``corpus/``.  Without, mutations of the corpus are tried, and nobody looks at the coverage.  An
input that fails is written there in any case, as ``crash-…``; the test suite replays all of these files.  Exit code 1
when there was one.
"""

# ruff: noqa: T201 - a command: what it found is printed

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.native.fuzz.compile import HERE, libfuzzer, replay

CORPUS = HERE / "corpus"
LONGEST = 4096
"""Bytes of an input.  ``replay.c`` has the same limit."""
ROUND = 500
"""Mutations of one call of ``replay``."""


def fuzz(seconds: float, *, keep: bool) -> int:
    """How many inputs failed."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        try:
            program = libfuzzer(directory / "fuzz")
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no libFuzzer ({str(error).splitlines()[0][:60]}…): mutations only")
            return _mutations(replay(directory / "replay"), directory, seconds)
        return _covered(program, directory, seconds, keep=keep)


def _covered(program: Path, directory: Path, seconds: float, *, keep: bool) -> int:
    found = directory / "found"
    found.mkdir()
    command = [str(program), f"-max_len={LONGEST}", f"-max_total_time={max(int(seconds), 1)}", "-timeout=600"]
    command += [f"-artifact_prefix={directory}/crash-", "-print_final_stats=1", str(found), str(CORPUS)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    crashes = list(directory.glob("crash-*"))
    for crash in crashes:
        _store(crash.read_bytes(), done.stderr)
    if done.returncode and not crashes:
        print(done.stderr, file=sys.stderr)
    attempts = re.search(r"number_of_executed_units: *(\d+)", done.stderr)
    lines = re.findall(r"cov: (\d+)", done.stderr)
    print(f"{'native':20} {attempts[1] if attempts else '?':>8} attempts {lines[-1] if lines else '?':>4} edges")
    if keep and not crashes:
        subprocess.run([program, "-merge=1", CORPUS, found], check=True, capture_output=True)
    return len(crashes) or int(done.returncode != 0)


def _mutations(program: Path, directory: Path, seconds: float) -> int:
    last = directory / "last"
    end, seed = time.monotonic() + seconds, 0
    while time.monotonic() < end or not seed:
        seed += 1
        command = [
            str(program),
            "-n",
            str(ROUND),
            "-s",
            str(seed),
            "-c",
            str(last),
            *map(str, sorted(CORPUS.iterdir())),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
        if done.returncode:
            _store(last.read_bytes() if last.exists() else b"", done.stderr)
            return 1
    print(f"{'native':20} {seed * ROUND:8} attempts")
    return 0


def _store(data: bytes, said: str) -> None:
    file = CORPUS / f"crash-{hashlib.sha256(data).hexdigest()[:16]}"
    file.write_bytes(data)
    print(said, file=sys.stderr)
    print(f"native: failed ({file})", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--keep", action="store_true", help="store inputs that reach new code")
    options = parser.parse_args(arguments)
    return 1 if fuzz(options.seconds, keep=options.keep) else 0


if __name__ == "__main__":
    sys.exit(main())
