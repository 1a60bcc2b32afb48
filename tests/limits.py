"""What takes too long: nothing in a run of the suite waits for ever.

===========================  =====================================================================================
a test itself                pytest-timeout (``timeout`` in pyproject.toml).  It ends the test with an exception.
its set-up, its tear-down    ``FIXTURES_LIMIT``.  An exception too: what is torn down next has the whole time.
the wait for other workers   ``LOCK_LIMIT``, before a test that is marked ``alone``.  The test fails, and tells who
                             holds the lock.
all of it together           ``LAST_LIMIT``.  An exception does not end a test that is blocked in C, or that waits
                             without a limit while it cleans up.  So the worker writes the stacks of its threads, and
                             ends.  The test has failed; another worker goes on with what is left.
the end of the process       ``FIXTURES_LIMIT``, for threads that are joined and for what ``atexit`` calls.
the whole run                ``.ci/limited``.  It asks all workers for their stacks, and ends the run.
===========================  =====================================================================================

pytest-timeout limits the test itself only (``timeout_func_only``): its alarm must not go off between set-up, call and
tear-down, where pytest would take it for an error of its own and end the run.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.stacks import MAIN, Stacks, of_worker

FIXTURES_LIMIT = int(os.environ.get("RSOCK_NF_TESTS_FIXTURES_LIMIT", "150"))
"""Seconds for a test's set-up, and for its tear-down.  A tunnel is up within three on an idle machine."""
LOCK_LIMIT = int(os.environ.get("RSOCK_NF_TESTS_LOCK_LIMIT", "1800"))
"""Seconds until the other workers have finished theirs, which may be many tests that share fixtures."""
LAST_LIMIT = int(os.environ.get("RSOCK_NF_TESTS_LAST_LIMIT", "750"))
"""Seconds for set-up, call and tear-down together, beyond the time limit of the test itself."""


class Limits:
    """The plugin, in the controller and in each worker."""

    def __init__(self, config: pytest.Config) -> None:
        told: dict[str, Any] = getattr(config, "workerinput", {})
        self._is_worker = bool(told)
        self._stacks = Stacks(told.get("testrunuid", "run"), told.get("workerid", MAIN))
        self._stacks.note("starts")
        self._lock = config.rootpath
        """Of one run's workers; a run that a test starts has another."""
        self._refused = ""
        """Why the next test is not run; "" = it is."""
        self._until = 0.0
        atexit.register(self._stacks.remove)  # of all such calls one of the last: they come in reverse order

    # -- set-up, call and tear-down together

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        with contextlib.ExitStack() as stack:
            if self._is_worker:
                self._stacks.note(f"waits for other workers, before {item.nodeid}")
                stack.enter_context(self._place_to_run(alone=item.get_closest_marker("alone") is not None))
            self._stacks.note(item.nodeid)
            self._until = time.monotonic() + LAST_LIMIT + _own_limit(item)
            stack.callback(self._between_tests)
            self._arm()
            return (yield)

    def _arm(self) -> None:
        self._stacks.end_after(max(1.0, self._until - time.monotonic()))

    def _between_tests(self) -> None:
        self._stacks.call_off()
        self._stacks.note("between tests")

    @contextlib.contextmanager
    def _place_to_run(self, *, alone: bool) -> Iterator[None]:
        """Hold the lock that all workers use: exclusively, or together with others."""
        lock = os.open(self._lock, os.O_RDONLY)
        try:
            try:
                with _limited(LOCK_LIMIT, "the wait for other workers"):
                    fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            except pytest.fail.Exception as error:  # not here: pytest would take it for an error of its own
                self._refused = "\n".join([str(error), *who_holds(self._lock)])
            yield
        finally:
            self._refused = ""
            # To close it is not enough: a child process without exec(2) has the same lock, and keeps it.
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)

    # -- fixtures

    @pytest.hookimpl(wrapper=True, trylast=True)  # the others have begun: the tear-down needs that
    def pytest_runtest_setup(self) -> Generator[None, object, object]:
        if self._refused:
            pytest.fail(self._refused, pytrace=False)
        with _limited(FIXTURES_LIMIT, "the set-up of fixtures"):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        self._arm()  # pytest's own plugin calls it off when a test fails
        with _limited(FIXTURES_LIMIT, "the tear-down of fixtures"):
            return (yield)

    # -- the process: from the last test until it has ended

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        self._stacks.note("the end")
        self._stacks.end_after(FIXTURES_LIMIT)
        try:
            return (yield)
        finally:
            self._stacks.call_off()

    def pytest_unconfigure(self) -> None:
        threading.Thread(target=self._limit_exit, daemon=True).start()

    def _limit_exit(self) -> None:
        """A worker that has nothing to do any more waits for the others.  It exits when the controller lets it."""
        threading.main_thread().join()  # returns before the interpreter joins other threads
        self._stacks.end_after(FIXTURES_LIMIT)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, report: Any) -> None:
        """In the controller: a worker has ended in the midst of a test."""
        told = report.node.workerinput
        report.longrepr += "\n" + of_worker(told["testrunuid"], told["workerid"])


def _own_limit(item: pytest.Item) -> float:
    """Seconds that pytest-timeout gives the test."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0] if marker and marker.args else item.config.getini("timeout") or 0)


@contextlib.contextmanager
def _limited(seconds: int, what: str) -> Iterator[None]:
    """Fail what takes too long; of several fixtures that are torn down each has the whole time."""

    def fail(_number: int, _frame: FrameType | None) -> None:
        signal.alarm(seconds)
        pytest.fail(f"Timeout (>{seconds} s) in {what}")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def who_holds(path: Path) -> list[str]:
    """A line for each lock of ``path`` that flock(2) has given, and one for each process that has it open."""
    said = []
    inode = str(path.stat().st_ino)
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            kind, _, mode, process, where = (line.replace("-> ", "").split() + [""] * 6)[1:6]
            if kind == "FLOCK" and where.rpartition(":")[2] == inode and "->" not in line:
                said.append(f"a lock of {path} ({mode.lower()}) was given to {_process(process)}")
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if descriptor.readlink() == path:
                said.append(f"{path} is open in {_process(descriptor.parts[2])}")
    return said


def _process(number: str) -> str:
    try:
        words = Path("/proc", number, "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
    except OSError:
        words = "has ended; a child of it may hold the lock"
    return f"process {number}: {words}"
