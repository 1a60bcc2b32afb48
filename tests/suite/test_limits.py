"""A run of the suite comes to its end, whatever a test does: what hangs fails, and what was running is told."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.distribution import Distribution, units
from tests.suite.nested import ROOT, nested, run

WORKERS = ("--numprocesses", "2")
A_WORKER_DIES = """
import os

import pytest


@pytest.mark.parametrize("number", range(8))
def test_before(number):
    pass


def test_dies():
    os._exit(3)


@pytest.mark.parametrize("number", range(NUMBER))
def test_after(number):
    pass
"""
NO_EXCEPTION_HELPS = """
import signal
import threading
import time

import pytest


@pytest.mark.timeout(1)
def test_is_deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(1000)


@pytest.mark.timeout(1)
def test_waits_again_when_it_ends():
    try:
        time.sleep(1000)
    finally:
        threading.Event().wait()


def test_before():
    pass


def test_after():
    pass
"""
STANDS_STILL = """
import threading


def test_of_one_worker():
    threading.Event().wait()


def test_of_another_worker():
    threading.Event().wait()
"""
A_CHILD_HAS_THE_LOCK = """
import os
import pathlib
import signal
import time

import pytest

CHILD = pathlib.Path(__file__).with_name("child")


def test_forks():
    child = os.fork()
    if not child:
        time.sleep(20)
        os._exit(0)
    CHILD.write_text(str(child))


@pytest.mark.alone
def test_alone():
    os.kill(int(CHILD.read_text()), signal.SIGKILL)
"""
ALONE = """
import pytest


@pytest.mark.alone
def test_alone():
    pass


def test_with_others():
    pass
"""
GROUPS = """
import os
import pathlib

import pytest


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("group", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in "ab"])
def test_in_a_group(group, number):
    with pathlib.Path(__file__).with_name(group).open("a") as file:
        print(os.environ["PYTEST_XDIST_WORKER"], file=file)
"""
A_THREAD_IS_JOINED = """
import threading


def test_leaves_a_thread():
    threading.Thread(target=threading.Event().wait).start()
"""


ONE_WORKER_IS_LONG_DONE = """
import time


def test_quick():
    pass


def test_long():
    time.sleep(7)
"""


def closing(said: str) -> str:
    """Pytest's closing line, without the time."""
    lines = re.findall(r"(?m)^=+ (.*) in [\d.]+s.* =+$", said)
    assert lines, said
    return str(lines[-1])


@pytest.mark.parametrize("after", [0, 1, 20])
def test_a_worker_that_dies_costs_the_test_that_it_ran(directory: Path, after: int) -> None:
    said = run(directory, A_WORKER_DIES.replace("NUMBER", str(after)), *WORKERS)
    skipped = ", 1 skipped" if not after else ""
    assert closing(said) == f"1 failed, {8 + after} passed{skipped}"
    assert re.search(r"worker 'gw\d' crashed while running 'test_it.py::test_dies'", said), said


def test_a_test_that_no_exception_ends_costs_itself_and_shows_its_stack(directory: Path) -> None:
    said = run(directory, NO_EXCEPTION_HELPS, *WORKERS, RSOCK_NF_TESTS_LAST_LIMIT="4")
    assert closing(said) == "2 failed, 2 passed"
    for name in ("test_is_deaf", "test_waits_again_when_it_ends"):
        assert re.search(rf"(?m)^gw\d, since [\d:]+: test_it.py::{name}\nTimeout \(0:00:0[\d.]+\)!\n", said), said
        assert re.search(rf'(?m)^  File ".*/test_it.py", line \d+ in {name}$', said), said
    assert not list((directory / "out/stacks").iterdir())


def test_without_workers_the_run_ends_and_its_stack_stays(directory: Path) -> None:
    run(directory, NO_EXCEPTION_HELPS, RSOCK_NF_TESTS_LAST_LIMIT="2")
    (left,) = (directory / "out/stacks").iterdir()
    assert re.match(r"main, since [\d:]+: test_it.py::test_is_deaf\nTimeout", left.read_text())


def test_a_child_that_a_test_forked_keeps_no_lock(directory: Path) -> None:
    said = run(directory, A_CHILD_HAS_THE_LOCK, "--numprocesses", "1", RSOCK_NF_TESTS_LOCK_LIMIT="5")
    assert closing(said) == "2 passed"


def test_who_has_the_lock_is_told_when_it_is_not_given_up(directory: Path) -> None:
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        said = run(directory, ALONE, *WORKERS, RSOCK_NF_TESTS_LOCK_LIMIT="2")
    finally:
        os.close(lock)
    assert closing(said) == "1 passed, 1 error"
    assert "Timeout (>2 s) in the wait for other workers" in said
    assert f"a lock of {directory} (read) was given to process {os.getpid()}: " in said
    assert f"{directory} is open in process {os.getpid()}: " in said


