"""Fuzz for a given processor time: ``python -m tests.fuzz.run --seconds 60 [--target NAME] [--seed N] [--keep]``.

An input that reaches a line of ``rsock_nf`` which none before reached joins the corpus, in memory, and with ``--keep``
as a file in ``corpus/<target>/``.  Of a target that takes long, only some attempts are looked at so.  An input that
makes anything but a value or ``Malformed`` is written there in any case, as ``crash-…``; the test suite replays these
files for ever.  Exit code 1 when there was one.
"""

# ruff: noqa: T201 - a command: what it found is printed

import argparse
import hashlib
import random
import sys
import time
import traceback
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import rsock_nf
from rsock_nf.core.types import Malformed
from tests.fuzz.limit import TooLongError, at_most
from tests.fuzz.mutate import mutated
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
SOURCE = str(Path(rsock_nf.__file__).parent)


def corpus_files(name: str) -> list[Path]:
    """What is stored for target ``name``, crashes included."""
    return sorted((CORPUS / name).glob("*"))


def starting_corpus(name: str) -> list[bytes]:
    return TARGETS[name].seeds() + [file.read_bytes() for file in corpus_files(name)]


def attempt(target: Target, data: bytes) -> bool:
    """Whether ``target`` takes ``data``; anything but ``Malformed`` goes through.

    Raises:
        TooLongError: The attempt took more processor time than it may.
    """
    try:
        with at_most(target.limit):
            target.run(data)
    except Malformed:
        return False
    return True


class Coverage:
    """Lines of ``rsock_nf`` that an attempt reached for the first time."""

    def __init__(self) -> None:
        self.seen = 0
        self._left: dict[CodeType, set[int]] = {}
        """Of each function that was called, the lines that nothing has reached.  Without any, it is not traced."""
        self._new = False

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        code = frame.f_code
        left = self._left.get(code)
        if left is None:
            ours = code.co_filename.startswith(SOURCE)
            left = self._left[code] = {line for _, _, line in code.co_lines() if line} if ours else set()
        if not left:
            return None
        if event == "line" and frame.f_lineno in left:
            left.discard(frame.f_lineno)
            self.seen += 1
            self._new = True
        return self._trace

    def reached_new(self, target: Target, data: bytes) -> bool:
        """Attempt, and tell whether that reached anything new."""
        self._new = False
        sys.settrace(self._trace)
        try:
            attempt(target, data)
        finally:
            sys.settrace(None)
        return self._new


def keep(name: str, data: bytes, prefix: str = "") -> Path:
    file = CORPUS / name / (prefix + hashlib.sha256(data).hexdigest()[:16])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def crash_of(error: BaseException, target: Target) -> str:
    """What went wrong, and where.  One crash is stored for each."""
    if isinstance(error, TooLongError):
        return f"more than {target.limit:g} s of processor time"
    return f"{type(error).__name__} at line {traceback.extract_tb(error.__traceback__)[-1].lineno}"


def fuzz(name: str, seconds: float, seed: int, *, store: bool) -> tuple[int, int, int]:
    """Fuzz one target: (attempts, lines reached, crashes)."""
    target, rng, coverage = TARGETS[name], random.Random(f"{name} {seed}"), Coverage()
    corpus = starting_corpus(name)
    waiting = list(corpus)
    attempts, crashes = 0, set[str]()
    end = time.process_time() + seconds
    while waiting or time.process_time() < end:
        known = bool(waiting)
        data = waiting.pop() if waiting else mutated(rng, corpus)
        attempts += 1
        try:
            if not known and attempts % (1 + target.cost // 10):  # tracing makes it five times as slow
                attempt(target, data)
                continue
            new = coverage.reached_new(target, data)
        except (Exception, TooLongError) as error:  # noqa: BLE001 - finding these is the purpose
            where = crash_of(error, target)
            if where not in crashes:
                crashes.add(where)
                print(f"{name}: {where}: {error} ({keep(name, data, 'crash-')})", file=sys.stderr)
            continue
        if new and not known:
            corpus.append(data)
            if store:
                keep(name, data)
    return attempts, coverage.seen, len(crashes)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of processor time, for all targets together")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="store inputs that reach new lines")
    options = parser.parse_args(arguments)
    names = options.target or list(TARGETS)
    second = options.seconds / sum(TARGETS[name].share for name in names)
    total = 0
    for name in names:
        attempts, lines, crashes = fuzz(name, second * TARGETS[name].share, options.seed, store=options.keep)
        total += crashes
        print(f"{name:20} {attempts:8} attempts {lines:4} lines {crashes} crashes", flush=True)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
