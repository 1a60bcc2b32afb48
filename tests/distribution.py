"""Which worker of pytest-xdist runs which tests.

Each unit of work goes to one worker.  A unit is one test, or all tests of one ``xdist_group``.  Units are given out in
the order of collection.  A worker that dies loses the test that it ran, which counts as failed.  What else it was given
goes to others.

pytest-xdist 3.8 has ``--dist loadgroup`` for this, but:

* with pytest 9.2 it does not see the groups (pytest-xdist issue 1386);
* when a worker has died, it gives out again what that worker had already finished.  Another worker then waits for work
  for ever, and the run with it, near its end (issues 1323, 1327, 1378);
* it runs the test on which a worker died again, until it has no more workers to lose (pull request 1371).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

AHEAD = 1
"""A worker that has no more than so many tests left gets its next unit.  It starts a test only when it knows the one
after it."""
_GROUPS = "rsock_nf_groups"
"""In what the controller tells a worker: the file for the groups."""


class Worker(Protocol):
    """What is used of pytest-xdist's ``WorkerController``."""

    @property
    def shutting_down(self) -> bool: ...

    def send_runtest_some(self, indices: Sequence[int]) -> None: ...

    def shutdown(self) -> None: ...


class Distribution:
    """See the module.  It has the methods of ``xdist.scheduler.Scheduling``; tests are numbers of the collection."""

    def __init__(self, workers: int, groups: Path) -> None:
        self._workers = workers
        self._file = groups
        self._collections: dict[Worker, list[str]] = {}
        self._tests: list[str] | None = None
        self._units: deque[list[int]] = deque()
        self._given: dict[Worker, deque[int]] = {}

    @property
    def nodes(self) -> list[Worker]:
        return list(self._given)

    @property
    def collection_is_completed(self) -> bool:
        return self._tests is not None or len(self._collections) >= self._workers

    @property
    def tests_finished(self) -> bool:
        """The last test of each worker needs the end of its work to start."""
        return self._tests is not None and not self._units and all(len(left) < 2 for left in self._given.values())

    @property
    def has_pending(self) -> bool:
        return bool(self._units) or any(self._given.values())

    def add_node(self, node: Worker) -> None:
        self._given[node] = deque()

    def add_node_collection(self, node: Worker, collection: Iterable[str]) -> None:
        self._collections[node] = list(collection)

    def schedule(self) -> None:
        """Give out work for the first time, or to a worker that came in place of another."""
        if self._tests is None:
            self._tests = next(iter(self._collections.values()))
            self._units.extend(units(self._tests, json.loads(self._file.read_text())))
        for ahead in range(AHEAD + 1):  # one to each, then the next one to each
            for node in self.nodes:
                self._feed(node, ahead)

    def mark_test_complete(self, node: Worker, item_index: int, duration: float = 0) -> None:  # noqa: ARG002
        self._given[node].remove(item_index)
        self._feed(node)

    def mark_test_pending(self, item: str) -> None:
        raise NotImplementedError

    def remove_pending_tests_from_node(self, node: Worker, indices: Sequence[int]) -> None:
        raise NotImplementedError

    def remove_node(self, node: Worker) -> str | None:
        """The worker is gone.  The test on which it died; None = it had done all that it was given."""
        left = self._given.pop(node)
        self._collections.pop(node, None)
        if not left:
            return None
        assert self._tests is not None
        died = self._tests[left.popleft()]
        if left:
            self._units.appendleft(list(left))
        for other in self.nodes:
            self._feed(other)
        return died

    def _feed(self, node: Worker, ahead: int = AHEAD) -> None:
        """Let the worker have more than ``ahead`` tests to do, or tell it that nothing comes any more."""
        if node.shutting_down or node not in self._collections:
            return
        if self._collections[node] != self._tests:
            differ = sorted(set(self._collections[node]) ^ set(self._tests or ()))
            raise RuntimeError(
                f"the workers of pytest-xdist have not collected the same tests: {differ[:5] or 'order'}"
            )
        while self._units and len(self._given[node]) <= ahead:
            unit = self._units.popleft()
            self._given[node].extend(unit)
            node.send_runtest_some(unit)
        if not self._units:
            node.shutdown()


def units(tests: Sequence[str], groups: Mapping[str, str]) -> list[list[int]]:
    """The numbers of the tests of each unit.  ``groups`` has a name for each test that is in a group."""
    found: dict[tuple[str, str], list[int]] = {}
    for number, test in enumerate(tests):
        found.setdefault(("group", groups[test]) if test in groups else ("test", test), []).append(number)
    return list(found.values())


class Distributed:
    """The plugin, in the controller and in each worker.  The groups go from worker to controller in a file."""

    def __init__(self, config: pytest.Config) -> None:
        told: dict[str, Any] | None = getattr(config, "workerinput", None)
        if told is not None:
            self._file = Path(told[_GROUPS])
            return
        directory = tempfile.TemporaryDirectory(prefix="rsock-nf-tests-groups-")
        config.add_cleanup(directory.cleanup)
        self._file = Path(directory.name, "groups.json")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[_GROUPS] = str(self._file)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> Distribution | None:
        if config.getoption("dist") not in ("load", "loadgroup"):
            return None
        return Distribution(len(config.getoption("tx")), self._file)

    @pytest.hookimpl(tryfirst=True)  # before pytest-xdist tells the controller that all is collected
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if "PYTEST_XDIST_WORKER" in os.environ:
            groups = {item.nodeid: group for item in session.items if (group := _group(item)) is not None}
            own = self._file.with_name(f"{os.getpid()}.json")
            own.write_text(json.dumps(groups))
            own.replace(self._file)  # all workers write the same; whoever reads finds all of it


def _group(item: pytest.Item) -> str | None:
    names = {str(mark.args[0]) for mark in item.iter_markers("xdist_group")}
    if "alone" in names:
        return "alone"
    return "_".join(sorted(names)) or None