def test_one_worker_has_all_tests_of_a_group(directory: Path) -> None:
    said = run(directory, GROUPS, *WORKERS)
    assert closing(said) == "24 passed"
    for group in "ab":
        workers = (directory / group).read_text().split()
        assert (len(workers), len(set(workers))) == (12, 1)


@pytest.mark.parametrize("options", [(), WORKERS], ids=["one", "workers"])
def test_a_thread_that_never_ends_does_not_keep_the_process(directory: Path, options: tuple[str, ...]) -> None:
    said = run(directory, A_THREAD_IS_JOINED, *options, RSOCK_NF_TESTS_FIXTURES_LIMIT="14")
    assert closing(said) == "1 passed"
    (left,) = (directory / "out/stacks").iterdir()
    # A worker that does not end is killed by the controller, after ten seconds.
    told = r"gw\d, since [\d:]+: the end\n" if options else r"main, since [\d:]+: the end\nTimeout(.*\n)+.* in wait\n"
    assert re.match(told, left.read_text())


def test_a_worker_that_waits_for_another_to_finish_does_not_stand_still(directory: Path) -> None:
    said = run(directory, ONE_WORKER_IS_LONG_DONE, *WORKERS, RSOCK_NF_TESTS_FIXTURES_LIMIT="4")
    assert closing(said) == "2 passed"
    assert not list((directory / "out/stacks").iterdir())


# -- .ci/limited


def limited(directory: Path, seconds: int, *argv: str) -> tuple[int, str]:
    told = os.environ | {"RSOCK_NF_TESTS_OUT": str(directory / "out")}
    said = subprocess.run(
        [str(ROOT / ".ci/limited"), str(seconds), *argv],
        env=told,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return said.returncode, said.stdout + said.stderr


def test_a_run_that_stands_still_is_ended_and_shows_its_stacks(directory: Path) -> None:
    argv, told = nested(directory, STANDS_STILL, *WORKERS)
    command = ["env", *(f"{name}={value}" for name, value in told.items()), *argv]
    status, said = limited(directory, 15, *command)
    assert status == 124
    assert "after 15 s this still runs: env " in said
    for name in ("test_of_one_worker", "test_of_another_worker"):
        assert re.search(
            rf'(?m)^gw\d, since [\d:]+: test_it.py::{name}\n(.*\n)*?.*test_it.py", line \d+ in {name}$', said
        ), said
    assert re.search(r"(?m)^main, since [\d:]+: starts\n(.*\n)*.* in loop_once$", said), said


def test_a_run_in_time_has_its_own_status(directory: Path) -> None:
    assert limited(directory, 20, sys.executable, "-c", "print('said'); raise SystemExit(3)") == (3, "said\n")
    assert limited(directory, 20, "true") == (0, "")


# -- what goes to which worker


class FakeWorker:
    """Does what it is told when the test says so."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        assert indices, "a worker that gets nothing to do says nothing, and gets nothing again"
        self.told += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    @property
    def can_go_on(self) -> bool:
        """A worker starts a test when it knows the next one, or that there is none."""
        return len(self.told) > 1 or (self.shutting_down and bool(self.told))


def distribution(directory: Path, tests: list[str], workers: int) -> tuple[Distribution, list[FakeWorker]]:
    (directory / "groups").write_text("{}")
    made = Distribution(workers, directory / "groups")
    nodes = [FakeWorker() for _ in range(workers)]
    for node in nodes:
        made.add_node(node)
        made.add_node_collection(node, tests)
    assert made.collection_is_completed
    made.schedule()
    return made, nodes


def test_units_are_groups_and_single_tests_in_the_order_of_collection() -> None:
    assert units(["a", "b", "c", "d"], {"b": "x", "d": "x"}) == [[0], [1, 3], [2]]


@pytest.mark.parametrize("dies_after", range(21))
def test_whenever_a_worker_dies_each_other_test_runs_once(directory: Path, dies_after: int) -> None:
    tests = [f"t{number}" for number in range(20)]
    work, nodes = distribution(directory, tests, 2)
    ran: list[int] = []
    died: list[str | None] = []
    while nodes:
        node = next((node for node in nodes if node.can_go_on), None)
        if node is None:  # nobody has anything: they end in order
            assert work.tests_finished
            for each in nodes:
                each.shutdown()
            if not any(each.can_go_on for each in nodes):
                for each in nodes:
                    assert work.remove_node(each) is None
                break
            continue
        if len(ran) == dies_after and not died:
            died.append(work.remove_node(node))
            nodes.remove(node)
            replaced = FakeWorker()
            work.add_node(replaced)
            work.add_node_collection(replaced, tests)
            work.schedule()
            nodes.append(replaced)
            continue
        ran.append(node.told.pop(0))
        work.mark_test_complete(node, ran[-1])
    assert sorted([*(tests[number] for number in ran), *(test for test in died if test)]) == sorted(tests)
    assert len(died) == (1 if dies_after < 20 else 0)
    assert not work.has_pending
